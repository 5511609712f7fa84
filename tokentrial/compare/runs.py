"""Our run folders: OUT with its arms over seeds, OUT/ARM, single cells OUT/ARM/seedK[/eval_STAGE], and OUT's report."""

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from pydantic import Field

from tokentrial.compare.files import ExternalRecord, file_error, validate
from tokentrial.compare.system import ItemResults, ModelResults, System
from tokentrial.report.formats import one_line
from tokentrial.report.results import CellResults, SharedItems, read_evaluation, rows_by_subset, shared_items
from tokentrial.store.files import PARTIAL
from tokentrial.store.rows import read_json_file, read_rows
from tokentrial.trial.load import load
from tokentrial.trial.trial import Trial
from tokentrial.trial.yaml_text import read_yaml

_STAGES = ("pretrain", "sft", "grpo")  # a cell's evaluations, in this order, then those of a trial's own stages
_LARGEST = 1e9  # no accuracy, log-probability or bits per byte comes near it
_SEED = re.compile(r"seed([0-9]{1,10})")

# one arm of a run, or one cell of it, whose models are not read yet: seed, stage, folder; one stage alone is called ""
Found = tuple[System, dict[int, dict[str, Path]]]


class SampleRow(ExternalRecord):
    task: str
    question: str
    answer: str
    correct: bool
    fact: str | None = None
    asked: bool | None = None
    operands: list[int] = Field(default_factory=list)
    choice_logprob: float | None = None
    correct_flexible: bool | None = None


class HeldOutDocument(ExternalRecord):
    set: str
    name: str
    bytes: int
    bits: float
    rewritten: bool


class HeldOutText(ExternalRecord):
    keeps_content: bool
    documents: list[HeldOutDocument]


def find_systems(path: Path) -> list[Found]:
    """The arms or the cell that a path of a run folder stands for; nothing where it is no such path."""
    path = path.absolute()
    if (cell := _SEED.fullmatch(path.name)) and (stages := _evaluated_stages(path)):
        return [(System("/".join(path.parts[-2:]), arm_folder=path.parent.resolve()), {int(cell[1]): stages})]
    if (path / "samples.jsonl").is_file() and path.name.startswith("eval_"):
        cell = _SEED.fullmatch(path.parent.name)
        system = System("/".join(path.parts[-3:]), arm_folder=path.parent.parent.resolve())
        return [(system, {int(cell[1]) if cell else 0: {"": path}})]
    for run in (path, path.parent):
        if (run / "trial.yaml").is_file():
            trial = _trial_of(run / "trial.yaml")
            systems = []
            for arm in trial.arms if run == path else [path.name]:
                folder = run / arm
                evaluated = {seed: _evaluated_stages(folder / f"seed{seed}") for seed in trial.seeds}
                if cells := {seed: stages for seed, stages in evaluated.items() if stages}:
                    system = System(f"{run.name}/{arm}", {}, folder.resolve(), arm, arm == trial.control, trial)
                    systems.append((system, cells))
            return systems
    return []


def _trial_of(path: Path) -> Trial:
    """A run's trial, which may be somebody else's: what it names lies in its folder, and no other file is opened."""
    settings = read_yaml(path.read_text("utf-8", "replace"), str(path))
    facts = settings.get("facts") if isinstance(settings, dict) else None
    if isinstance(facts, dict) and facts.get("csv") and not facts.get("rows"):
        raise file_error(path, "facts: found a CSV file without its rows, which a run's trial.yaml holds")
    trial = load(str(path))
    if outside := next((arm for arm in trial.arms if not re.fullmatch("[A-Za-z0-9_]+", arm)), None):
        raise file_error(path, f"arms: found {outside!r}, expected names of folders beside it")
    return trial


def _evaluated_stages(cell: Path) -> dict[str, Path]:
    others = sorted(path.name.removeprefix("eval_") for path in cell.glob("eval_*") if path.suffix != PARTIAL)
    folders = {stage: cell / f"eval_{stage}" for stage in dict.fromkeys((*_STAGES, *others))}
    return {stage: folder for stage, folder in folders.items() if (folder / "samples.jsonl").is_file()}


def load_systems(systems_and_cells: Sequence[Found]) -> list[System]:
    """All systems of one comparison. The items that they share are those of all arms of their runs, compared or not."""
    runs = {system.arm_folder.parent for system, _ in systems_and_cells if system.arm_folder}
    evaluations = (path.parent for run in runs for path in run.glob("*/seed*/eval_*/heldout_text.json"))
    of_runs = {folder for folder in evaluations if folder.suffix != PARTIAL}
    folders = of_runs.union(*(stages.values() for _, cells in systems_and_cells for stages in cells.values()))
    documents = {}
    for path in (folder / "heldout_text.json" for folder in sorted(folders)):
        documents[path.parent] = validate(path, HeldOutText, read_json_file(path)).documents
    shared = shared_items(sorted(folders))
    systems = []
    for system, cells in systems_and_cells:
        models = {}
        for seed, stages in cells.items():
            of_cell = documents[next(iter(stages.values()))]  # the same in every stage
            texts = frozenset((d.name, d.bytes) for d in of_cell if d.name in shared.untouched)
            models[seed] = _load_model(stages, shared, texts)
        systems.append(replace(system, name=one_line(system.name), models=models))
    return systems


def _load_model(stages: dict[str, Path], shared: SharedItems, texts: frozenset[tuple[str, int]]) -> ModelResults:
    results = CellResults()
    items: dict[str, ItemResults] = {}
    for stage, folder in stages.items():
        path = folder / "samples.jsonl"
        for where, row in read_rows(path):
            validate(where, SampleRow, row)
        try:
            for name, rows in rows_by_subset(read_evaluation(results, stage, folder, shared, None)).items():
                facts = {row["question"]: row["fact"] for row in rows if row["fact"]}
                answers = ((row["question"], row["correct"]) for row in rows)
                outcome = f"{stage}/{name}/accuracy"
                if outcome not in results.floors:
                    continue  # solutions by whether they state a fact have other metrics than accuracy
                known = {"facts": facts, "floors": results.floors[outcome]}
                items[outcome.removeprefix("/")] = ItemResults.from_answers(answers, **known)
        except (KeyError, TypeError, ValueError, IndexError, ZeroDivisionError) as error:
            raise file_error(path, f"not what an evaluation writes ({error!r}); evaluate this cell again") from None
    for name, value in results.values.items():
        if not abs(value) < _LARGEST:
            folder = stages[name.partition("/")[0]]
            raise file_error(folder, f"{name}: found {value:g}, expected a number below {_LARGEST:g}")
    # one stage alone is called "": its outcomes have no stage in their names, as those of others' files
    values = {name.removeprefix("/"): value for name, value in results.values.items()}
    by_fact = {name.removeprefix("/"): table for name, table in results.facts.items()}
    return ModelResults(items, values, by_fact, texts)
