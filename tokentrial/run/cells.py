"""The stages of one cell, one after the other, in a worker; and a cell's results between run folder and storage."""

import shutil
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

from tokentrial.corpus.prepare import CorpusPlan
from tokentrial.errors import Interrupted
from tokentrial.executors.worker import report, stoppable
from tokentrial.steps.cell import Cell
from tokentrial.steps.stage import Job, last_models, stage_of, stages
from tokentrial.store.disk import held_bytes, need_within, translate_os_errors
from tokentrial.store.files import read_json
from tokentrial.store.folders import is_done, is_weights, lock, prune, read_manifest, require_intact, step
from tokentrial.store.storage import Storage
from tokentrial.store.tuned import arm_trial
from tokentrial.trial.pretraining import weights_name
from tokentrial.trial.trial import Trial

_PATIENCE_S = 180.0  # longer than NFS keeps the lock of a machine that is gone, and Ray a node that is cut off
Progress = Callable[[float, str], None]


def run_cell(trial: Trial, cell: Cell, wanted: Sequence[str], declared: str | None = None) -> None:
    """Do the wanted stages of a cell, in a worker, on whatever machine; one call at a time works on a cell. What is
    done, here or in the storage, is skipped; weights that were pruned are fetched back as a stage reads them, or made
    again. `declared` is the sha256 that its results are made under."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    warnings.filterwarnings("ignore", category=FutureWarning)  # of transformers, about names inside TRL
    storage, lock_name = Storage(trial), f".seed{cell.seed}.lock"
    # a cell has one writer: a worker on a node that Ray gave up may still be ending, and its lock ends with it
    with translate_os_errors(trial.folder), lock(trial.folder / cell.arm, lock_name, _PATIENCE_S):
        storage.state.fetch()
        corpus = CorpusPlan(arm_trial(trial, cell.arm))
        sync_storage(corpus, [cell], storage)
        todo = [stage for stage in cell.pending(corpus) if stage in wanted]
        for number, stage in enumerate(todo):

            def progress(share: float, text: str, number: int = number) -> None:
                report(cell.name, (number + share) / len(todo), text)

            _make(stage, corpus, cell, storage, progress, declared)
            prune_weights(corpus, cell, storage, todo[number + 1 :])


def _make(
    name: str, corpus: CorpusPlan, cell: Cell, storage: Storage, progress: Progress, declared: str | None
) -> None:
    """One stage into its folder, the model that it reads first where that was pruned."""
    trial, fingerprints, model = corpus.trial, cell.fingerprints(corpus), corpus.folder
    stage, folder = stage_of(trial, name), cell.folder(trial, name)
    if stage.reads:
        model = cell.folder(trial, stage.reads)
        if not is_done(model, fingerprints[stage.reads], whole=True):
            storage.fetch(model, fingerprints[stage.reads])
            # what comes may have been pruned there, too
            if not is_done(model, fingerprints[stage.reads], whole=True):
                _make(stage.reads, corpus, cell, storage, progress, declared)
    checkpoints = cell.checkpoints(trial, name, fingerprints[name])
    storage.fetch_checkpoints(checkpoints)
    attempt = step(folder, fingerprints[name], stage=name, arm=cell.arm, seed=cell.seed, declaration=declared)
    with translate_os_errors(folder), attempt as partial:
        needed = stage.disk_bytes() + stage.checkpoint_bytes() - held_bytes(checkpoints)
        need_within(trial.folder, needed, f"{cell.name}: {name}", trial.disk_limit_gb)
        job = Job(corpus, cell, partial, model, checkpoints, progress, storage.send_checkpoint)
        for source in stage.sources(job):
            require_intact(source)
        stage.make(job)
    with stoppable() as stop:
        storage.send(folder)
        _drop(checkpoints.parent, storage)
    if stop():
        raise Interrupted(f"{folder}: finished; stopped before the next stage")


def drop_checkpoints(corpus: CorpusPlan, cell: Cell, storage: Storage) -> None:
    """Drop those of finished stages, which an attempt left that ended before it could."""
    if not any(cell.folder(corpus.trial, "pretrain").parent.glob("*.checkpoints")):
        return  # of most cells: nothing is hashed for them
    for name, fingerprint in cell.fingerprints(corpus).items():
        checkpoints = cell.checkpoints(corpus.trial, name, fingerprint).parent
        # one whose weights were pruned may be being made again
        if checkpoints.exists() and is_done(cell.folder(corpus.trial, name), fingerprint, whole=True):
            _drop(checkpoints, storage)


def _drop(checkpoints: Path, storage: Storage) -> None:
    storage.drop(checkpoints)
    shutil.rmtree(checkpoints, ignore_errors=True)


def sync_storage(corpus: CorpusPlan, cells: Sequence[Cell], storage: Storage) -> None:
    """Bring the finished steps of the corpus and of cells from the run folder to its storage, and from there."""
    for folder, fingerprint in corpus.steps:
        storage.sync(folder, fingerprint)
    storage.state.fetch()  # the corpus's small files lie in its step
    for folder, fingerprint in _steps(corpus, cells):
        storage.sync(folder, fingerprint)


def fetch_results(corpus: CorpusPlan, cells: Sequence[Cell], storage: Storage) -> None:
    """Bring the finished steps of cells that the storage alone has; nothing there is replaced."""
    for folder, fingerprint in _steps(corpus, cells):
        if not is_done(folder, fingerprint):
            storage.fetch(folder, fingerprint, weights=False)


def _steps(corpus: CorpusPlan, cells: Sequence[Cell]) -> list[tuple[Path, str]]:
    """Folder and fingerprint of each stage of these cells; of none where the trial has no storage to ask."""
    return [
        (cell.folder(corpus.trial, stage), fingerprint)
        for cell in (cells if corpus.trial.storage else ())
        for stage, fingerprint in cell.fingerprints(corpus).items()
    ]


def prune_weights(corpus: CorpusPlan, cell: Cell, storage: Storage, left: Sequence[str]) -> None:
    """Under a limit of the disk, prune weights: where a storage has them, those that none of the stages `left` reads.
    Without a storage, those that no pending stage reads, except the models from which no other is made and the weights
    that `keep_every` keeps."""
    trial = corpus.trial
    if trial.disk_limit_gb is None:
        return
    reads, fingerprints = {stage.name: stage.reads for stage in stages(trial)}, cell.fingerprints(corpus)
    pending = cell.pending(corpus)
    needed = {reads[name] for name in (left if trial.storage else pending)}
    needed |= set() if trial.storage else last_models(trial)
    for name in {model for model in reads.values() if model} - needed - {*pending}:
        folder = cell.folder(trial, name)
        kept = _kept_every(trial, folder) if name == "pretrain" and not trial.storage else ()
        gone = [file for file in filter(is_weights, read_manifest(folder)["files"]) if file not in kept]
        if trial.storage and not storage.holds(folder, fingerprints[name]):
            continue
        if any((folder / file).exists() for file in gone):
            prune(folder, gone)


def _kept_every(trial: Trial, pretrained: Path) -> set[str]:
    """Names of the weights before the end that `keep_every` keeps, of a cell that may have taken more or fewer steps
    than the trial says (`budget.match=bytes`)."""
    if (every := trial.pretrain.checkpoint.keep_every) is None:
        return set()
    steps = read_json(pretrained / "results.json")["total_steps"]
    return {weights_name(step) for step in range(every, steps, every)}
