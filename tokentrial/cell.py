"""A cell, arm x seed, and its stages: which are done, and how one is done in a worker."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tokentrial.arms import arm as arms
from tokentrial.corpus.prepare import CorpusPlan
from tokentrial.corpus.stream import Stream
from tokentrial.executors.local import report
from tokentrial.pretrain.device import resolve_dtype
from tokentrial.store import fingerprint, is_done, step
from tokentrial.trial import Trial

STAGES = ("pretrain", "export", "evaluate")
FOLDERS = {"pretrain": "pretrain", "export": "hf", "evaluate": "eval_pretrain"}
# bumped by hand when a stage's result changes for the same settings
_VERSIONS = {"pretrain": 1, "export": 1, "evaluate": 1}


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

    def fingerprints(self, plan: CorpusPlan) -> dict[str, str]:
        """Fingerprint of each stage: its settings and what it is made from."""
        trial = plan.trial
        settings = trial.experiment("pretrain")["pretrain"]
        pretrain = fingerprint(
            "pretrain",
            _VERSIONS["pretrain"],
            settings=settings | {"dtype": resolve_dtype(trial.pretrain)},
            seed=self.seed,
            corpus=plan.patch(self.arm),
            epochs=trial.corpus.epochs,
            probe=trial.evaluate.new_tokens,
        )
        export = fingerprint("export", _VERSIONS["export"], of=pretrain, trial=trial.name)
        settings = trial.experiment("evaluate")
        evaluate = fingerprint("evaluate", _VERSIONS["evaluate"], of=export, settings=settings)
        return {"pretrain": pretrain, "export": export, "evaluate": evaluate}

    def pending(self, plan: CorpusPlan) -> list[str]:
        """Stages that are not done, in order."""
        prints = self.fingerprints(plan)
        return [stage for stage in STAGES if not is_done(self.folder(plan.trial, stage), prints[stage])]


def run_cell(trial: Trial, cell: Cell, stages: Sequence[str]) -> None:
    """Do the named stages of a cell, in a worker. What is done is skipped."""
    from transformers.utils import logging

    from tokentrial.evaluate.evaluate import TableProbe, evaluate
    from tokentrial.pretrain.export import export
    from tokentrial.pretrain.train import pretrain

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    plan = CorpusPlan(trial)
    arm, prints = arms.find(cell.arm), cell.fingerprints(plan)
    for stage in [stage for stage in cell.pending(plan) if stage in stages]:
        with step(cell.folder(trial, stage), prints[stage], stage=stage, arm=cell.arm, seed=cell.seed) as folder:
            if stage == "pretrain":
                stream = Stream.of(trial, plan.folder, plan.vocabulary, cell.arm, cell.seed)
                probe = TableProbe(trial, plan.vocabulary, arm, cell.seed)
                pretrain(folder, stream, trial.pretrain, probe, lambda share, text: report(cell.name, share, text))
            elif stage == "export":
                export(folder, cell.folder(trial, "pretrain"), arm, plan.vocabulary, trial.name)
            else:
                evaluate(folder, trial, plan.folder, plan.vocabulary, arm, cell.seed, cell.folder(trial, "export"))
