"""The run: a walk over what is pending. What is done is skipped, what is next is handed to workers.

A cell goes through its stages one after the other (`cells.py`); between cells the walk stops only before a stage that
is decided once for all of them (GRPO), which needs what every cell has shown so far.
"""

import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import FrameType
from typing import Any

from tokentrial.corpus import prepare
from tokentrial.corpus.materialize import materialize as written_out
from tokentrial.corpus.prepare import CorpusPlan
from tokentrial.corpus.stream import drill_sets, drills_name
from tokentrial.corpus.verify import verify as rederive
from tokentrial.devices import this_machine
from tokentrial.errors import Interrupted, SettingsError, TrialError
from tokentrial.executors.local import LocalExecutor
from tokentrial.executors.progress import Progress
from tokentrial.executors.ray import RayExecutor
from tokentrial.executors.worker import STOP_SIGNALS, Call, cores
from tokentrial.plan.disk import beyond_limit, cell_bytes
from tokentrial.plan.work import cells_at_a_time, expected_seconds
from tokentrial.pretrain.device import resolve_device
from tokentrial.pretrain.start import prepare_start, start_folder
from tokentrial.report.comparison import build
from tokentrial.run.budget import affordable_cells
from tokentrial.run.cells import drop_checkpoints, fetch_results, prune_weights, run_cell, sync_storage
from tokentrial.run.check import check, check_inputs, check_machine
from tokentrial.run.declaration import declare, hash_in_force, manifests
from tokentrial.run.replacing import refuse_mixed_precision, refuse_replacing, refuse_taking_over
from tokentrial.run.run_folder import evaluated, open_run, seconds, wanted_seeds, write_trial
from tokentrial.run.standing import standing
from tokentrial.run.tuning import tune
from tokentrial.steps import corpus as corpus_step
from tokentrial.steps.cell import Cell, cells
from tokentrial.steps.stage import Stage, phases, stages
from tokentrial.store.disk import held_bytes, need_disk, translate_os_errors
from tokentrial.store.files import remove_stale_partials, write_bytes
from tokentrial.store.folders import MANIFEST, is_done, is_whole, link_folder, lock
from tokentrial.store.storage import Storage
from tokentrial.tasks import contents
from tokentrial.trial.sweep import to_run
from tokentrial.trial.trial import Trial

Todo = list[tuple[Cell, list[str]]]


def run(
    trial: Trial,
    wanted: Sequence[str] | None = None,
    chosen: Sequence[Cell] | None = None,
    overwrite: bool = False,
    budget_minutes: float | None = None,
) -> dict[str, Any] | None:
    """Bring the wanted stages up to date, all of them where None, of the trial and then of its variants; where it tunes
    its arms, they are tuned before. After a whole run build the report and return it. Finished results of other
    settings are replaced only with `overwrite`. With `budget_minutes` what fits is run, of which the corpora come
    first, and the rest stays pending."""
    check(trial)
    check_machine(trial)
    affordable = None
    with interruptible(trial.folder):
        if budget_minutes is not None:
            if chosen is not None:
                raise SettingsError("--budget-minutes chooses whole seeds by itself; leave --arm and --seed out")
            if trial.tune:
                raise SettingsError(
                    "--budget-minutes and tune: no seed is run before tuning is finished; leave one out"
                )
            affordable = _within_budget(trial, wanted, overwrite, budget_minutes)
        if trial.tune and (wanted is None or {*wanted} - {"corpus"}):
            tune(trial, trial.tune, run_one, overwrite)
        others = [] if trial.tune else to_run(trial)
        report, earlier = run_one(trial, wanted, chosen, (), overwrite, affordable), [trial]
        for number, variant in enumerate(others, 1):
            its_cells = None if chosen is None else [cell for cell in chosen if cell in cells(variant.trial)]
            if affordable is None or any(affordable[variant.trial.folder]):
                print(f"{variant.kind} {number} of {len(others)}: {variant.name}", file=sys.stderr)
                run_one(variant.trial, wanted, its_cells, earlier, overwrite, affordable)
            earlier.append(variant.trial)
        if others and report:  # with what the variants have come to
            report = rebuild(trial.folder)
            if trial.storage:
                with lock(trial.folder):
                    Storage(trial).send_report()
        return report


def _within_budget(
    trial: Trial, wanted: Sequence[str] | None, overwrite: bool, minutes: float
) -> dict[Path, list[list[Cell]]]:
    """What fits the budget, less the time that the corpora take now."""
    if not minutes > 0:
        raise SettingsError(f"--budget-minutes {minutes:g}: expected more than 0")
    if trial.executor == "ray" and trial.workers is None:
        raise SettingsError("--budget-minutes: how many cells Ray runs at a time is not known; give workers=NUMBER")
    start = time.monotonic()
    run(trial, ("corpus",), None, overwrite)
    return affordable_cells(trial, wanted, 60 * minutes - (time.monotonic() - start), _workers)


