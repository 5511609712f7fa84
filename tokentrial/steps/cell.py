"""A cell, one arm and seed of a trial: where its stages have their results, and which of them are pending."""

from dataclasses import dataclass
from pathlib import Path

from tokentrial.corpus.prepare import CorpusPlan
from tokentrial.steps.stage import stage_of, stages
from tokentrial.store.files import fingerprint
from tokentrial.store.folders import is_done
from tokentrial.store.tuned import arm_trial
from tokentrial.trial.trial import Trial


@dataclass(frozen=True)
class Cell:
    """One arm and seed of a trial."""

    arm: str
    seed: int

    @property
    def name(self) -> str:
        return f"{self.arm}/seed{self.seed}"

    def folder(self, trial: Trial, stage: str) -> Path:
        return trial.folder / self.arm / f"seed{self.seed}" / stage_of(trial, stage).folder

    def checkpoints(self, trial: Trial, stage: str, fingerprint: str) -> Path:
        """Where a stage of this fingerprint keeps what an interrupted attempt goes on from."""
        folder = self.folder(trial, stage)
        return folder.with_name(f"{folder.name}.checkpoints") / fingerprint

    def fingerprints(self, corpus: CorpusPlan) -> dict[str, str]:
        """Name of each stage's result: its version, its inputs, and those of the stage whose model it reads."""
        names: dict[str, str] = {}
        for stage in stages(arm_trial(corpus.trial, self.arm)):
            of = {"of": names[stage.reads]} if stage.reads else {}
            names[stage.name] = fingerprint(stage.name, stage.version, **of, **stage.inputs(corpus, self))
        return names

    def pending(self, corpus: CorpusPlan) -> list[str]:
        """Stages without a result, in order."""
        fingerprints = self.fingerprints(corpus).items()
        return [stage for stage, wanted in fingerprints if not is_done(self.folder(corpus.trial, stage), wanted)]


def cells(trial: Trial) -> list[Cell]:
    """All cells, seed by seed, so that an unfinished run holds whole pairs."""
    return [Cell(arm, seed) for seed in trial.seeds for arm in trial.arms]
