"""A stage: what every cell of a trial goes through, with a result in a folder of its own.

All that the house knows of a stage stands in its one file of this folder: plan, status, the run, the checks of disk and
memory and the storage ask it. docs/extending.md adds one.
"""

import difflib
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from pkgutil import iter_modules
from typing import TYPE_CHECKING, Any, NamedTuple

from tokentrial.arms import arm as arms
from tokentrial.arms.arm import Arm
from tokentrial.corpus.prepare import CorpusPlan
from tokentrial.errors import SettingsError
from tokentrial.steps.costs import Work, model_bytes
from tokentrial.trial.load import validated
from tokentrial.trial.settings import Settings
from tokentrial.trial.trial import Trial

if TYPE_CHECKING:
    from tokentrial.posttrain.trainer import PostTraining
    from tokentrial.steps.cell import Cell


class Job(NamedTuple):
    """One stage of one cell, to be done."""

    corpus: CorpusPlan
    cell: "Cell"
    folder: Path  # to fill; it takes its place when `make` has returned
    model: Path  # of the stage that it reads; of one that reads none, the corpus
    checkpoints: Path  # what an interrupted attempt has left, and the next one goes on from
    progress: Callable[[float, str], None]  # share of the stage that is done, and words for it
    save: Callable[[Path], None]  # called with each new checkpoint

    @property
    def arm(self) -> Arm:
        return arms.get_arm(self.cell.arm, self.corpus.facts)

    def post_training(self) -> "PostTraining":
        """The job as SFT and GRPO take it."""
        from tokentrial.posttrain.trainer import PostTraining  # imports transformers, which takes seconds

        trial, seed = self.corpus.trial, self.cell.seed
        return PostTraining(self.folder, self.checkpoints, trial, self.arm, seed, self.model, self.progress, self.save)


class Stage(ABC):
    """One stage of a trial. `version` is bumped by hand when its result changes for the same settings."""

    name: str = ""  # as `--stages`, `status` and the report have it
    version: int = 1
    reads: str | None = None  # the stage whose model it starts from, exports or evaluates
    measures: str | None = None  # of an evaluation: the stage whose model is asked
    leaves_model: bool = True  # whether its result is a model
    decided_once: bool = False  # whether `goes_on` is asked before any cell begins it
    imports: tuple[str, ...] = ()  # modules that take seconds, which a worker imports while it waits
    Options: type[Settings] = Settings  # of a stage that a trial names itself: what may stand below its name

    def __init__(self, trial: Trial) -> None:
        self.trial = trial
        self.options: Any = validated(self.Options, trial.stages.get(self.name, {}), f"stages.{self.name}")

    @property
    def folder(self) -> str:
        """Name of its folder in a cell's."""
        return self.name

    @abstractmethod
    def inputs(self, corpus: CorpusPlan, cell: "Cell") -> dict[str, Any]:
        """What its result depends on beside the model that it reads: settings and content, for the fingerprint. No
        device, path or code."""

    @abstractmethod
    def make(self, job: Job) -> None:
        """Fill the job's folder. Files that end in .safetensors are weights: under a limit of the disk they may be
        pruned when no stage to come reads them."""

    @property
    def rows(self) -> list[str]:
        """The sources of rows that `make` reads, such as gsm8k or jsonl:FILE."""
        return []

    def sources(self, job: Job) -> list[Path]:
        """The folders whose files are checked against their manifests before `make`."""
        return [job.model]

    @property
    def is_decided(self) -> bool:
        """Where `decided_once`: whether the decision is on record."""
        return True

    @property
    def is_declined(self) -> bool:
        """Where `decided_once`: whether the decision on record is that no cell goes through this stage."""
        return False

    def goes_on(self, corpus: CorpusPlan) -> bool:
        """Where `decided_once`: whether the trial's cells go through this stage. Raises TrialError where that cannot
        be said yet."""
        return True

    def work(self) -> Work:
        """What one cell computes in it."""
        return Work()

    def memory_bytes(self, gpus: int, width: int) -> float:
        """Memory at its peak on each of so many GPUs, or of the process; `width` as in `costs.training_bytes`."""
        return 0.0

    def disk_bytes(self) -> int:
        """Disk of its result."""
        return model_bytes(self.trial) if self.leaves_model else 0

    def checkpoint_bytes(self) -> int:
        """Disk of its checkpoints while it is at work."""
        return 0


_FILES = ("pretrain", "export", "sft", "grpo")  # in the order in which a cell goes through their stages


def stages(trial: Trial) -> list[Stage]:
    """The stages of a trial's cells, in order: what `build` of each file says, then of the files that the trial names
    itself."""
    all_stages: list[Stage] = []
    for name in dict.fromkeys((*_FILES, *trial.stages)):
        for stage in _file(name).build(trial):
            known = [earlier.name for earlier in all_stages]
            if stage.reads is not None and stage.reads not in known:
                raise SettingsError(
                    f"stages: {stage.name} reads the model of {stage.reads!r}, which this trial does not have before "
                    f"it; it has {', '.join(known)}"
                )
            all_stages.append(stage)
    return all_stages


def stage_names(trial: Trial) -> list[str]:
    return [stage.name for stage in stages(trial)]


def stage_of(trial: Trial, name: str) -> Stage:
    """The stage of this name."""
    by_name = {stage.name: stage for stage in stages(trial)}
    if name not in by_name:
        raise SettingsError(f"stage {name!r}: not in this trial; it has {', '.join(by_name)}")
    return by_name[name]


def last_models(trial: Trial) -> set[str]:
    """The stages that leave a model from which no other is made: the last one, and those of other branches."""
    models = [stage for stage in stages(trial) if stage.leaves_model]
    return {stage.name for stage in models} - {stage.reads for stage in models}


def _file(name: str) -> Any:
    # imported as it is asked for: the files of the stages import this one
    if name.isidentifier() and find_spec(f"tokentrial.steps.{name}"):
        module = import_module(f"tokentrial.steps.{name}")
        if hasattr(module, "build"):
            return module
    near = difflib.get_close_matches(name, [module.name for module in iter_modules([str(Path(__file__).parent)])], n=1)
    hint = f"did you mean {near[0]}? " if near else ""
    raise SettingsError(
        f"stages: {name}: no stage in tokentrial/steps/{name}.py, a file with `build`; {hint}see docs/extending.md"
    )


def phases(trial: Trial, asked: Sequence[str]) -> list[tuple[Stage | None, list[str]]]:
    """The asked stages, those apart that follow from a stage which is decided once for all cells, with that stage."""
    deciders: dict[str | None, Stage | None] = {}
    for stage in stages(trial):
        deciders[stage.name] = stage if stage.decided_once else deciders.get(stage.reads)
    return [
        (decider, [name for name in asked if deciders[name] is decider]) for decider in dict.fromkeys(deciders.values())
    ]