def run_one(
    trial: Trial,
    wanted: Sequence[str] | None,
    chosen: Sequence[Cell] | None,
    earlier: Sequence[Trial],
    overwrite: bool,
    affordable: Mapping[Path, Sequence[Sequence[Cell]]] | None = None,
) -> dict[str, Any] | None:
    """One trial by itself. What earlier ones have made of the same text is not made again. Where a budget is to be kept
    only `affordable` cells are run, by run folder and phase."""
    if beyond := beyond_limit(trial, _workers(trial, len(cells(trial)))):
        raise TrialError(beyond)
    storage = Storage(trial)
    with translate_os_errors(trial.folder), lock(trial.folder):
        refuse_taking_over(trial, overwrite)
        of_corpus = [trial.folder / "corpus", *trial.folder.glob("corpus/*/"), *trial.folder.glob("corpus/patches/*/")]
        remove_stale_partials(trial.folder, *of_corpus, *trial.folder.glob("*/seed*"))
        storage.state.fetch(changed=True)
        refuse_taking_over(trial, overwrite)  # the declaration that came may not be that of the results here
        if earlier:
            _share_sources(trial, earlier[0])
        corpus = CorpusPlan(trial)
        prepare_start(trial, corpus.vocabulary)  # what it holds enters the fingerprints
        by_phase = affordable[trial.folder] if affordable is not None else None
        within = cells(trial) if by_phase is None else list(by_phase[0])

        def needed() -> list[Cell]:
            seeds_now = wanted_seeds(corpus)  # reads every cell's answers where looks are declared
            return [cell for cell in within if cell.seed in seeds_now]

        these = needed() if chosen is None else list(chosen)
        replaced = refuse_replacing(corpus, storage, these, overwrite)
        refuse_mixed_precision(corpus, these)
        for other in earlier:
            prepare.reuse(corpus, CorpusPlan(other))
        asked = [stage.name for stage in stages(trial) if wanted is None or stage.name in wanted]
        check_inputs(corpus, these, asked, storage)
        corpus.source.remember()
        contents.remember(trial)
        write_trial(trial)
        storage.state.claim()  # before anything is sent there
        sync_storage(corpus, these, storage)  # they replace nothing, as was checked above
        fetch_results(corpus, [cell for cell in cells(trial) if cell not in these], storage)
        make_corpus = not corpus_step.is_ready(corpus)
        if make_corpus and wanted is not None and "corpus" not in wanted:
            raise TrialError(f"{corpus.folder}: not ready; run `tokentrial corpus` with the same trial first")
        for cell in these:
            prune_weights(corpus, cell, storage, [])
            drop_checkpoints(corpus, cell, storage)
        _walk(corpus, these, asked, make_corpus, storage, replaced, by_phase)
        if not within:  # its variants' cells begin now, and nothing may be declared after a look at them
            declare(trial, replaced, storage)
        # one look after another, until the declared plan needs no further seeds
        while chosen is None and len(more := needed()) > len(these):
            these = more
            replaced = refuse_replacing(corpus, storage, these, overwrite)
            refuse_mixed_precision(corpus, these)
            check_inputs(corpus, these, asked, storage)
            _walk(corpus, these, asked, False, storage, replaced, by_phase)
        report = None
        if chosen is None and wanted is None and within:
            for decider, _ in phases(trial, asked):  # the record may be lost, while what it was decided by is there
                if decider and by_phase is None and not decider.is_decided:
                    decider.goes_on(corpus)
            report = build(trial, evaluated(corpus), standing(trial), seconds(trial))
        storage.state.send()
        storage.send_report()
    return report


