"""The tuning of a trial, before any of its own cells is trained: every arm at every point of the grid, on seeds that no
verdict rests on, and what each arm did best with, in `tuned.json`. It is chosen once: what depends on it stands.
"""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from tokentrial.corpus.prepare import CorpusPlan
from tokentrial.errors import TrialError
from tokentrial.report.outcomes import METRICS, after_pretraining, tuning_outcome
from tokentrial.report.results import CellResults, SharedItems, mean_of, read_evaluation, shared_items
from tokentrial.report.tuning import best
from tokentrial.run.declaration import changes, declare, manifests, why_broken
from tokentrial.run.run_folder import evaluated
from tokentrial.run.standing import standing
from tokentrial.steps.stage import stage_names
from tokentrial.store.files import sealed, write_json
from tokentrial.store.folders import lock
from tokentrial.store.storage import Storage
from tokentrial.store.tuned import TUNED, read_tuned
from tokentrial.trial.declaration import differences
from tokentrial.trial.sweep import Variant, settings_text, to_run
from tokentrial.trial.trial import Trial
from tokentrial.trial.tuning import Point, Tuned, Tuning

_ADVICE = "give output=OTHER_FOLDER, or --overwrite: new results are then exploratory"


def tune(trial: Trial, tuning: Tuning, run_one: Callable[..., object], overwrite: bool) -> None:
    """Bring a trial's tuning up to date, with `run_one` of `run/run.py`, and write down what it chose. Raises
    TrialError where something else was chosen before, unless `overwrite`."""
    _refuse_another(trial, tuning, overwrite)
    run_one(trial, ("corpus",), (), (), overwrite)
    _refuse_another(trial, tuning, overwrite)  # than what came from the storage
    if (before := read_tuned(trial)) is None:  # declared before anything of it can be seen
        with lock(trial.folder):
            storage = Storage(trial)
            declare(trial, stage_names(trial) if why_broken(trial) else (), storage)
            storage.state.send()
    points, earlier = to_run(trial), [trial]
    for number, point in enumerate(points, 1):
        print(f"tune {number} of {len(points)}: {point.name}", file=sys.stderr)
        run_one(point.trial, ("corpus", *stage_names(point.trial)), None, earlier, overwrite)
        earlier.append(point.trial)
    tuned = _tuned(trial, tuning, points)
    kept = before.chosen if before and not overwrite else {}
    for arm, values in kept.items():
        best_values = tuned.chosen.get(arm, values)
        if best_values != values or (before and arm in trial.arms and _figures(before, arm) != _figures(tuned, arm)):
            raise TrialError(
                f"{trial.folder / TUNED}: {settings_text(values)} for {arm}, and by the cells of the tuning "
                f"{settings_text(best_values)}; put back the file, or the cells, or {_ADVICE}"
            )
    if tuned.chosen.keys() - kept.keys():
        with lock(trial.folder):
            write_json(trial.folder / TUNED, sealed(tuned.model_dump(mode="json")))
            Storage(trial).state.send()


def _refuse_another(trial: Trial, tuning: Tuning, overwrite: bool) -> None:
    """Refuse another tuning than that by which the arms' values were chosen, or after the cells of the verdict one that
    was not declared before them."""
    path, before = trial.folder / TUNED, read_tuned(trial)
    if overwrite:
        return
    if before is None:
        if manifests(trial.folder) and any(name.split(".")[0] == "tune" for name, _ in changes(trial)):
            raise TrialError(f"{trial.folder}: its cells were trained without this tuning; {_ADVICE}")
        return
    was = before.tune.model_dump() | {"outcome": before.outcome}
    for name, change in differences(was, tuning.model_dump() | {"outcome": tuning_outcome(trial)}):
        raise TrialError(f"{path}: the arms are tuned, but tune.{name} is now {change}; {_ADVICE}")


def _tuned(trial: Trial, tuning: Tuning, points: Sequence[Variant]) -> Tuned:
    """What the finished cells of a tuning come to."""
    by, primary = tuning_outcome(trial), after_pretraining(trial.verdict.primary)
    folders = [
        {cell: stages["pretrain"] for cell, stages in evaluated(CorpusPlan(point.trial)).items()} for point in points
    ]
    declared = standing(trial).declared.arms  # an arm that is added later changes no figure of theirs
    shared = shared_items([f for of_point in folders for (arm, _), f in of_point.items() if arm in declared])
    tried = []
    for point, of_point in zip(points, folders, strict=True):
        values = {cell: _values(folder, shared) for cell, folder in of_point.items()}
        if lacking := next((folder for cell, folder in of_point.items() if by not in values[cell]), None):
            raise TrialError(f"tune.outcome: {by} is not measured in {lacking}; give another")
        by_outcome = {
            name: {arm: [values[arm, seed][name] for seed in tuning.seeds] for arm in trial.arms}
            for name in dict.fromkeys((by, primary.outcome))
            if all(name in of_cell for of_cell in values.values())
        }
        tried.append(Point.model_validate({"settings": point.settings, "by_outcome": by_outcome}))
    own = {name: getattr(trial.pretrain, name.removeprefix("pretrain.")) for name in tuning.grid}
    higher = METRICS[by.rsplit("/", 1)[1]].higher_is_better
    chosen = {}
    for arm in trial.arms:
        means = [mean_of(point.by_outcome[by][arm]) for point in tried]
        place = [point.settings for point in tried].index(own)
        chosen[arm] = tried[best(means, place, higher)].settings
    return Tuned(tune=tuning, own=own, outcome=by, primary=primary, points=tried, chosen=chosen)


def _figures(tuned: Tuned, arm: str) -> list[dict[str, list[float]]]:
    """What an arm came to at each point."""
    return [{name: by_arm[arm] for name, by_arm in point.by_outcome.items() if arm in by_arm} for point in tuned.points]


def _values(folder: Path, shared: SharedItems) -> dict[str, float]:
    results = CellResults()
    read_evaluation(results, "pretrain", folder, shared, None)
    return results.values
