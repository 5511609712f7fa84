"""Our run folders: OUT with its arms over seeds, OUT/ARM, and single cells OUT/ARM/seedK[/eval_STAGE]."""

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import Field

from tokentrial.compare.files import Fields, checked, json_file, json_lines, refuse
from tokentrial.compare.system import Items, Model, System
from tokentrial.report.comparison import REPORT
from tokentrial.report.outcomes import CellResults, floors, read_stage, untouched_documents
from tokentrial.report.tables import one_line
from tokentrial.store.files import fingerprint
from tokentrial.tasks.arithmetic import of_table, table_subsets
from tokentrial.trial.load import load
from tokentrial.trial.settings import Gate

_STAGES = ("pretrain", "sft", "grpo")  # a cell's evaluations, in this order
_LARGEST = 1e9  # no accuracy, log-probability or bits per byte comes near it
_SEED = re.compile(r"seed([0-9]{1,9})")

# one arm of a run, or one cell of it, whose models are not read yet: seed, stage, folder; one stage alone is called ""
Found = tuple[System, dict[int, dict[str, Path]]]


class Row(Fields):
    task: str
    question: str
    answer: str
    correct: bool
    fact: str | None = None
    asked: bool | None = None
    operands: list[int] = Field(default_factory=list)
    choice_logprob: float | None = None
    correct_flexible: bool | None = None


class Document(Fields):
    set: str
    name: str
    bytes: int
    bits: float
    rewritten: bool


class HeldOut(Fields):
    keeps_content: bool
    documents: list[Document]


class Declared(Fields):
    """What of a run's declaration bears on a comparison with another run."""

    control: str
    smallest_effect: float | None = Field(default=None, gt=0, le=1e9)
    gate: Gate | None = None


class Made(Fields):
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


class Outcome(Fields):
    floors: dict[str, float] = Field(default_factory=dict)
    per_seed: dict[str, list[float | None]]
    contrasts: dict[str, Made] = Field(default_factory=dict)


class Report(Fields):
    outcomes: dict[str, Outcome]


def declared(run: Path) -> Declared | None:
    path = run / "declared.json"
    return checked(path, Declared, json_file(path)) if path.exists() else None


def reported(run: Path) -> Report | None:
    """A run's own report, whose verdicts stand where two of its arms are compared."""
    path = run / REPORT
    return checked(path, Report, json_file(path)) if path.exists() else None


def find(path: Path) -> list[Found]:
    """The arms or the cell that a path of a run folder stands for; nothing where it is no such path."""
    if (cell := _SEED.fullmatch(path.name)) and (stages := _stages(path)):
        return [(System("/".join(path.parts[-2:])), {int(cell[1]): stages})]
    if (path / "samples.jsonl").is_file() and path.name.startswith("eval_"):
        owner = _SEED.fullmatch(path.parent.name)
        return [(System("/".join(path.parts[-3:])), {int(owner[1]) if owner else 0: {"": path}})]
    for run in (path, path.parent):
        if (run / "trial.yaml").is_file():
            trial = load(str(run / "trial.yaml"), [f"output={run}"])
            found = []
            for arm in trial.arms if run == path else [path.name]:
                evaluated = {seed: _stages(run / arm / f"seed{seed}") for seed in trial.seeds}
                cells = {seed: stages for seed, stages in evaluated.items() if stages}
                if cells:
                    name = f"{run.absolute().name}/{arm}"
                    found.append((System(name, run=run, arm=arm, control=arm == trial.control), cells))
            return found
    return []


def _stages(cell: Path) -> dict[str, Path]:
    there = {stage: cell / f"eval_{stage}" for stage in _STAGES}
    return {stage: folder for stage, folder in there.items() if (folder / "samples.jsonl").is_file()}


def read(found: Sequence[Found]) -> list[System]:
    """All systems of one comparison: `untouched` text is what none of their arms rewrites."""
    held = {
        folder: checked(path, HeldOut, json_file(path)).documents
        for _, cells in found
        for stages in cells.values()
        for folder in stages.values()
        for path in (folder / "heldout_text.json",)
    }
    untouched = untouched_documents([*held])
    systems = []
    for system, cells in found:
        models = {}
        for seed, stages in cells.items():
            documents = held[next(iter(stages.values()))]  # the same in every stage
            texts = [(d.set, d.name, d.bytes) for d in documents if d.name in untouched]
            models[seed] = _model(stages, untouched, fingerprint("held out", 1, documents=texts))
        systems.append(replace(system, name=one_line(system.name), models=models))
    return systems


def _model(stages: dict[str, Path], untouched: set[str], held_out: str) -> Model:
    results = CellResults()
    items: dict[str, Items] = {}
    for stage, folder in stages.items():
        path = folder / "samples.jsonl"
        rows = []
        for number, row in json_lines(path):
            checked(path, Row, row, f"line {number}: ")
            rows.append(row)
        try:
            read_stage(results, stage, folder, untouched, None)
            items |= {f"{stage}/{name}".removeprefix("/"): made for name, made in _items(rows).items()}
        except (KeyError, TypeError, ValueError, IndexError, ZeroDivisionError) as error:
            raise refuse(path, f"not what an evaluation writes ({error!r}); evaluate this cell again") from None
    for name, value in results.values.items():
        if not abs(value) < _LARGEST:
            folder = stages[name.partition("/")[0]]
            raise refuse(folder, f"{name}: found {value:g}, expected a figure below {_LARGEST:g}")
    values = {name.removeprefix("/"): value for name, value in results.values.items()}
    facts = {name.removeprefix("/"): table for name, table in results.facts.items() if table}
    return Model(items, values, facts, held_out)


def _items(rows: Sequence[dict[str, Any]]) -> dict[str, Items]:
    """Right answers by outcome: the table's subsets, then every other task."""
    chosen = {f"{part[0]['task']}/{subset}": part for subset, part in table_subsets(rows).items() if part}
    for task in dict.fromkeys(row["task"] for row in rows if not of_table(row)):
        chosen[f"{task}/all"] = [row for row in rows if row["task"] == task]
    found = {}
    for name, part in chosen.items():
        facts = {row["question"]: row["fact"] for row in part if row["fact"]}
        answers = ((row["question"], row["correct"]) for row in part)
        found[f"{name}/accuracy"] = Items.of(answers, facts=facts, floors=floors(part, False, None))
    return found
