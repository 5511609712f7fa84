"""The run: arms x seeds -> cells -> stages. What is done is skipped, what is next is handed to workers."""

import os
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import yaml

from tokentrial.arms import arm as arms
from tokentrial.cell import STAGES, Cell, run_cell
from tokentrial.corpus import audit as audits
from tokentrial.corpus import prepare
from tokentrial.corpus.prepare import CorpusPlan
from tokentrial.errors import Interrupted, SettingsError, TrialError
from tokentrial.executors.local import Call, LocalExecutor, Report
from tokentrial.pretrain.device import resolve_device
from tokentrial.progress import Progress
from tokentrial.report.comparison import REPORT, build
from tokentrial.store import MANIFEST, lock, need_disk, read_json, write_bytes, write_json
from tokentrial.trial import Trial, load

DECLARED = "declared.json"


def check(trial: Trial) -> None:
    """Refuse a trial whose arms there are none of, before anything is written."""
    for name in trial.arms:
        arms.find(name)


def cells(trial: Trial) -> list[Cell]:
    """All cells, seed by seed, so that an unfinished run holds whole pairs."""
    return [Cell(arm, seed) for seed in trial.seeds for arm in trial.arms]


def run(
    trial: Trial, stages: Sequence[str] = ("corpus", *STAGES), chosen: Sequence[Cell] | None = None
) -> dict[str, Any] | None:
    """Bring the named stages up to date and, after a whole run, build the report, which is returned."""
    check(trial)
    plan = CorpusPlan(trial)
    wanted = list(cells(trial) if chosen is None else chosen)
    with lock(trial.folder), interruptible(trial.folder):
        write_bytes(
            trial.folder / "trial.yaml", yaml.safe_dump(trial.model_dump(mode="json"), sort_keys=False).encode()
        )
        todo = [(cell, [stage for stage in cell.pending(plan) if stage in stages]) for cell in wanted]
        todo = [(cell, pending) for cell, pending in todo if pending]
        corpus_ready = plan.done and audits.audited(plan)
        if "corpus" not in stages and not corpus_ready:
            raise TrialError(f"{plan.folder}: not ready; run `tokentrial corpus` with the same trial first")
        if todo:
            _order_holds(todo, plan, stages)
            need_disk(trial.folder, _disk(trial, todo), "the trial")
        if todo or not corpus_ready:
            workers = _workers(trial, len(todo))
            with LocalExecutor(workers) as executor, Progress() as progress:
                if not corpus_ready:
                    _corpus(plan, executor, progress)
                if any("evaluate" in pending for _, pending in todo):
                    declare(trial)
                progress.start("cells", len(todo))
                executor.run([Call(cell.name, run_cell, (trial, cell, pending)) for cell, pending in todo], progress)
        if chosen is None and set(STAGES) <= set(stages):
            return build(trial, declaration(trial), trial.folder / DECLARED)
    return None


def _corpus(plan: CorpusPlan, executor: LocalExecutor, progress: Callable[[Report], None]) -> None:
    """Text and drills side by side, then every arm's patches, then exposure and audit."""
    executor.run([Call("text", prepare.prepare_text, (plan,))], progress)
    executor.run([Call("drills", prepare.prepare_drills, (plan,))], progress)
    executor.run([Call(f"patches of {arm}", prepare.prepare_patches, (plan, arm)) for arm in plan.trial.arms], progress)
    prepare.write_meta(plan)
    executor.run([Call("audit", audits.audit, (plan,))], progress)


def declare(trial: Trial) -> None:
    """Write down, before the first evaluation, what is decided; what differs later is printed as exploratory."""
    path = trial.folder / DECLARED
    if not path.exists():
        write_json(path, declaration(trial))


def declaration(trial: Trial) -> dict[str, Any]:
    """What a trial declares before a look: seeds, outcomes, contrasts, test, gate."""
    return {"seeds": trial.seeds, "control": trial.control, **trial.verdict.model_dump(mode="json")}


def _order_holds(todo: Sequence[tuple[Cell, Sequence[str]]], plan: CorpusPlan, stages: Sequence[str]) -> None:
    """A stage alone needs the ones before it."""
    for cell, pending in todo:
        for stage in cell.pending(plan):
            if stage not in stages and STAGES.index(stage) < STAGES.index(pending[0]):
                raise TrialError(f"{cell.name}: {pending[0]} needs {stage}; run `tokentrial {stage}` first")


def _disk(trial: Trial, todo: Sequence[tuple[Cell, Sequence[str]]]) -> int:
    """Bytes that the cells will write: fp32 weights twice, trained and exported, and a tokenizer."""
    shape = trial.pretrain
    weights = 12 * shape.n_layer * shape.n_embd**2 + (trial.tokenizer.merges + 500 + shape.context) * shape.n_embd
    return len(todo) * (2 * 4 * weights + 5_000_000)


def _workers(trial: Trial, todo: int) -> int:
    """As the trial says, else one a core on a CPU and one on a GPU; never more than there is work."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    most = trial.workers or (cores if resolve_device(trial.pretrain) == "cpu" else 1)
    return max(1, min(most, max(todo, len(trial.arms))))


@contextmanager
def interruptible(folder: Path) -> Iterator[None]:
    """Within the block SIGINT and SIGTERM end the work as Interrupted: the folder stays resumable."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise Interrupted(f"{folder}: stopped by {signal.Signals(number).name}; the same command goes on from here")

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def open_run(folder: Path) -> Trial:
    """The trial of a run folder."""
    path = folder / "trial.yaml"
    if not path.is_file():
        raise SettingsError(f"{folder}: no trial.yaml there; give a run folder such as outputs/pilot")
    return load(str(path), [f"output={folder}"])


def rebuild(folder: Path) -> dict[str, Any]:
    """The report of a run folder, from what is there now."""
    trial = open_run(folder)
    if not (folder / "corpus" / "exposure.json").exists():
        raise TrialError(f"{folder}: no corpus yet; there is nothing to report")
    return build(trial, declaration(trial), folder / DECLARED)


def materialize(
    trial: Trial, arm: str, seed: int, target_tokens: int | None, shard_size: int, folder: Path | None
) -> tuple[Path, dict[str, int]]:
    """Write an arm's mixed stream of one seed in full shards; returns the folder and its counts."""
    if arm not in trial.arms:
        raise SettingsError(f"--materialize {arm}: the trial's arms are {', '.join(trial.arms)}")
    out = folder or trial.folder / "materialized" / arm / f"seed{seed}"
    if out.exists() and not (out / MANIFEST).exists():
        raise TrialError(f"{out}: exists and was not written by tokentrial; give another --out-dir")
    tokens = target_tokens or trial.pretrain.tokens
    return out, prepare.materialize(CorpusPlan(trial), arm, seed, tokens, shard_size, out)


def status(folder: Path) -> dict[str, Any]:
    """What of a run folder is done, cell by cell."""
    trial = open_run(folder)
    plan = CorpusPlan(trial)
    pending = {cell.name: cell.pending(plan) for cell in cells(trial)}
    return {
        "trial": trial.name,
        "corpus": plan.done and audits.audited(plan),
        "cells": {name: {stage: stage not in stages for stage in STAGES} for name, stages in pending.items()},
        "report": (folder / REPORT).exists(),
        "declared": read_json(folder / DECLARED) if (folder / DECLARED).exists() else None,
    }
