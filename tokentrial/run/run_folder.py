"""A run folder, opened: its trial, one of its cells, a stage's model; and what of it is done."""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tokentrial import __version__
from tokentrial.corpus.prepare import CorpusPlan
from tokentrial.errors import SettingsError, TrialError
from tokentrial.report.analysis import look_of
from tokentrial.report.comparison import REPORT
from tokentrial.report.results import CellResults, read_evaluation, shared_items
from tokentrial.run.standing import standing
from tokentrial.steps.cell import Cell, cells
from tokentrial.steps.corpus import is_ready
from tokentrial.steps.stage import phases, stage_names, stages
from tokentrial.store.files import read_json, write_bytes
from tokentrial.store.folders import MANIFEST, is_held, is_weights, is_whole, require_intact
from tokentrial.trial.load import load
from tokentrial.trial.sweep import to_run
from tokentrial.trial.trial import Trial
from tokentrial.trial.yaml_text import write_yaml

Seconds = dict[str, dict[str, float]]
_WRITTEN_BY = f"# tokentrial {__version__}\n"
_SEED = re.compile(r"seed([0-9]+)")


def open_run(folder: Path) -> Trial:
    """The trial of a run folder."""
    path = folder / "trial.yaml"
    if not path.is_file():
        raise SettingsError(f"{folder}: no trial.yaml there; give a run folder such as outputs/pilot")
    return load(str(path), output=folder)


def write_trial(trial: Trial) -> None:
    """Write down what the results to come are made from, and by which release."""
    settings = write_yaml(trial.model_dump(mode="json"))
    write_bytes(trial.folder / "trial.yaml", f"{_WRITTEN_BY}{settings}".encode())


def is_of_another_release(trial: Trial) -> bool:
    """Whether another release wrote the run folder. Its fingerprints are not known here, so whoever only looks takes
    each result that is whole as it stands; `tokentrial run` would do all of them again."""
    path = trial.folder / "trial.yaml"
    return path.exists() and not path.read_bytes().startswith(_WRITTEN_BY.encode())


def open_cell(folder: Path) -> tuple[Trial, Cell]:
    """The trial and the cell that OUT/ARM/seedK stands for."""
    whole = folder.resolve()
    out, seed = whole.parent.parent, _SEED.fullmatch(whole.name)
    if seed is None or not (out / "trial.yaml").is_file():
        raise SettingsError(f"{folder}: expected a cell of a run, OUT/ARM/seedK, such as outputs/pilot/baseline/seed1")
    trial, cell = open_run(out), Cell(whole.parent.name, int(seed[1]))
    if cell.arm not in trial.arms or cell.seed not in trial.seeds:
        raise SettingsError(f"{folder}: not a cell; arms are {', '.join(trial.arms)}, seeds are {trial.seeds}")
    return trial, cell


def model_folder(trial: Trial, cell: Cell, stage: str) -> Path:
    """The folder of a cell's model as it is evaluated after `pretrain`, `sft` or `grpo`. Raises TrialError where it is
    not there with its weights."""
    evaluated = {step.measures: step.reads for step in stages(trial) if step.measures and step.reads}
    if stage not in evaluated:
        raise SettingsError(f"--stage {stage}: the trial {trial.name} has {', '.join(map(str, evaluated))}")
    folder = cell.folder(trial, evaluated[stage])
    if not (folder / MANIFEST).is_file():
        raise TrialError(f"{folder}: no model there; run `tokentrial run` with the same trial first")
    if not any(is_weights(path.name) for path in folder.iterdir()):
        again = f"delete {folder} and run the trial again with disk_limit_gb=null"
        advice = f"copy its *.safetensors from the storage, {trial.storage}" if trial.storage else again
        raise TrialError(f"{folder}: its weights are not here, they were pruned to save disk; {advice}")
    return folder


def evaluated(corpus: CorpusPlan) -> dict[tuple[str, int], dict[str, Path]]:
    """Folders of every cell's up-to-date results, by the stage that was evaluated."""
    trial, folders = corpus.trial, {}
    for cell in cells(trial):
        pending = missing(corpus, cell)
        done = {stage.measures: cell.folder(trial, stage.name) for stage in stages(trial) if stage.name not in pending}
        folders[cell.arm, cell.seed] = {measured: folder for measured, folder in done.items() if measured}
        for folder in folders[cell.arm, cell.seed].values():
            require_intact(folder)
    return folders


def wanted_seeds(corpus: CorpusPlan) -> list[int]:
    """The seeds that the trial needs now: those of the declared look that is next, or was the last; and any that were
    added to the declared ones."""
    trial, declared = corpus.trial, standing(corpus.trial).declared
    if declared.verdict.looks is None:
        return trial.seeds
    measured = declared.verdict.primary.outcome.split("/")[0]
    # a variant may lack the stage: then it never comes beyond its first look
    name = next((stage.name for stage in stages(trial) if stage.measures == measured), None)
    folders = {
        (cell.arm, cell.seed): cell.folder(trial, name)
        for cell in cells(trial)
        if name and cell.seed in declared.seeds and cell.arm in declared.arms and name not in missing(corpus, cell)
    }
    values, shared = {cell: CellResults() for cell in folders}, shared_items([*folders.values()])
    for cell, folder in folders.items():
        read_evaluation(values[cell], measured, folder, shared, None)
    return declared.needed(trial.seeds, look_of(values, declared).wanted)


