"""The stage `sft`: supervised fine-tuning on word problems."""

import math
from typing import Any

from tokentrial.corpus.prepare import CorpusPlan
from tokentrial.posttrain.prompts import split_inputs
from tokentrial.steps.cell import Cell
from tokentrial.steps.costs import Work, batches, forward_flops, lengths, trainer_checkpoint_bytes, training_bytes
from tokentrial.steps.evaluate import EvaluateStage
from tokentrial.steps.stage import Job, Stage
from tokentrial.tasks.contents import source_hashes
from tokentrial.tasks.training_examples import stage_sources
from tokentrial.trial.trial import Trial


class SFTStage(Stage):
    name = "sft"
    version = 3
    reads = "export"
    imports = ("tokentrial.posttrain.sft", "trl.trainer.sft_trainer")

    def __init__(self, trial: Trial) -> None:
        super().__init__(trial)
        assert trial.sft is not None
        self.settings = trial.sft

    def inputs(self, corpus: CorpusPlan, cell: Cell) -> dict[str, Any]:
        settings = self.trial.experiment("sft", "tasks")
        settings["held"] = self.trial.evaluate.solution_tokens  # the only setting of evaluation that it reads
        inputs = {"settings": settings, "content": source_hashes(self.trial, self.rows)}
        return inputs | split_inputs(self.trial)

    @property
    def rows(self) -> list[str]:
        return stage_sources(self.trial, "sft")

    def make(self, job: Job) -> None:
        from tokentrial.posttrain.sft import sft

        sft(job.post_training(), self.settings)

    def work(self) -> Work:
        """Every batch padded to its longest row; held rows solved after each epoch."""
        trial, settings = self.trial, self.settings
        total = Work()
        for stage in settings.stages:
            of_sources = [(lengths(trial, source.source, "train"), source.weight) for source in stage.sources]
            rows = round(sum(known.rows * weight for known, weight in of_sources))
            held = min(settings.held, rows // 10)
            steps = math.ceil((rows - held) / settings.batch) * stage.epochs
            longest = sum(known.longest_of(settings.batch) * known.rows * weight for known, weight in of_sources) / rows
            tokens = steps * settings.batch * min(longest, settings.max_length, trial.pretrain.context)
            solved = stage.epochs * batches(held, trial) * trial.evaluate.solution_tokens
            total = total.plus(Work(tokens, 3 * forward_flops(trial) * tokens, solved, steps))
        return total

    def memory_bytes(self, gpus: int, width: int) -> float:
        batch, tokens = self.settings.batch, min(self.settings.max_length, self.trial.pretrain.context)
        return training_bytes(self.trial, width, batch, tokens, batch * tokens)

    def checkpoint_bytes(self) -> int:
        return trainer_checkpoint_bytes(self.trial)


def build(trial: Trial) -> list[Stage]:
    return [SFTStage(trial), EvaluateStage(trial, "sft")] if trial.sft else []
