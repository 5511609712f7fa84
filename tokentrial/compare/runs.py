"""Our run folders: OUT with its arms over seeds, OUT/ARM, and single cells OUT/ARM/seedK[/eval_STAGE]."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field

from tokentrial.compare.files import Fields, Share, checked, json_file, json_lines, refuse
from tokentrial.compare.system import Items, Model, System, by_item
from tokentrial.errors import SettingsError
from tokentrial.report.outcomes import CellResults, floors, read_stage, untouched_documents
from tokentrial.report.tables import one_line
from tokentrial.store import fingerprint
from tokentrial.tasks.arithmetic import of_table, table_subsets
from tokentrial.trial import load

_STAGES = ("pretrain", "sft", "grpo")  # a cell's evaluations, in this order
_LARGEST = 1e9  # no accuracy, log-probability or bits per byte comes near it
_SEED = re.compile(r"seed([0-9]{1,9})")


@dataclass(frozen=True)
class Found:
    """One arm of a run, or one cell of it, whose result folders are known and not read yet."""

    name: str
    cells: dict[int, dict[str, Path]]  # seed: stage: folder; one stage alone is called ""
    run: Path | None = None
    arm: str | None = None
    control: bool = False


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


class GateSettings(Fields):
    asked: Share
    never_asked: Share


class Declared(Fields):
    """What of a run's declaration bears on a comparison with another run."""

    control: str
    smallest_effect: float | None = Field(default=None, gt=0, le=1e9)
    gate: GateSettings | None = None


def declared(run: Path) -> Declared | None:
    path = run / "declared.json"
    return checked(path, Declared, json_file(path)) if path.exists() else None


def find(path: Path) -> list[Found]:
    """The arms or the cell that a path of a run folder stands for; nothing where it is no such path."""
    if (path / "trial.yaml").is_file():
        trial = load(str(path / "trial.yaml"), [f"output={path}"])
        return [
            Found(f"{path.name}/{arm}", cells, path, arm, arm == trial.control)
            for arm in trial.arms
            if (cells := _cells(path / arm, trial.seeds))
        ]
    seed = _SEED.fullmatch(path.name)
    if seed and (stages := _stages(path)):
        return [Found("/".join(path.parts[-2:]), {int(seed[1]): stages})]
    if (path / "samples.jsonl").is_file() and path.name.startswith("eval_"):
        owner = _SEED.fullmatch(path.parent.name)
        return [Found("/".join(path.parts[-3:]), {int(owner[1]) if owner else 0: {"": path}})]
    if (path.parent / "trial.yaml").is_file():
        trial = load(str(path.parent / "trial.yaml"), [f"output={path.parent}"])
        cells = _cells(path, trial.seeds)
        return (
            [Found("/".join(path.parts[-2:]), cells, path.parent, path.name, path.name == trial.control)]
            if cells
            else []
        )
    return []


def _cells(folder: Path, seeds: Sequence[int]) -> dict[int, dict[str, Path]]:
    found = {seed: _stages(folder / f"seed{seed}") for seed in seeds}
    return {seed: stages for seed, stages in found.items() if stages}


def _stages(cell: Path) -> dict[str, Path]:
    there = {stage: cell / f"eval_{stage}" for stage in _STAGES}
    return {stage: folder for stage, folder in there.items() if (folder / "samples.jsonl").is_file()}


def read(found: Sequence[Found]) -> list[System]:
    """All systems of one comparison: `untouched` text is what none of their arms rewrites."""
    folders = [folder for each in found for stages in each.cells.values() for folder in stages.values()]
    for folder in folders:
        _held_out(folder)
    untouched = untouched_documents(folders)
    systems = []
    for each in found:
        models = {seed: _model(stages, untouched) for seed, stages in each.cells.items()}
        if not models:
            raise SettingsError(f"{each.name}: no evaluated cell; run `tokentrial evaluate` first")
        systems.append(System(one_line(each.name), models, each.run, each.arm, each.control))
    return systems


def _held_out(folder: Path) -> HeldOut:
    path = folder / "heldout_text.json"
    return checked(path, HeldOut, json_file(path))


def _model(stages: dict[str, Path], untouched: set[str]) -> Model:
    results = CellResults()
    items: dict[str, Items] = {}
    first = _held_out(next(iter(stages.values()))).documents  # the same in every stage
    held = fingerprint("held out", 1, documents=[(d.set, d.name, d.bytes) for d in first if d.name in untouched])
    for stage, folder in stages.items():
        path = folder / "samples.jsonl"
        raw = list(json_lines(path))
        for number, row in raw:
            checked(path, Row, row, f"line {number}: ")
        try:
            read_stage(results, stage, folder, untouched, None)
            items |= {_named(stage, name): made for name, made in _items([row for _, row in raw]).items()}
        except (KeyError, TypeError, ValueError, IndexError, ZeroDivisionError) as error:
            raise refuse(path, f"not what an evaluation writes ({error!r}); evaluate this cell again") from None
    for name, value in results.values.items():
        if not abs(value) < _LARGEST:
            folder = stages[name.partition("/")[0]]
            raise refuse(folder, f"{name}: found {value:g}, expected a figure below {_LARGEST:g}")
    values = {name.removeprefix("/"): value for name, value in results.values.items()}
    facts = {name.removeprefix("/"): table for name, table in results.facts.items() if table}
    return Model(items, values, facts, held)


def _named(stage: str, name: str) -> str:
    return f"{stage}/{name}" if stage else name


def _items(rows: Sequence[dict[str, Any]]) -> dict[str, Items]:
    """Right answers by outcome: the table's subsets, then every other task."""
    chosen = {f"{part[0]['task']}/{subset}": part for subset, part in table_subsets(rows).items() if part}
    for task in dict.fromkeys(row["task"] for row in rows if not of_table(row)):
        chosen[f"{task}/all"] = [row for row in rows if row["task"] == task]
    found = {}
    for name, part in chosen.items():
        right = by_item((row["question"], row["correct"]) for row in part)
        facts = {row["question"]: row["fact"] for row in part if row["fact"]}
        found[f"{name}/accuracy"] = Items(sum(right.values()), len(right), right, facts, floors(part, False, None))
    return found
