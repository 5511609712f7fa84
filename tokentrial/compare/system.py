"""What is compared: a system is one model, or one arm over its seeds; and the record of one contrast of two systems."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from tokentrial.report.formats import one_line
from tokentrial.trial.trial import Trial

ALPHA = 0.05
EXPLORATORY = "exploratory: not declared, interval and p unadjusted"


@dataclass(frozen=True)
class ItemResults:
    """One model's correct answers on one outcome."""

    correct: int
    total: int
    by_item: Mapping[str, bool] = field(default_factory=dict)  # whether correct; empty where a file holds totals only
    facts: Mapping[str, str] = field(default_factory=dict)  # item: the unordered fact that it asks
    floors: Mapping[str, float] = field(default_factory=dict)  # accuracy of policies that know no arithmetic
    known_set: str | None = None  # the name of a fixed set of items: two totals of it are of the same items

    @classmethod
    def from_answers(cls, answers: Iterable[tuple[str, bool]], **known: Any) -> "ItemResults":
        """From questions and whether they were answered correctly; a repeated question is another item."""
        by_item: dict[str, bool] = {}
        occurrences: Counter[str] = Counter()
        for question, correct in answers:
            occurrences[question] += 1
            count = occurrences[question]
            by_item[question if count == 1 else f"{question} #{count}"] = correct
        return cls(sum(by_item.values()), len(by_item), by_item, **known)


@dataclass(frozen=True)
class ModelResults:
    """One model, that is, one seed: its results by outcome. `values` and `by_fact` are the report's own definition."""

    items: Mapping[str, ItemResults] = field(default_factory=dict)
    values: Mapping[str, float] = field(default_factory=dict)
    by_fact: Mapping[str, Mapping[str, float]] = field(default_factory=dict)  # of outcomes that are means over facts
    heldout_texts: frozenset[tuple[str, int]] = frozenset()  # name and bytes of the documents its bits are of

    def value(self, outcome: str) -> float:
        if outcome in self.values:
            return self.values[outcome]
        return self.items[outcome].correct / self.items[outcome].total

    def asked(self, outcome: str) -> Iterable[str]:
        return self.items[outcome].by_item if outcome in self.items else ()


@dataclass(frozen=True)
class System:
    """Models by seed. What is not from our run folders is one model, treated as one seed."""

    name: str
    models: Mapping[int, ModelResults] = field(default_factory=dict)
    arm_folder: Path | None = None  # OUT/ARM that its seeds, or its one cell, lie in
    arm: str | None = None  # of an arm over all its seeds
    control: bool = False
    trial: Trial | None = None  # of the run that an arm is of
    notes: tuple[str, ...] = ()

    @property
    def run(self) -> Path | None:
        """The run folder of a whole arm."""
        return self.arm_folder.parent if self.arm_folder and self.arm else None

    @property
    def outcomes(self) -> list[str]:
        """Outcomes that every model has."""
        first, *others = [dict.fromkeys([*model.items, *model.values]) for model in self.models.values()]
        return [name for name in first if all(name in other for other in others)]


def single_model(name: str, items: Mapping[str, ItemResults], notes: Iterable[str] = ()) -> System:
    return System(one_line(name), {0: ModelResults(items)}, notes=tuple(notes))


@dataclass(frozen=True, kw_only=True)
class SystemContrast:
    """A contrast, a - b. Its fields are the keys of `--json`; None stands for undefined.

    `unit` says what was sampled, and `n_a`, `n_b` how much of it: `seeds`, which alone bear on an arm, or the `facts`
    or `items` that two models of one seed each were asked.
    """

    outcome: str
    a: str
    b: str
    unit: str = "seeds"
    n_a: int
    n_b: int
    value_a: float
    value_b: float
    difference: float
    interval: Annotated[Sequence[float], Field(min_length=2, max_length=2)] | None = None  # at 1 - alpha
    alpha: float = ALPHA
    p: float | None = None
    p_adjusted: float | None = None  # Holm's, as the run's own report gives it
    test: str | None = None
    detectable: float | None = None  # by seeds only: for two given models the interval says what is left open
    discordant: list[int] | None = None  # items that only a, and only b, answered
    verdict: str | None = None  # of the run's own report, on a contrast that was declared
    finding: str | None = None  # of two models, or of one beside the seeds of an arm
    floors: Mapping[str, float] = field(default_factory=dict)
    note: str = ""
