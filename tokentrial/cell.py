"""A cell, arm x seed, and its stages: which are done, and how one is done in a worker."""

import shutil
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tokentrial.arms import arm as arms
from tokentrial.corpus.prepare import CorpusPlan
from tokentrial.corpus.stream import Stream
from tokentrial.disk import stage_bytes
from tokentrial.errors import Interrupted
from tokentrial.executors.worker import report, stoppable
from tokentrial.pretrain.device import precision, ranks_of, resolve_device, resolve_dtype
from tokentrial.pretrain.launch import launch
from tokentrial.pretrain.start import start_fingerprint, start_folder
from tokentrial.storage import Storage, is_weights
from tokentrial.store import (
    MANIFEST,
    fingerprint,
    held_bytes,
    intact,
    is_done,
    lock,
    machine_errors,
    need_within,
    prune,
    read_json,
    step,
)
from tokentrial.tasks.training_examples import source_hashes, stage_sources
from tokentrial.trial import Trial

FOLDERS = {
    "pretrain": "pretrain",
    "export": "hf",
    "eval_pretrain": "eval_pretrain",
    "sft": "sft",
    "eval_sft": "eval_sft",
    "grpo": "grpo",
    "eval_grpo": "eval_grpo",
}
GRPO_STAGES = ("grpo", "eval_grpo")
# bumped by hand when a stage's result changes for the same settings
_VERSIONS = {"pretrain": 2, "export": 3, "evaluate": 3, "sft": 2, "grpo": 2}
# the settings of GRPO that pass@k before it depends on
_PASS = {"task", "prompts", "generations", "new_tokens", "temperature"}
# what a stage imports that takes seconds
_IMPORTS = {
    "pretrain": (
        "tokentrial.pretrain.train",
        "tokentrial.evaluate.evaluate",
        "transformers.tokenization_utils_tokenizers",  # of the probe
        "torch._dynamo",  # of torch's optimizers, compiled or not
    ),
    "export": ("tokentrial.pretrain.export", "transformers.models.gpt2.modeling_gpt2"),
    "sft": ("tokentrial.posttrain.sft", "trl.trainer.sft_trainer"),
    "grpo": ("tokentrial.posttrain.grpo", "trl.trainer.grpo_trainer"),
}
_PATIENCE_S = 180.0  # longer than NFS keeps the lock of a machine that is gone, and Ray a node that is cut off


def stages(trial: Trial) -> list[str]:
    """The stages of a trial's cells, in order."""
    left_out = {"sft": trial.sft, "grpo": trial.grpo}
    return [stage for stage in FOLDERS if left_out.get(stage.removeprefix("eval_"), True) is not None]


def model_of(trial: Trial, stage: str) -> str:
    """The stage whose model a stage exports, starts from or evaluates."""
    if stage == "export":
        return "pretrain"
    if stage in ("eval_pretrain", "sft"):
        return "export"
    if stage == "grpo":
        return "sft" if trial.sft else "export"
    return stage.removeprefix("eval_")


def imports(wanted: Sequence[str]) -> list[str]:
    """Modules that a worker will need for these stages, in the order in which it will."""
    return [module for stage, modules in _IMPORTS.items() if stage in wanted for module in modules]


def before_grpo(trial: Trial) -> str:
    """The evaluation in which pass@k is measured, where the trial has GRPO."""
    return "eval_sft" if trial.sft else "eval_pretrain"


