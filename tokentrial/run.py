"""The run: arms x seeds -> cells -> stages. What is done is skipped, what is next is handed to workers."""

import shutil
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from itertools import product
from pathlib import Path
from types import FrameType
from typing import Any

import yaml

from tokentrial.arms import arm as arms
from tokentrial.cell import GRPO_STAGES, Cell, before_grpo, cells, exchange, free, imports, model_of, run_cell, stages
from tokentrial.corpus import audit as audits
from tokentrial.corpus import prepare
from tokentrial.corpus.materialize import materialize as written_out
from tokentrial.corpus.prepare import CorpusPlan
from tokentrial.corpus.verify import verify as rederive
from tokentrial.devices import this_machine
from tokentrial.disk import beyond_limit, cell_bytes
from tokentrial.errors import Interrupted, SettingsError, TrialError
from tokentrial.executors.local import LocalExecutor
from tokentrial.executors.ray import RayExecutor
from tokentrial.executors.worker import Call, cores
from tokentrial.opened import DECLARED, open_run, seconds
from tokentrial.plan.work import cells_at_a_time, expected_seconds
from tokentrial.pretrain.device import resolve_device
from tokentrial.pretrain.start import prepare_start, start_folder
from tokentrial.progress import Progress
from tokentrial.report.comparison import build
from tokentrial.storage import Storage
from tokentrial.store import MANIFEST, intact, link, lock, machine_errors, need_disk, read_json, write_bytes, write_json
from tokentrial.sweep import to_run, variants
from tokentrial.trial import Trial


def check(trial: Trial) -> None:
    """Refuse a trial whose arms there are none of, or with variants that are no trials, before anything is written."""
    for name in trial.arms:
        arms.get_arm(name)
    variants(trial)


Todo = list[tuple[Cell, list[str]]]


def run(
    trial: Trial, wanted: Sequence[str] | None = None, chosen: Sequence[Cell] | None = None
) -> dict[str, Any] | None:
    """Bring the wanted stages up to date, all of them where None, of the trial and then of its variants; after a whole
    run build the report and return it."""
    check(trial)
    report, before = _run(trial, wanted, chosen, ()), [trial]
    beside = to_run(trial)
    for number, variant in enumerate(beside, 1):
        print(f"{variant.kind} {number} of {len(beside)}: {variant.name}", file=sys.stderr)
        here = None if chosen is None else [cell for cell in chosen if cell.arm in variant.trial.arms]
        _run(variant.trial, wanted, here, before)
        before.append(variant.trial)
    return rebuild(trial.folder) if beside and report else report


def _run(
    trial: Trial, wanted: Sequence[str] | None, chosen: Sequence[Cell] | None, before_it: Sequence[Trial]
) -> dict[str, Any] | None:
    """One trial by itself. What those before it have made of the same text is not made again."""
    if beyond := beyond_limit(trial, stages(trial), _workers(trial, len(cells(trial)))):
        raise TrialError(beyond)
    storage = Storage(trial)
    storage.open()
    if before_it:
        _share_sources(trial, before_it[0])
    plan = CorpusPlan(trial)
    every = ["corpus", *stages(trial)]
    asked = every if wanted is None else [stage for stage in every if stage in wanted]
    with machine_errors(trial.folder), lock(trial.folder), interruptible(trial.folder):
        write_bytes(
            trial.folder / "trial.yaml", yaml.safe_dump(trial.model_dump(mode="json"), sort_keys=False).encode()
        )
        for other in before_it:
            prepare.reuse(plan, CorpusPlan(other))
        prepare_start(trial, plan.vocabulary)
        exchange(plan, cells(trial), storage)
        corpus_ready = plan.done and audits.audited(plan)
        if "corpus" not in asked and not corpus_ready:
            raise TrialError(f"{plan.folder}: not ready; run `tokentrial corpus` with the same trial first")
        here = cells(trial) if chosen is None else list(chosen)
        for cell in here:
            free(plan, cell, storage, [])
        before = _todo(plan, here, [stage for stage in asked if stage not in GRPO_STAGES])
        after = _todo(plan, here, [stage for stage in asked if stage in GRPO_STAGES])
        if not before and after and not learnable(trial):
            after = []
        if before or after or not corpus_ready:
            _order_holds([*before, *after], plan, asked)
            pending = [left for _, left in (*before, *after)]
            workers = _workers(trial, len(here))
            need_disk(trial.folder, cell_bytes(trial, pending, workers), "the trial", trial.disk_reserve_gb)
            # the workers of the cells start first, and import what takes seconds while the corpus is made
            with Progress() as progress, _executor(trial, workers, pending) if pending else nullcontext() as executor:
                if not corpus_ready:
                    _corpus(plan, progress)
                    exchange(plan, (), storage)
                if executor:
                    _cells(plan, "cells", before, executor, progress, storage)
                    if after and (not before or learnable(trial)):
                        _cells(plan, "grpo", after, executor, progress, storage)
        report = None
        if chosen is None and wanted is None:
            report = build(trial, evaluated(plan), declaration(trial), trial.folder / DECLARED, seconds(trial))
        storage.send_state()
        storage.send_report()
    return report


