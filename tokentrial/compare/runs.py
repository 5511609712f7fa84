"""Our run folders: OUT with its arms over seeds, OUT/ARM, and single cells OUT/ARM/seedK[/eval_STAGE]."""

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from pydantic import Field

from tokentrial.compare.files import ExternalRecord, file_error, load_json, load_json_lines, validate
from tokentrial.compare.system import ItemResults, ModelResults, System
from tokentrial.report.comparison import REPORT
from tokentrial.report.outcomes import (
    CellResults,
    floor_accuracies,
    read_evaluation,
    rows_by_subset,
    untouched_documents,
)
from tokentrial.report.tables import one_line
from tokentrial.store.files import fingerprint
from tokentrial.trial.load import load
from tokentrial.trial.settings import Gate

_STAGES = ("pretrain", "sft", "grpo")  # a cell's evaluations, in this order
_LARGEST = 1e9  # no accuracy, log-probability or bits per byte comes near it
_SEED = re.compile(r"seed([0-9]{1,9})")

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


class Declaration(ExternalRecord):
    """What of a run's declaration bears on a comparison with another run."""

    control: str
    smallest_effect: float | None = Field(default=None, gt=0, le=1e9)
    gate: Gate | None = None


class ReportedContrast(ExternalRecord):
    """A contrast of a run's own report."""

    difference: float
    ci95: list[float] | None
    p: float | None
    p_holm: float | None
    test: str
    mde80: float | None
    n_seeds: int
    verdict: str | None
    note: str


class ReportedOutcome(ExternalRecord):
    floors: dict[str, float] = Field(default_factory=dict)
    per_seed: dict[str, list[float | None]]
    contrasts: dict[str, ReportedContrast] = Field(default_factory=dict)


class RunReport(ExternalRecord):
    outcomes: dict[str, ReportedOutcome]


def read_declaration(run: Path) -> Declaration | None:
    path = run / "declared.json"
    return validate(path, Declaration, load_json(path)) if path.exists() else None


def read_report(run: Path) -> RunReport | None:
    """A run's own report, whose verdicts stand where two of its arms are compared."""
    path = run / REPORT
    return validate(path, RunReport, load_json(path)) if path.exists() else None


def find_systems(path: Path) -> list[Found]:
    """The arms or the cell that a path of a run folder stands for; nothing where it is no such path."""
    if (cell := _SEED.fullmatch(path.name)) and (stages := _evaluated_stages(path)):
        return [(System("/".join(path.parts[-2:])), {int(cell[1]): stages})]
    if (path / "samples.jsonl").is_file() and path.name.startswith("eval_"):
        cell = _SEED.fullmatch(path.parent.name)
        return [(System("/".join(path.parts[-3:])), {int(cell[1]) if cell else 0: {"": path}})]
    for run in (path, path.parent):
        if (run / "trial.yaml").is_file():
            trial = load(str(run / "trial.yaml"), [f"output={run}"])
            found = []
            for arm in trial.arms if run == path else [path.name]:
                evaluated = {seed: _evaluated_stages(run / arm / f"seed{seed}") for seed in trial.seeds}
                if cells := {seed: stages for seed, stages in evaluated.items() if stages}:
                    name = f"{run.absolute().name}/{arm}"
                    found.append((System(name, run=run, arm=arm, control=arm == trial.control), cells))
            return found
    return []


def _evaluated_stages(cell: Path) -> dict[str, Path]:
    folders = {stage: cell / f"eval_{stage}" for stage in _STAGES}
    return {stage: folder for stage, folder in folders.items() if (folder / "samples.jsonl").is_file()}


def load_systems(found: Sequence[Found]) -> list[System]:
    """All systems of one comparison: `untouched` text is what none of their arms rewrites."""
    folders = [folder for _, cells in found for stages in cells.values() for folder in stages.values()]
    documents = {}
    for folder in folders:
        path = folder / "heldout_text.json"
        documents[folder] = validate(path, HeldOutText, load_json(path)).documents
    untouched = untouched_documents(folders)
    systems = []
    for system, cells in found:
        models = {}
        for seed, stages in cells.items():
            of_cell = documents[next(iter(stages.values()))]  # the same in every stage
            texts = [(d.set, d.name, d.bytes) for d in of_cell if d.name in untouched]
            models[seed] = _load_model(stages, untouched, fingerprint("held out", 1, documents=texts))
        systems.append(replace(system, name=one_line(system.name), models=models))
    return systems


def _load_model(stages: dict[str, Path], untouched: set[str], heldout_fingerprint: str) -> ModelResults:
    results = CellResults()
    items: dict[str, ItemResults] = {}
    for stage, folder in stages.items():
        path = folder / "samples.jsonl"
        for number, row in load_json_lines(path):
            validate(path, SampleRow, row, f"line {number}: ")
        try:
            for name, rows in rows_by_subset(read_evaluation(results, stage, folder, untouched, None)).items():
                facts = {row["question"]: row["fact"] for row in rows if row["fact"]}
                answers = ((row["question"], row["correct"]) for row in rows)
                known = {"facts": facts, "floors": floor_accuracies(rows, False, None)}
                items[f"{stage}/{name}/accuracy".removeprefix("/")] = ItemResults.from_answers(answers, **known)
        except (KeyError, TypeError, ValueError, IndexError, ZeroDivisionError) as error:
            raise file_error(path, f"not what an evaluation writes ({error!r}); evaluate this cell again") from None
    for name, value in results.values.items():
        if not abs(value) < _LARGEST:
            folder = stages[name.partition("/")[0]]
            raise file_error(folder, f"{name}: found {value:g}, expected a figure below {_LARGEST:g}")
    # one stage alone is called "": its outcomes have no stage in their names, as those of others' files
    values = {name.removeprefix("/"): value for name, value in results.values.items()}
    by_fact = {name.removeprefix("/"): table for name, table in results.facts.items()}
    return ModelResults(items, values, by_fact, heldout_fingerprint)