@dataclass(frozen=True)
class Cell:
    """One arm and seed of a trial."""

    arm: str
    seed: int

    @property
    def name(self) -> str:
        return f"{self.arm}/seed{self.seed}"

    def folder(self, trial: Trial, stage: str) -> Path:
        return trial.folder / self.arm / f"seed{self.seed}" / FOLDERS[stage]

    def checkpoints(self, trial: Trial, stage: str, made: str) -> Path:
        """Where a stage of this fingerprint keeps what it goes on from."""
        folder = self.folder(trial, stage)
        return folder.with_name(f"{folder.name}.checkpoints") / made

    def fingerprint(self, plan: CorpusPlan) -> str:
        """Fingerprint of pretraining."""
        trial = plan.trial
        # with matched bytes, how far the control reads says how many steps an arm takes
        matched = {"bytes_of": plan.patch(trial.control)} if trial.budget.match == "bytes" else {}
        resolved = {"dtype": resolve_dtype(trial.pretrain), "init": start_fingerprint(trial)}
        return fingerprint(
            "pretrain",
            _VERSIONS["pretrain"],
            settings=trial.experiment("pretrain")["pretrain"] | resolved,
            seed=self.seed,
            corpus=plan.patch_fingerprint(self.arm),
            epochs=trial.corpus.epochs,
            **matched,
        )

    def fingerprints(self, plan: CorpusPlan) -> dict[str, str]:
        """Fingerprint of each stage: its settings and what it is made from."""
        trial = plan.trial
        prints = {"pretrain": self.fingerprint(plan)}
        written = {"trial": trial.name, "rewrite": trial.tokenizer.rewrite}
        prints["export"] = fingerprint("export", _VERSIONS["export"], of=prints["pretrain"], **written)
        for stage in stages(trial)[2:]:
            of = prints[model_of(trial, stage)]
            if stage.startswith("eval_"):
                measured = trial.experiment("evaluate", "tasks")
                read = list(trial.evaluate.tasks)
                if trial.grpo and stage == before_grpo(trial):
                    measured |= {"pass_at_k": trial.grpo.model_dump(mode="json", include=_PASS)}
                    read.append(trial.grpo.task)
                content = source_hashes(trial, read)
                prints[stage] = fingerprint(stage, _VERSIONS["evaluate"], of=of, settings=measured, content=content)
            else:
                settings = trial.experiment(stage, "tasks")
                if stage == "sft":
                    settings["held"] = trial.evaluate.solution_tokens  # the only setting of evaluation that it reads
                content = source_hashes(trial, stage_sources(trial, stage))
                prints[stage] = fingerprint(stage, _VERSIONS[stage], of=of, settings=settings, content=content)
        return prints

    def pending(self, plan: CorpusPlan) -> list[str]:
        """Stages that are not done, in order."""
        prints = self.fingerprints(plan)
        return [stage for stage in stages(plan.trial) if not is_done(self.folder(plan.trial, stage), prints[stage])]


def cells(trial: Trial) -> list[Cell]:
    """All cells, seed by seed, so that an unfinished run holds whole pairs."""
    return [Cell(arm, seed) for seed in trial.seeds for arm in trial.arms]


def exchange(plan: CorpusPlan, cells: Sequence[Cell], storage: Storage) -> None:
    """Bring the finished steps of the corpus and of cells from the run folder to its storage, and from there."""
    if plan.trial.storage is None:
        return
    for folder, wanted in plan.steps:
        storage.exchange(folder, wanted)
    storage.fetch_state()  # the corpus's small files lie in its step
    for cell in cells:
        for stage, wanted in cell.fingerprints(plan).items():
            storage.exchange(cell.folder(plan.trial, stage), wanted)


def free(plan: CorpusPlan, cell: Cell, storage: Storage, left: Sequence[str]) -> None:
    """Under a limit of the disk, prune weights: where a storage has them, what none of the stages `left` reads; without
    one, what no pending stage reads, the model in which the trial ends left out."""
    trial = plan.trial
    if trial.disk_limit_gb is None:
        return
    prints, pending = cell.fingerprints(plan), cell.pending(plan)
    read = {model_of(trial, stage) for stage in (left if trial.storage else [*pending, stages(trial)[-1]])}
    for stage in {model_of(trial, each) for each in stages(trial)} - read - {*pending}:
        folder = cell.folder(trial, stage)
        weights = sorted(filter(is_weights, read_json(folder / MANIFEST)["files"]), key=lambda name: (len(name), name))
        gone = (
            [] if trial.storage and not storage.holds(folder, prints[stage]) else weights[0 if trial.storage else -1 :]
        )
        if any((folder / name).exists() for name in gone):
            prune(folder, gone)