def _share_sources(trial: Trial, first: Trial) -> None:
    """A variant reads the same revision of the Hub's text, and starts from the same checkpoint, as the trial."""
    if not (trial.folder / "sources.json").exists() and (first.folder / "sources.json").exists():
        write_bytes(trial.folder / "sources.json", (first.folder / "sources.json").read_bytes())
    if not (start := start_folder(trial)).exists() and (of := start_folder(first)).exists():
        shutil.copytree(of, start, copy_function=lambda path, to: link(Path(path), Path(to)))


def evaluations(trial: Trial, chosen: Sequence[Cell]) -> list[str]:
    """The evaluations of stages that all the chosen cells have been through, at least that of pretraining."""
    plan = CorpusPlan(trial)
    pending = {stage for cell in chosen for stage in cell.pending(plan)}
    after = [stage for stage in stages(trial) if stage.startswith("eval_")]
    return [stage for stage in after if stage == after[0] or model_of(trial, stage) not in pending]


def evaluated(plan: CorpusPlan) -> dict[tuple[str, int], dict[str, Path]]:
    """Folders of every cell's up-to-date results, by the stage that was evaluated."""
    found = {}
    for cell in cells(plan.trial):
        pending = cell.pending(plan)
        done = [stage for stage in stages(plan.trial) if stage.startswith("eval_") and stage not in pending]
        for stage in done:
            intact(cell.folder(plan.trial, stage))
        found[cell.arm, cell.seed] = {s.removeprefix("eval_"): cell.folder(plan.trial, s) for s in done}
    return found


def _todo(plan: CorpusPlan, chosen: Sequence[Cell], asked: Sequence[str]) -> Todo:
    """What of the asked stages is pending, cell by cell; cells with nothing to do are left out."""
    found = [(cell, [stage for stage in cell.pending(plan) if stage in asked]) for cell in chosen]
    return [(cell, pending) for cell, pending in found if pending]