def seconds(trial: Trial) -> Seconds:
    """Stage: wall-clock seconds of each cell that has it, by the cell's name; `corpus` by its parts, without the audit.
    What was made before manifests held seconds is left out."""
    corpus = CorpusPlan(trial)
    by_stage: Seconds = {"corpus": {}}
    for folder, _ in corpus.steps:
        # surveys and patches of all arms and sets are made together, each as long as all
        [below, *_] = [*folder.relative_to(corpus.folder).parts, "corpus"]
        part = "patches" if below == "surveys" else below
        if (duration := _seconds(folder)) is not None:
            by_stage["corpus"][part] = max(duration, by_stage["corpus"].get(part, 0.0))
    for stage in stages(trial):
        took_by = {cell.name: _seconds(cell.folder(trial, stage.name)) for cell in cells(trial)}
        by_stage[stage.name] = {name: duration for name, duration in took_by.items() if duration is not None}
    return {stage: by_cell for stage, by_cell in by_stage.items() if by_cell}


def _seconds(folder: Path) -> float | None:
    path = folder / MANIFEST
    duration = read_json(path).get("seconds") if path.exists() else None
    return duration if isinstance(duration, float) else None


def status(folder: Path) -> dict[str, Any]:
    """What of a run folder is done, cell by cell, of the seeds that its looks need; the cells of its variants by the
    folder they stand in."""
    trial = open_run(folder)
    state: dict[str, Any] = {"trial": trial.name, "corpus": True, "cells": {}, "seconds": {}, "working": False}
    for member in (trial, *(variant.trial for variant in to_run(trial))):
        below = "" if member is trial else f"{member.folder.relative_to(folder)}/"
        is_begun = (member.folder / "trial.yaml").exists()
        ready, of_cells = _status(member) if is_begun else (False, _nothing(member))
        state["corpus"] &= ready
        state["working"] |= is_held(member.folder)
        state["cells"] |= {f"{below}{name}": by_stage for name, by_stage in of_cells.items()}
        for stage, by_cell in (seconds(member) if is_begun else {}).items():
            state["seconds"].setdefault(stage, {}).update({f"{below}{name}": time for name, time in by_cell.items()})
    stands = standing(trial)
    return state | {
        "report": (folder / REPORT).exists(),
        "of_another_release": is_of_another_release(trial),
        "declared": stands.sha256,
        "departures": stands.departures,
    }


def _nothing(trial: Trial) -> dict[str, dict[str, bool]]:
    """The cells of a trial that has not begun."""
    seeds = trial.first_look
    return {c.name: {stage.name: False for stage in stages(trial)} for c in cells(trial) if c.seed in seeds}


def missing(corpus: CorpusPlan, cell: Cell) -> list[str]:
    """Stages of a cell without a result to look at, in order."""
    trial = corpus.trial
    if is_of_another_release(trial):
        return [stage for stage in stage_names(trial) if not is_whole(cell.folder(trial, stage))]
    return cell.pending(corpus)


def to_do(corpus: CorpusPlan, of: Iterable[Cell]) -> dict[Cell, list[str]]:
    """The missing stages of these cells, without those that were decided against for all cells (GRPO)."""
    declined = {
        name
        for decider, names in phases(corpus.trial, stage_names(corpus.trial))
        for name in names
        if decider and decider.is_declined
    }
    return {cell: [stage for stage in missing(corpus, cell) if stage not in declined] for cell in of}


def unfinished_added_seeds(trial: Trial) -> list[int]:
    """Seeds that were added to the declared ones and have something to do, in the trial or in a variant of it."""
    declared, unfinished = standing(trial).declared.seeds, set[int]()
    for member in (trial, *(variant.trial for variant in to_run(trial))):
        corpus, is_begun = CorpusPlan(member), (member.folder / "trial.yaml").exists()
        added = [cell for cell in cells(member) if cell.seed not in declared]
        left = to_do(corpus, added) if is_begun else dict.fromkeys(added, stage_names(member))
        unfinished |= {cell.seed for cell, pending in left.items() if pending}
    return [seed for seed in trial.seeds if seed in unfinished]


def _status(trial: Trial) -> tuple[bool, dict[str, dict[str, bool]]]:
    """Whether a trial's corpus is ready, and which stages of its cells are done, or decided against."""
    corpus = CorpusPlan(trial)
    seeds = wanted_seeds(corpus)
    pending = to_do(corpus, [cell for cell in cells(trial) if cell.seed in seeds])
    names = stage_names(trial)
    done = {cell.name: {name: name not in left for name in names} for cell, left in pending.items()}
    return is_ready(corpus), done