def _walk(
    corpus: CorpusPlan,
    these: Sequence[Cell],
    asked: Sequence[str],
    make_corpus: bool,
    storage: Storage,
    replaced: Sequence[str],
    by_phase: Sequence[Sequence[Cell]] | None,
) -> None:
    """The corpus where it is to be made, then phase after phase what is pending of the asked stages, of the cells that
    a budget allows in that phase; before the first of them the declaration."""
    trial, ahead = corpus.trial, []
    for number, (decider, names) in enumerate(phases(trial, asked)):
        allowed = these if by_phase is None else [cell for cell in these if cell in by_phase[number]]
        if todo := _todo(corpus, allowed, names):
            ahead.append((decider, todo))
    _order_holds([entry for _, todo in ahead for entry in todo], corpus, asked)

    def goes_on(decider: Stage | None) -> bool:
        return decider is None or decider.goes_on(corpus)

    while ahead and not make_corpus and not goes_on(ahead[0][0]):
        del ahead[0]  # before a worker is started for it
    if not ahead and not make_corpus:
        return
    pending = [left for _, todo in ahead for _, left in todo]
    workers = _workers(trial, max((len(todo) for _, todo in ahead), default=1))
    # of the cells at work what their checkpoints hold by now is among the bytes that they take
    held = sorted((_checkpoint_bytes(corpus, cell, left) for _, todo in ahead for cell, left in todo), reverse=True)
    needed = max(0, cell_bytes(trial, pending, workers) - sum(held[:workers]))
    need_disk(trial.folder, needed, "the trial", trial.disk_reserve_gb)
    # the workers of the cells start first, and import what takes seconds while the corpus is made
    with Progress() as progress, _executor(trial, workers, pending) if pending else nullcontext() as executor:
        if make_corpus:
            corpus_step.make(corpus, progress)
            sync_storage(corpus, (), storage)
        if ahead:
            declare(trial, replaced, storage)
            storage.state.send()  # what is declared lasts before the first training step
        for number, (decider, todo) in enumerate(ahead):
            if executor and ((number == 0 and not make_corpus) or goes_on(decider)):
                _run_cells(corpus, decider.name if decider else "cells", todo, executor, progress, storage)


def _checkpoint_bytes(corpus: CorpusPlan, cell: Cell, left: Sequence[str]) -> int:
    """What an interrupted stage of a cell holds to go on from."""
    fingerprints = cell.fingerprints(corpus)
    return max(held_bytes(cell.checkpoints(corpus.trial, name, fingerprints[name])) for name in left)


def _todo(corpus: CorpusPlan, these: Sequence[Cell], names: Sequence[str]) -> Todo:
    """What of the named stages is pending, cell by cell; cells with nothing to do are left out."""
    pending_stages = [(cell, [stage for stage in cell.pending(corpus) if stage in names]) for cell in these]
    return [(cell, pending) for cell, pending in pending_stages if pending]


def _order_holds(todo: Todo, corpus: CorpusPlan, asked: Sequence[str]) -> None:
    """A stage alone needs the model that it reads, and so on to the first."""
    reads = {stage.name: stage.reads for stage in stages(corpus.trial)}
    for cell, pending in todo:
        left = {*cell.pending(corpus)} - {*asked}
        for name in pending:
            missing, before = None, reads[name]
            while before:
                missing, before = (before if before in left else missing), reads[before]
            if missing:
                raise TrialError(f"{cell.name}: {name} needs {missing}; run `tokentrial {missing}` first")


def _share_sources(trial: Trial, first: Trial) -> None:
    """A variant reads the same revision of the Hub's text, and starts from the same checkpoint, as the trial."""
    if not (trial.folder / "sources.json").exists() and (first.folder / "sources.json").exists():
        write_bytes(trial.folder / "sources.json", (first.folder / "sources.json").read_bytes())
    if not (start := start_folder(trial)).exists() and (start_of_first := start_folder(first)).exists():
        link_folder(start_of_first, start)


def evaluations(trial: Trial, chosen: Sequence[Cell], overwrite: bool = False) -> list[str]:
    """The evaluations of stages that all the chosen cells have been through, at least that of pretraining."""
    check(trial)
    refuse_taking_over(trial, overwrite)
    corpus = CorpusPlan(trial)
    pending = {stage for cell in chosen for stage in cell.pending(corpus)}
    after = [stage for stage in stages(trial) if stage.measures]
    return [stage.name for stage in after if stage is after[0] or stage.reads not in pending]


