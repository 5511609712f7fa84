"""The stage `export`: the pretrained model in transformers' format, refused where its logits differ; below it, as
`step_<steps>`, the checkpoints before its end that outcomes are averaged over."""

from typing import Any

from tokentrial.corpus.prepare import CorpusPlan
from tokentrial.pretrain.device import later_device, precision
from tokentrial.steps.cell import Cell
from tokentrial.steps.costs import model_bytes
from tokentrial.steps.evaluate import EvaluateStage
from tokentrial.steps.stage import Job, Stage
from tokentrial.store.files import read_json
from tokentrial.trial.trial import Trial


class ExportStage(Stage):
    name = "export"
    version = 3
    reads = "pretrain"
    imports = ("tokentrial.pretrain.export", "transformers.models.gpt2.modeling_gpt2")

    @property
    def folder(self) -> str:
        return "hf"

    def inputs(self, corpus: CorpusPlan, cell: Cell) -> dict[str, Any]:
        return {"trial": self.trial.name, "rewrite": self.trial.tokenizer.rewrite}  # the name stands on the card

    def make(self, job: Job) -> None:
        from tokentrial.pretrain.export import export

        trial, device = self.trial, later_device(self.trial.pretrain)
        how = job.model, job.arm, job.corpus.vocabulary, trial.name, trial.tokenizer.rewrite, device
        steps = read_json(job.model / "results.json")["total_steps"]
        trained = trial.pretrain.model_copy(update={"steps": steps})
        with precision(tf32=False):  # the two models are compared in full fp32
            export(job.folder, *how)
            for before_end in trained.last_steps(trial.evaluate.checkpoints)[:-1]:
                export(job.folder / f"step_{before_end:06d}", *how, before_end)

    def disk_bytes(self) -> int:
        return self.trial.evaluate.checkpoints * model_bytes(self.trial)


def build(trial: Trial) -> list[Stage]:
    return [ExportStage(trial), EvaluateStage(trial, "pretrain")]
