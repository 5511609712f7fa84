"""The part of a run that fits a budget of minutes, settled before the first cell begins."""

import sys
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

from tokentrial.corpus.prepare import CorpusPlan
from tokentrial.errors import SettingsError
from tokentrial.plan.budget import Part, affordable, in_order, shares
from tokentrial.plan.work import expected_seconds
from tokentrial.run.run_folder import seconds
from tokentrial.steps.cell import Cell, cells
from tokentrial.trial.trial import Trial


def affordable_cells(
    trial: Trial, wanted: Collection[str] | None, seconds_left: float, workers: Callable[[Trial, int], int]
) -> dict[Path, list[Cell]]:
    """The cells whose wanted stages fit into so many seconds, whole seeds of all arms, by the run folder of the trial
    or variant. Corpora are made already. The estimate is the plan's, corrected by what finished cells took; it is
    printed, with what is run and what is left. Raises SettingsError where not even the first seed fits."""
    family = in_order(trial)
    planned = {of.folder: expected_seconds(of, {}) for _, of in family}
    known: dict[Path, dict[str, float]] = {}
    for _, of in family:
        took = {stage: by_cell.values() for stage, by_cell in seconds(of).items() if stage != "corpus"}
        if took:
            known[of.folder] = expected_seconds(of, took)
    # of what has not been run anywhere: as much longer than planned as what has
    pace = sum(map(_total, known.values())) / sum(_total(planned[folder]) for folder in known) if known else 1.0
    parts = []
    for name, of in family:
        expected = known.get(of.folder) or {stage: pace * took for stage, took in planned[of.folder].items()}
        parts.append(Part(name, _costs(of, wanted, expected), workers(of, len(cells(of)))))
    least = next((cost for part in parts for seed in part.seeds if (cost := part.cost([seed]))), 0.0)
    if least > seconds_left:
        raise SettingsError(
            f"--budget-minutes: {seconds_left / 60:.3g} minutes are left, and the first pending seed takes some "
            f"{least / 60:.3g} in all arms; give more"
        )
    found, spent = affordable(parts, seconds_left)
    source = "by what finished cells took" if known else "as planned for this machine"
    print(f"budget: {spent / 60:.3g} of {seconds_left / 60:.3g} minutes, {source}", file=sys.stderr)
    for part, bought, left in shares(parts, found):
        words = [f"seeds {seeds} {when}" for seeds, when in ((bought, "now"), (left, "later")) if seeds]
        print(f"  {part}: {', '.join(words) or 'done'}", file=sys.stderr)
    return {
        of.folder: [Cell(arm, seed) for seed in seeds for arm in of.arms]
        for (_, of), seeds in zip(family, found, strict=True)
    }


def _costs(trial: Trial, wanted: Collection[str] | None, expected: Mapping[str, float]) -> dict[int, list[float]]:
    """Expected seconds of each seed's pending cells, arm by arm."""
    corpus = CorpusPlan(trial)

    def cost(cell: Cell) -> float:
        return sum(expected[stage] for stage in cell.pending(corpus) if wanted is None or stage in wanted)

    return {seed: [cost(Cell(arm, seed)) for arm in trial.arms] for seed in trial.seeds}


def _total(expected: Mapping[str, float]) -> float:
    return sum(expected.values())
