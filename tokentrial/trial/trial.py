"""The trial: one experiment in strict settings. A setting is of the experiment, and enters fingerprints, unless it
stands in `LOCAL`: where and with what it runs.
"""

from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from tokentrial.facts.families import build_facts
from tokentrial.facts.settings import FactSettings
from tokentrial.trial.ladder import Ladder, size_name
from tokentrial.trial.places import LocalPath, Place, without_way
from tokentrial.trial.pretraining import Pretrain
from tokentrial.trial.settings import (
    GRPO,
    LOCAL,
    SFT,
    Budget,
    CellSeed,
    Compared,
    Corpus,
    Count,
    Evaluate,
    Ray,
    Settings,
    Tasks,
    Tokenizer,
    Verdict,
)
from tokentrial.trial.tuning import Tuning

MOST_REWRITTEN = 500  # facts of which an exported tokenizer writes the tokens by itself: it is built in 2 s


class Trial(Settings):
    """One experiment: arms x seeds, everything else equal."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", max_length=100)]
    """name of the trial, and of its folder in outputs/"""
    arms: Annotated[list[str], Field(min_length=1)]
    """treatments of the text; `tokentrial arms` lists them"""
    control: str
    """the arm that the gate checks (`verdict.gate`), and with which exploratory comparisons are made (a declared
    contrast names its own control); with `budget.match=bytes`, every arm reads as many bytes as this one"""
    seeds: Annotated[list[CellSeed], Field(min_length=1)]
    """random seeds; each is run in every arm"""
    facts: FactSettings = FactSettings()
    tokenizer: Tokenizer = Tokenizer()
    corpus: Corpus = Corpus()
    pretrain: Pretrain = Pretrain()
    budget: Budget = Budget()
    sft: SFT | None = None
    grpo: GRPO | None = None
    tasks: Tasks = Tasks()
    evaluate: Evaluate = Evaluate()
    stages: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """further stages of every cell, with their settings"""
    verdict: Verdict
    sweep: dict[str, Annotated[list[Any], Field(min_length=1)]] = Field(default_factory=dict)
    """values to try, such as {corpus.drills.share: [0, 0.1]}: every combination of them is run as well, each in a
    folder of its own"""
    robustness_reruns: list[str] = Field(default_factory=list)
    """the primary contrast is run again with each of these settings, such as budget.match=bytes"""
    ladder: Ladder | None = None
    """the same arms and seeds at other sizes of the model; the trial itself is one of them"""
    tune: Tuning | None = None
    """each arm's own best values, found before the trial on other seeds; the trial is run with them"""
    executor: Literal["local", "ray"] = "local"
    """where corpus and cells are computed: on this machine, or on a Ray cluster"""
    ray: Ray = Ray()
    workers: Count | None = None
    """cells at a time; null: one per core on a CPU, as many as fit on a GPU; on Ray as many as it has room for"""
    disk_reserve_gb: Annotated[float, Field(ge=0)] = 0.2
    """GB left free on the disk of the run folder"""
    output: LocalPath | None = None
    """the run folder; null: outputs/<name>"""
    disk_limit_gb: Annotated[float, Field(gt=0)] | None = None
    """maximum GB in the run folder"""
    storage: Place | None = None
    """a permanent copy of the run folder: a path that fsspec opens, such as s3://bucket/trial"""

    @field_validator("facts")
    @classmethod
    def are_facts(cls, settings: FactSettings) -> FactSettings:
        build_facts(settings)
        return settings

    @model_validator(mode="after")
    def agrees_with_itself(self) -> "Trial":
        for field in ("arms", "seeds"):
            values = getattr(self, field)
            if len(set(values)) != len(values):
                raise ValueError(f"{field} is {values}, expected no value twice")
        compared = [("control", self.control)]
        compared += [("verdict.primary.contrast", arm) for arm in self.verdict.primary.arms]
        compared += [("a verdict.secondary contrast", arm) for pair in self.verdict.secondary for arm in pair.arms]
        for setting, arm in compared:
            if arm not in self.arms:
                near = get_close_matches(arm, self.arms, n=1, cutoff=0.8)
                hint = f"; if {near[0]!r} in arms means it, spell both alike" if near else "; change one"
                raise ValueError(f"{setting} names {arm!r}, expected one of arms, {self.arms}{hint}")
        if self.grpo and self.grpo.max_new_tokens >= self.pretrain.context:
            raise ValueError(
                f"grpo.max_new_tokens is {self.grpo.max_new_tokens}, expected fewer than pretrain.context, "
                f"{self.pretrain.context}: a prompt needs room before them"
            )
        facts, folds = build_facts(self.facts), self.corpus.drills.holdout_folds
        if folds == 1 or folds > len(facts.hard):
            raise ValueError(
                f"corpus.drills.holdout_folds is {folds}, expected 0, or from 2 to {min(12, len(facts.hard))}: the "
                f"{len(facts.hard)} facts are split into that many folds, and a seed never asks one fold"
            )
        if self.tokenizer.rewrite and len(facts) > MOST_REWRITTEN:
            raise ValueError(
                f"tokenizer.rewrite is true with {len(facts):,} facts, expected at most {MOST_REWRITTEN}: the exported "
                "tokenizer looks for each of them in turn, in every text; give tokenizer.rewrite=false"
            )
        looks = self.verdict.looks
        if isinstance(looks, list) and (looks != sorted(set(looks)) or looks[-1] > len(self.seeds)):
            raise ValueError(f"verdict.looks is {looks}, expected ascending numbers of seeds, up to {len(self.seeds)}")
        if looks == "blinded" and (len(self.seeds) < 4 or self.verdict.margin(self.verdict.primary) is None):
            raise ValueError(
                "verdict.looks is blinded, expected four or more seeds and verdict.primary.smallest_effect, "
                "which decides how many of them are needed"
            )
        averaged, steps = self.evaluate.checkpoints, self.pretrain.steps
        if averaged > max(1, steps // 10):
            raise ValueError(
                f"evaluate.checkpoints is {averaged}, expected at most a tenth of pretrain.steps, {steps}: they are "
                "of the last tenth; give fewer, or more steps"
            )
        if self.ladder and looks is not None:
            raise ValueError("verdict.looks and ladder: a trend needs the same seeds at every size; leave one out")
        if self.ladder and self.pretrain.from_checkpoint:
            raise ValueError("ladder and pretrain.from_checkpoint: a checkpoint has one size; leave one of them out")
        if self.ladder and size_name(self.pretrain) in [rung.name for rung in self.ladder.sizes]:
            raise ValueError(f"ladder.sizes holds {size_name(self.pretrain)}, the trial's own size; leave it out there")
        return self

    @model_validator(mode="after")
    def tunes_fairly(self) -> "Trial":
        if self.tune is None:
            return self
        if shared := sorted({*self.seeds} & {*self.tune.seeds}):
            raise ValueError(
                f"seeds and tune.seeds both hold {shared}, expected none in common: values look better than they are "
                "on the seeds that they were chosen by"
            )
        if len(set(self.tune.seeds)) != len(self.tune.seeds):
            raise ValueError(f"tune.seeds is {self.tune.seeds}, expected no value twice")
        if others := [name for name in ("sweep", "robustness_reruns", "ladder") if getattr(self, name)]:
            raise ValueError(
                f"tune and {others[0]}: each trial of {others[0]} would need a tuning of its own; leave one of them out"
            )
        for name, values in self.tune.grid.items():
            own = getattr(self.pretrain, name.removeprefix("pretrain."))
            if own not in values:
                raise ValueError(
                    f"tune.grid.{name} is {values}, expected {own:g} among them, the trial's own: it is what every arm "
                    "would have untuned"
                )
        return self

    @property
    def compared(self) -> list[Compared]:
        return [self.verdict.primary, *self.verdict.secondary]

    @property
    def first_look(self) -> list[int]:
        """The seeds that are run before anything is decided."""
        looks = self.verdict.looks
        first = len(self.seeds) if looks is None else -(-len(self.seeds) // 2) if looks == "blinded" else looks[0]
        return self.seeds[: int(first)]

    @property
    def unused_seed(self) -> int:
        """The first seed beyond all that the trial names."""
        tuning = self.tune.seeds if self.tune else []
        return 1 + max(*self.seeds, *tuning, 0)

    @property
    def folder(self) -> Path:
        return Path(self.output or f"outputs/{self.name}")

    def experiment(self, *parts: str) -> dict[str, Any]:
        """Canonical settings of the named parts, what is merely local left out."""
        settings = self.model_dump(mode="json", include=set(parts))
        for part in LOCAL.keys() & settings.keys():
            settings[part] = {k: v for k, v in settings[part].items() if k not in LOCAL[part]}
        if "tokenizer" in settings:
            settings["tokenizer"].pop("path")  # every path holds the same merges, checked by hash
            settings["tokenizer"].pop("rewrite")  # of the export alone
        if "tasks" in settings:
            settings["tasks"].pop("gsm8k")  # its files enter by their content
        # other files, too: of the way to them nothing depends
        if "corpus" in settings:
            settings["corpus"]["source"] = without_way(settings["corpus"]["source"])
        if "evaluate" in settings:
            if self.evaluate.checkpoints == 1:
                del settings["evaluate"]["checkpoints"]  # what was declared before there was the setting stands
            settings["evaluate"]["tasks"] = [without_way(task) for task in settings["evaluate"]["tasks"]]
        for source in [s for part in (settings.get("sft") or {}).get("stages", ()) for s in part["sources"]]:
            source["source"] = without_way(source["source"])
        return settings