def run_cell(trial: Trial, cell: Cell, wanted: Sequence[str]) -> None:
    """Do the wanted stages of a cell, in a worker, on whatever machine; one call at a time works on a cell. What is
    done, here or in the storage, is skipped; weights that were pruned are fetched back as a stage reads them, or made
    again."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    warnings.filterwarnings("ignore", category=FutureWarning)  # of transformers, about names inside TRL
    storage = Storage(trial)
    storage.fetch_state()
    plan = CorpusPlan(trial)
    # a cell has one writer: a worker on a node that Ray gave up may still be ending, and its lock ends with it
    with lock(trial.folder / cell.arm, f".seed{cell.seed}.lock", _PATIENCE_S):
        _run_cell(plan, cell, wanted, storage)


def _run_cell(plan: CorpusPlan, cell: Cell, wanted: Sequence[str], storage: Storage) -> None:
    trial = plan.trial
    exchange(plan, [cell], storage)
    prints = cell.fingerprints(plan)
    todo = [stage for stage in cell.pending(plan) if stage in wanted]

    def have(stage: str, progress: Callable[[float, str], None]) -> None:
        folder = cell.folder(trial, stage)
        if not is_done(folder, prints[stage], whole=True):
            storage.fetch(folder, prints[stage])
            if not is_done(folder, prints[stage], whole=True):
                make(stage, progress)

    def make(stage: str, progress: Callable[[float, str], None]) -> None:
        if stage != "pretrain":
            have(model_of(trial, stage), progress)
        folder = cell.folder(trial, stage)
        checkpoints = cell.checkpoints(trial, stage, prints[stage])
        storage.fetch_checkpoints(checkpoints)
        made = step(folder, prints[stage], stage=stage, arm=cell.arm, seed=cell.seed)
        with machine_errors(folder), made as partial:
            needed = stage_bytes(trial, stage) - held_bytes(checkpoints)
            need_within(trial.folder, needed, f"{cell.name}: {stage}", trial.disk_limit_gb)
            _do(stage, partial, checkpoints, plan, cell, progress, storage.send_checkpoint)
        with stoppable() as stop:
            storage.send(folder)
            storage.drop(checkpoints.parent)
            shutil.rmtree(checkpoints.parent, ignore_errors=True)
        if stop():
            raise Interrupted(f"{folder}: finished; stopped before the next stage")

    for number, stage in enumerate(todo):

        def progress(share: float, text: str, number: int = number) -> None:
            report(cell.name, (number + share) / len(todo), text)

        make(stage, progress)
        free(plan, cell, storage, todo[number + 1 :])


def pretrain_cell(
    plan: CorpusPlan, cell: Cell, folder: Path, checkpoints: Path, progress: Callable[[float, str], None]
) -> None:
    """Pretrain a cell in this process, or as one rank of the group that torchrun has started."""
    from tokentrial.evaluate.evaluate import TableProbe
    from tokentrial.pretrain.ranks import process_group
    from tokentrial.pretrain.train import pretrain

    trial = plan.trial
    stream = Stream.of(trial, plan.folder, plan.vocabulary, cell.arm, cell.seed)
    served = read_json(plan.folder / "exposure.json")["served"][cell.arm][str(cell.seed)]
    settings = trial.pretrain.model_copy(update={"steps": served["steps"]})
    probe = TableProbe(trial, plan.vocabulary, arms.get_arm(cell.arm, plan.facts), cell.seed)
    with stoppable() as stop, process_group(settings) as ranks:
        start = start_folder(trial) if trial.pretrain.starts_from else None
        saved = Storage(trial).send_checkpoint
        pretrain(folder, stream, settings, probe, progress, checkpoints, ranks, stop, start, saved)


def _do(
    stage: str,
    folder: Path,
    checkpoints: Path,
    plan: CorpusPlan,
    cell: Cell,
    progress: Callable[[float, str], None],
    saved: Callable[[Path], None],
) -> None:
    """One stage into its folder."""
    from tokentrial.evaluate.evaluate import evaluate, load
    from tokentrial.pretrain.export import export

    trial, arm = plan.trial, arms.get_arm(cell.arm, plan.facts)
    source = plan.folder if stage == "pretrain" else cell.folder(trial, model_of(trial, stage))
    beside = [plan.folder / "drills", plan.patch_folder(cell.arm)] if stage == "pretrain" else []
    for made_from in [source, *beside]:
        intact(made_from)
    if stage == "pretrain":
        ranks = ranks_of(trial.pretrain)
        if ranks > 1 or trial.pretrain.nodes > 1:
            launch(ranks, trial.pretrain, [str(trial.folder), cell.arm, str(cell.seed)], progress)
        else:
            pretrain_cell(plan, cell, folder, checkpoints, progress)
        return
    device = resolve_device(trial.pretrain)
    if stage == "export":
        with precision(tf32=False):
            export(folder, source, arm, plan.vocabulary, trial.name, trial.tokenizer.rewrite, device)
    elif stage.startswith("eval_"):
        progress(0, stage)
        model, tokenizer = load(source, device)
        with precision(tf32=False):
            evaluate(folder, trial, plan.folder, plan.vocabulary, arm, cell.seed, model, tokenizer)
            if trial.grpo and stage == before_grpo(trial):
                from tokentrial.posttrain.grpo import measure_pass_at_k

                measure_pass_at_k(folder, trial, trial.grpo, arm, cell.seed, model, tokenizer)
    elif trial.sft and stage == "sft":
        from tokentrial.posttrain.sft import sft
        from tokentrial.posttrain.trainer import Job

        sft(Job(folder, checkpoints, trial, arm, cell.seed, source, progress, saved), trial.sft)
    elif trial.grpo and stage == "grpo":
        from tokentrial.posttrain.grpo import grpo
        from tokentrial.posttrain.trainer import Job

        grpo(Job(folder, checkpoints, trial, arm, cell.seed, source, progress, saved), trial.grpo)