def _executor(trial: Trial, workers: int, pending: Sequence[Sequence[str]]) -> LocalExecutor | RayExecutor:
    """Where the cells run, whose pending stages these are; on Ray a cell takes a GPU where its device is one. Beside a
    GPU the workers share the cores; on a CPU each has one, so that no sum depends on how many there are."""
    cuda = resolve_device(trial.pretrain) == "cuda"
    if trial.executor == "local":
        threads = max(1, cores() // workers) if cuda else 1
        names = {name for left in pending for name in left}
        imports = [module for stage in stages(trial) if stage.name in names for module in stage.imports]
        return LocalExecutor(workers, threads, list(dict.fromkeys(imports)))
    gpus = float(cuda) if trial.ray.gpus is None else trial.ray.gpus
    return RayExecutor(workers, trial.ray.address, trial.ray.cpus, gpus)


def _run_cells(
    corpus: CorpusPlan,
    phase: str,
    todo: Todo,
    executor: LocalExecutor | RayExecutor,
    progress: Progress,
    storage: Storage,
) -> None:
    trial = corpus.trial
    storage.state.send()  # a decision on a stage lasts before the cells go through it
    expected = expected_seconds(trial, {stage: durations.values() for stage, durations in seconds(trial).items()})
    progress.start(phase, {cell.name: [expected[stage] for stage in pending] for cell, pending in todo})
    absolute = trial.model_copy(update={"output": str(trial.folder.absolute())})  # workers may stand elsewhere
    under = hash_in_force(trial.folder)  # the worker's copy of the file may be older
    executor.run([Call(cell.name, run_cell, (absolute, cell, pending, under)) for cell, pending in todo], progress)
    sync_storage(corpus, [cell for cell, _ in todo], storage)  # from the machines of the workers


def _workers(trial: Trial, cells: int) -> int:
    """As the trial says, else one a core on a CPU, on a GPU as many small cells as it holds, one on Apple's, whose
    memory is the machine's, on Ray as many as it has room for; never more than there is work."""
    most = trial.workers
    if most is None and trial.executor == "ray":
        most = cells
    elif most is None:
        kind = resolve_device(trial.pretrain)
        most = {"cpu": cores(), "mps": 1}.get(kind) or cells_at_a_time(trial, this_machine({}))
    return max(1, min(most, cells))


@contextmanager
def interruptible(folder: Path) -> Iterator[None]:
    """Within the block SIGINT, SIGTERM and SIGUSR1 end the work as Interrupted: the folder stays resumable."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise Interrupted(f"{folder}: stopped by {signal.Signals(number).name}; the same command resumes from here")

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, *STOP_SIGNALS)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def rebuild(folder: Path) -> dict[str, Any]:
    """The report of a run folder, from what is there now. Raises TrialError where results would be left out of it since
    a file that they were made from has changed."""
    trial = open_run(folder)
    if not (folder / "corpus" / "exposure.json").exists():
        raise TrialError(f"{folder}: no corpus yet; there is nothing to report")
    for variant in [] if trial.tune else to_run(trial):  # cells that were collected have no report of their variant yet
        if (variant.trial.folder / "trial.yaml").exists() and manifests(variant.trial.folder):
            rebuild(variant.trial.folder)
    corpus = CorpusPlan(trial)
    folders, all_stages = evaluated(corpus), stages(trial)
    left_out = [
        f"{cell.name}: {stage.name}"
        for cell in cells(trial)
        for stage in all_stages
        if stage.measures
        and stage.measures not in folders[cell.arm, cell.seed]
        and is_whole(cell.folder(trial, stage.name))
    ]
    changed = contents.changed(trial, dict.fromkeys(name for stage in all_stages for name in stage.rows))
    if not is_done(corpus.folder, corpus.text_fingerprint):
        changed = [trial.corpus.source, *changed]
    if left_out and changed:
        raise TrialError(
            f"{folder}: {len(left_out)} results, such as {left_out[0]}, were made from other contents of "
            f"{', '.join(changed)}; put them back, or run the trial again; the report is unchanged"
        )
    if left_out:
        print(f"{folder}: left out, made with other settings: {', '.join(left_out)}", file=sys.stderr)
    return build(trial, folders, standing(trial), seconds(trial))


def materialize(
    trial: Trial, arm: str, seed: int, target_tokens: int | None, shard_size: int, folder: Path | None
) -> tuple[Path, dict[str, int]]:
    """Write an arm's mixed stream of one seed in full shards, from a corpus that is made where it is not there;
    returns the folder and its counts."""
    if arm not in trial.arms:
        raise SettingsError(f"--materialize {arm}: the trial's arms are {', '.join(trial.arms)}")
    tokens = trial.pretrain.tokens if target_tokens is None else target_tokens
    for option, value in (("--target-tokens", tokens), ("--shard-size", shard_size)):
        if value < 1:
            raise SettingsError(f"{option} is {value}, expected a number of tokens, 1 or more")
    folds = trial.corpus.drills.holdout_folds
    if trial.corpus.drills.share and drills_name(seed, folds) not in drill_sets(trial):
        raise SettingsError(f"--seed {seed}: it leaves out other facts than the seeds {trial.seeds}; give one of these")
    out = folder or trial.folder / "materialized" / arm / f"seed{seed}"
    if out.exists() and not (out / MANIFEST).exists():
        raise TrialError(f"{out}: exists and was not written by tokentrial; give another --out-dir")
    run(trial, ("corpus",))
    return out, written_out(CorpusPlan(trial), arm, seed, tokens, shard_size, out)


def verify(trial: Trial, full: bool) -> dict[str, Any]:
    """Derive about 100 sampled documents of a prepared corpus again from its source, and compare them in every arm."""
    check(trial)
    refuse_taking_over(trial, overwrite=False)
    return rederive(CorpusPlan(trial), full, 100, trial.corpus.seed)
