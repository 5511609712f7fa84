"""The stage `pretrain`: a GPT-2 from the corpus as the arm reads it."""

from pathlib import Path
from typing import Any

from tokentrial.arms.arm import get_arm
from tokentrial.corpus.prepare import CorpusPlan
from tokentrial.corpus.stream import Stream
from tokentrial.errors import TrialError
from tokentrial.executors.worker import stoppable
from tokentrial.pretrain.device import ranks_of, resolve_dtype
from tokentrial.pretrain.launch import launch
from tokentrial.pretrain.start import start_fingerprint, start_folder
from tokentrial.steps.cell import Cell
from tokentrial.steps.costs import (
    Work,
    batches,
    forward_flops,
    model_bytes,
    questions,
    training_bytes,
    vocabulary_size,
    weights_bytes,
)
from tokentrial.steps.stage import Job, Stage
from tokentrial.store.files import fingerprint, read_json
from tokentrial.store.folders import MANIFEST, read_manifest
from tokentrial.store.tuned import TUNED, read_tuned
from tokentrial.trial.pretraining import CHECKPOINT_BYTES
from tokentrial.trial.trial import Trial

_CHUNK = 512  # positions whose logits are there at once


class PretrainStage(Stage):
    """Its checkpoints are pruned when it ends, but for those that `keep_every` asks for."""

    name = "pretrain"
    version = 2
    imports = (
        "tokentrial.pretrain.train",
        "tokentrial.evaluate.evaluate",
        "transformers.tokenization_utils_tokenizers",  # of the probe
        "torch._dynamo",  # of torch's optimizers, compiled or not
    )

    def inputs(self, corpus: CorpusPlan, cell: Cell) -> dict[str, Any]:
        return self._inputs(corpus, cell, self.dtype(corpus, cell))

    def _inputs(self, corpus: CorpusPlan, cell: Cell, dtype: str) -> dict[str, Any]:
        trial = self.trial
        # with matched bytes, how far the control reads says how many steps an arm takes
        matched = {"bytes_of": corpus.patch_fingerprint(trial.control)} if trial.budget.match == "bytes" else {}
        resolved = {"dtype": dtype, "init": start_fingerprint(trial)}
        settings = trial.experiment("pretrain")["pretrain"] | resolved
        of_corpus = {"corpus": corpus.patch_fingerprint(cell.arm), "epochs": trial.corpus.epochs}
        # version 2 of how drawn tokens begin: those of version 1 began as the fact that they are named after
        drawn = {"drawn_tokens": 2} if trial.pretrain.from_checkpoint and get_arm(cell.arm).is_random else {}
        averaged = {"averaged": trial.evaluate.checkpoints} if trial.evaluate.checkpoints > 1 else {}
        return {"settings": settings, "seed": cell.seed, **of_corpus, **matched, **drawn, **averaged}

    def dtype(self, corpus: CorpusPlan, cell: Cell) -> str:
        """What `auto` stands for: of a cell that is trained with these settings the dtype that it was trained in, on
        whatever machine; else this machine's."""
        here, folder = resolve_dtype(self.trial.pretrain), cell.folder(self.trial, self.name)
        if self.trial.pretrain.dtype != "auto" or not (folder / MANIFEST).exists():
            return here
        trained = read_manifest(folder)["fingerprint"]
        for dtype in (here, *({"fp32", "bf16", "fp16"} - {here})):
            if fingerprint(self.name, self.version, **self._inputs(corpus, cell, dtype)) == trained:
                return dtype
        return here

    def sources(self, job: Job) -> list[Path]:
        corpus, sets = job.corpus, job.corpus.sets_of(job.cell.seed)
        start = [start_folder(self.trial)] if self.trial.pretrain.from_checkpoint else []
        patches = [corpus.patch_step(job.cell.arm, name)[0] for name in sets]
        return [*map(corpus.set_folder, sets), *patches, *start]

    def make(self, job: Job) -> None:
        ranks = ranks_of(self.trial.pretrain)
        if ranks > 1 or self.trial.pretrain.nnodes > 1:
            arguments = [str(self.trial.folder), job.cell.arm, str(job.cell.seed)]
            launch(ranks, self.trial.pretrain, arguments, job.progress)
        else:
            train_rank(job)

    def work(self) -> Work:
        """The steps; and the table, asked at every probe."""
        trial, settings = self.trial, self.trial.pretrain
        probed = settings.probes * batches(questions(trial), trial) * trial.evaluate.max_new_tokens
        passes = settings.tokens / (settings.micro_batch * settings.context)
        return Work(settings.tokens, 3 * forward_flops(trial) * settings.tokens, probed, passes, eager=False)

    def memory_bytes(self, gpus: int, width: int) -> float:
        shape = self.trial.pretrain
        rows = min(shape.micro_batch, shape.batch_tokens // shape.context // gpus)
        return training_bytes(self.trial, width, rows, shape.context, min(_CHUNK, rows * shape.context))

    def disk_bytes(self) -> int:
        return model_bytes(self.trial) + kept_bytes(self.trial)

    def checkpoint_bytes(self) -> int:
        """Under a limit of the disk the checkpoint that a stop writes counts in the shortest pretraining too."""
        trial, ids = self.trial, vocabulary_size(self.trial)
        least = CHECKPOINT_BYTES * trial.pretrain.parameters(ids) if trial.disk_limit_gb else 0
        return max(trial.pretrain.checkpoint_bytes(ids, trial.evaluate.checkpoints), least)


def kept_bytes(trial: Trial) -> int:
    """Disk of the weights that stay beside the last: of every so many steps, and those to be averaged over."""
    every = trial.pretrain.checkpoint.keep_every
    kept = trial.pretrain.steps // every if every else 0
    return (kept + trial.evaluate.checkpoints - 1) * weights_bytes(trial)


def train_rank(job: Job) -> None:
    """Pretrain a cell in this process, alone or as one rank of the group that torchrun has started."""
    from tokentrial.evaluate.evaluate import TableProbe
    from tokentrial.pretrain.ranks import process_group
    from tokentrial.pretrain.train import pretrain

    corpus, cell, trial = job.corpus, job.cell, job.corpus.trial
    if trial.tune and read_tuned(trial) is None:
        raise TrialError(f"{trial.folder / TUNED}: not found; use `tokentrial run`, which tunes the arms first")
    stream = Stream.of(trial, corpus.folder, corpus.vocabulary, cell.arm, cell.seed)
    served = read_json(corpus.folder / "exposure.json")["served"][cell.arm][str(cell.seed)]
    dtype = PretrainStage(trial).dtype(corpus, cell)  # weights that are made again are those of the same precision
    settings = trial.pretrain.model_copy(update={"steps": served["steps"], "dtype": dtype})
    probe = TableProbe(trial, corpus.vocabulary, job.arm, cell.seed)
    with stoppable() as stop, process_group(settings) as ranks:
        start = start_folder(trial) if trial.pretrain.from_checkpoint else None
        places = job.folder, stream, settings, probe, job.progress, job.checkpoints
        pretrain(*places, ranks, stop, start, job.save, trial.evaluate.checkpoints)


def build(trial: Trial) -> list[Stage]:
    return [PretrainStage(trial)]
