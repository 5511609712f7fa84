"""A run folder, opened: its trial, one of its cells, a stage's model; and what of it is done."""

import re
from pathlib import Path
from typing import Any

import yaml

from tokentrial import __version__
from tokentrial.corpus.prepare import CorpusPlan
from tokentrial.errors import SettingsError, TrialError
from tokentrial.report.comparison import REPORT
from tokentrial.steps.cell import Cell, cells
from tokentrial.steps.corpus import is_ready
from tokentrial.steps.grpo import DECISION
from tokentrial.steps.stage import stage_names, stages
from tokentrial.store.files import read_json, write_bytes, write_json
from tokentrial.store.folders import MANIFEST, is_whole, require_intact
from tokentrial.trial.declaration import DECLARED, declaration
from tokentrial.trial.load import load
from tokentrial.trial.sweep import to_run
from tokentrial.trial.trial import Trial

Seconds = dict[str, dict[str, float]]
_WRITTEN_BY = f"# tokentrial {__version__}\n"
_SEED = re.compile(r"seed([0-9]+)")


def open_run(folder: Path) -> Trial:
    """The trial of a run folder."""
    path = folder / "trial.yaml"
    if not path.is_file():
        raise SettingsError(f"{folder}: no trial.yaml there; give a run folder such as outputs/pilot")
    return load(str(path), [f"output={folder}"])


def write_trial(trial: Trial) -> None:
    """Write down what the results to come are made from, and by which release."""
    settings = yaml.safe_dump(trial.model_dump(mode="json"), sort_keys=False)
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
        raise SettingsError(f"{folder}: arms of its trial are {', '.join(trial.arms)}, seeds are {trial.seeds}")
    return trial, cell


def model_folder(trial: Trial, cell: Cell, stage: str) -> Path:
    """The folder of a cell's model as it is evaluated after `pretrain`, `sft` or `grpo`."""
    evaluated = {each.measures: each.reads for each in stages(trial) if each.measures and each.reads}
    if stage not in evaluated:
        raise SettingsError(f"--stage {stage}: the trial {trial.name} has {', '.join(map(str, evaluated))}")
    folder = cell.folder(trial, evaluated[stage])
    if not (folder / MANIFEST).is_file():
        raise TrialError(f"{folder}: no model there; run `tokentrial run` with the same trial first")
    return folder


def declare(trial: Trial) -> None:
    """Write down, before the first evaluation, what is decided; what differs later is printed as exploratory."""
    path = trial.folder / DECLARED
    if not path.exists():
        write_json(path, declaration(trial))


def evaluated(corpus: CorpusPlan) -> dict[tuple[str, int], dict[str, Path]]:
    """Folders of every cell's up-to-date results, by the stage that was evaluated."""
    trial, found = corpus.trial, {}
    for cell in cells(trial):
        pending = missing(corpus, cell)
        done = {stage.measures: cell.folder(trial, stage.name) for stage in stages(trial) if stage.name not in pending}
        found[cell.arm, cell.seed] = {measured: folder for measured, folder in done.items() if measured}
        for folder in found[cell.arm, cell.seed].values():
            require_intact(folder)
    return found


def seconds(trial: Trial) -> Seconds:
    """Stage: wall-clock seconds of each cell that has it, by the cell's name; `corpus` by its parts, without the audit.
    What was made before manifests held seconds is left out."""
    corpus = CorpusPlan(trial)
    found: Seconds = {"corpus": {}}
    for folder, _ in corpus.steps:
        # survey and patches are made together, each as long as all
        part = "patches" if folder not in (corpus.folder, corpus.folder / "drills") else folder.name
        if (took := _seconds(folder)) is not None:
            found["corpus"][part] = max(took, found["corpus"].get(part, 0.0))
    for stage in stages(trial):
        took_by = {cell.name: _seconds(cell.folder(trial, stage.name)) for cell in cells(trial)}
        found[stage.name] = {name: took for name, took in took_by.items() if took is not None}
    return {stage: took for stage, took in found.items() if took}


def _seconds(folder: Path) -> float | None:
    path = folder / MANIFEST
    took = read_json(path).get("seconds") if path.exists() else None
    return took if isinstance(took, float) else None


def status(folder: Path) -> dict[str, Any]:
    """What of a run folder is done, cell by cell; the cells of its variants by the folder they stand in."""
    trial = open_run(folder)
    corpus, done = _status(trial)
    took = seconds(trial)
    for variant in to_run(trial):
        of = variant.trial
        begun = (of.folder / "trial.yaml").exists()
        nothing = {stage.name: False for stage in stages(of)}
        ready, of_cells = _status(of) if begun else (False, {cell.name: nothing for cell in cells(of)})
        corpus &= ready
        below = of.folder.relative_to(folder)
        done |= {f"{below}/{name}": by_stage for name, by_stage in of_cells.items()}
        for stage, by_cell in (seconds(of) if begun else {}).items():
            took.setdefault(stage, {}).update({f"{below}/{name}": seconds for name, seconds in by_cell.items()})
    return {
        "trial": trial.name,
        "corpus": corpus,
        "cells": done,
        "seconds": took,
        "report": (folder / REPORT).exists(),
        "of_another_release": is_of_another_release(trial),
        "declared": read_json(folder / DECLARED) if (folder / DECLARED).exists() else None,
    }


def missing(corpus: CorpusPlan, cell: Cell) -> list[str]:
    """Stages of a cell without a result to look at, in order."""
    trial = corpus.trial
    if is_of_another_release(trial):
        return [stage for stage in stage_names(trial) if not is_whole(cell.folder(trial, stage))]
    return cell.pending(corpus)


def _status(trial: Trial) -> tuple[bool, dict[str, dict[str, bool]]]:
    """Whether a trial's corpus is ready, and which stages of its cells are done, or decided against (GRPO)."""
    corpus, decision = CorpusPlan(trial), trial.folder / DECISION
    skipped = {"grpo", "eval_grpo"} if decision.exists() and not read_json(decision, "go_on")["go_on"] else set()
    pending = {cell.name: {*missing(corpus, cell)} - skipped for cell in cells(trial)}
    done = {name: {stage.name: stage.name not in left for stage in stages(trial)} for name, left in pending.items()}
    return is_ready(corpus), done