def _executor(trial: Trial, workers: int, pending: Sequence[Sequence[str]]) -> LocalExecutor | RayExecutor:
    """Where the cells run, whose pending stages these are; on Ray a cell takes a GPU where its device is one. Beside a
    GPU the workers share the cores; on a CPU each has one, so that no sum depends on how many there are."""
    cuda = resolve_device(trial.pretrain) == "cuda"
    if trial.executor == "local":
        threads = max(1, cores() // workers) if cuda else 1
        return LocalExecutor(workers, threads, imports([stage for left in pending for stage in left]))
    gpus = float(cuda) if trial.ray.gpus is None else trial.ray.gpus
    return RayExecutor(workers, trial.ray.address, trial.ray.cpus, gpus)


def _cells(
    plan: CorpusPlan,
    phase: str,
    todo: Todo,
    executor: LocalExecutor | RayExecutor,
    progress: Progress,
    storage: Storage,
) -> None:
    trial = plan.trial
    if any(stage.startswith("eval_") for _, pending in todo for stage in pending):
        declare(trial)
    storage.send_state()  # what is declared lasts before the first look
    expected = expected_seconds(trial, {stage: took.values() for stage, took in seconds(trial).items()})
    progress.start(phase, {cell.name: [expected[stage] for stage in pending] for cell, pending in todo})
    here = trial.model_copy(update={"output": str(trial.folder.absolute())})  # workers may stand elsewhere
    executor.run([Call(cell.name, run_cell, (here, cell, pending)) for cell, pending in todo], progress)
    exchange(plan, [cell for cell, _ in todo], storage)  # from the machines of the workers


def learnable(trial: Trial) -> bool:
    """Whether GRPO goes on, decided once for the whole trial: it is skipped only where pass@k is zero in every cell
    and the trial says `skip`. The decision is written to `grpo_decision.json`, for the report."""
    assert trial.grpo is not None
    stage, plan = before_grpo(trial), CorpusPlan(trial)
    there = [cell for cell in cells(trial) if stage not in cell.pending(plan)]
    measured = {c.name: read_json(c.folder(trial, stage) / "pass_at_k.json")["pass_at_k"] for c in there}
    absent = [cell.name for cell in cells(trial) if cell not in there]
    nothing = not any(measured.values())
    if nothing and absent and trial.grpo.on_zero == "skip":
        raise TrialError(
            f"grpo: pass@k is not measured yet in {', '.join(absent)}, and whether GRPO goes on is decided once for "
            "all cells; run `tokentrial evaluate` with the same trial first"
        )
    if nothing:
        print(
            f"grpo: no sample of any cell is right (pass@{trial.grpo.generations} is 0): RL has nothing to learn "
            f"from; grpo.on_zero is {trial.grpo.on_zero!r}",
            file=sys.stderr,
        )
    go_on = not nothing or trial.grpo.on_zero == "go on"
    write_json(trial.folder / "grpo_decision.json", {"pass_at_k": measured, "go_on": go_on})
    return go_on


def _corpus(plan: CorpusPlan, progress: Progress) -> None:
    """Text, drills, surveys and what each arm changes in every shard, then exposure and audit."""
    workers = plan.trial.workers or cores()
    with LocalExecutor(workers) as executor:

        def one(name: str, function: Callable[..., Any], *arguments: Any) -> None:
            progress.start(name, {name: [1.0]})
            executor.run([Call(name, function, arguments)], progress)

        def each(function: Callable[..., Any], calls: Mapping[str, tuple[Any, ...]]) -> list[Any]:
            progress.start("patches", {name: [1.0] for name in calls})
            return executor.run([Call(name, function, arguments) for name, arguments in calls.items()], progress)

        one("text", prepare.prepare_text, plan, workers)
        one("drills", prepare.prepare_drills, plan)
        prepare.prepare_patches(plan, each)
        prepare.write_meta(plan)
        one("audit", audits.audit, plan)


def declare(trial: Trial) -> None:
    """Write down, before the first evaluation, what is decided; what differs later is printed as exploratory."""
    path = trial.folder / DECLARED
    if not path.exists():
        write_json(path, declaration(trial))


def declaration(trial: Trial) -> dict[str, Any]:
    """What a trial declares before a look: seeds, outcomes, contrasts, test, gate."""
    beside = {key: value for key, value in (("sweep", trial.sweep), ("also", trial.also)) if value}
    return {"seeds": trial.seeds, "control": trial.control, **trial.verdict.model_dump(mode="json"), **beside}


def _order_holds(todo: Todo, plan: CorpusPlan, asked: Sequence[str]) -> None:
    """A stage alone needs the ones before it."""
    order = stages(plan.trial)
    for cell, pending in todo:
        left = [stage for stage in cell.pending(plan) if stage not in asked and not stage.startswith("eval_")]
        for stage, before in product(pending, left):
            if order.index(before) < order.index(stage):
                raise TrialError(f"{cell.name}: {stage} needs {before}; run `tokentrial {before}` first")


def _workers(trial: Trial, cells: int) -> int:
    """As the trial says, else one a core on a CPU, on a GPU as many small cells as it holds, on Ray as many as it has
    room for; never more than there is work."""
    most = trial.workers
    if most is None and trial.executor == "ray":
        most = cells
    elif most is None:
        on_cpu = resolve_device(trial.pretrain) == "cpu"
        most = cores() if on_cpu else cells_at_a_time(trial, this_machine({}))
    return max(1, min(most, cells))


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


def rebuild(folder: Path) -> dict[str, Any]:
    """The report of a run folder, from what is there now."""
    trial = open_run(folder)
    if not (folder / "corpus" / "exposure.json").exists():
        raise TrialError(f"{folder}: no corpus yet; there is nothing to report")
    return build(trial, evaluated(CorpusPlan(trial)), declaration(trial), folder / DECLARED, seconds(trial))


def materialize(
    trial: Trial, arm: str, seed: int, target_tokens: int | None, shard_size: int, folder: Path | None
) -> tuple[Path, dict[str, int]]:
    """Write an arm's mixed stream of one seed in full shards, from a corpus that is made where it is not there;
    returns the folder and its counts."""
    if arm not in trial.arms:
        raise SettingsError(f"--materialize {arm}: the trial's arms are {', '.join(trial.arms)}")
    out = folder or trial.folder / "materialized" / arm / f"seed{seed}"
    if out.exists() and not (out / MANIFEST).exists():
        raise TrialError(f"{out}: exists and was not written by tokentrial; give another --out-dir")
    run(trial, ("corpus",))
    tokens = target_tokens or trial.pretrain.tokens
    return out, written_out(CorpusPlan(trial), arm, seed, tokens, shard_size, out)


def verify(trial: Trial, full: bool, documents: int = 100) -> dict[str, Any]:
    """Derive sampled documents of a prepared corpus again from its source, and compare them in every arm."""
    check(trial)
    return rederive(CorpusPlan(trial), full, documents, trial.corpus.seed)
