"""What is compared: a system is one model, or one arm over its seeds."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tokentrial.report.tables import one_line


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
    """One model, that is, one seed: correct answers and other values, by outcome."""

    items: Mapping[str, ItemResults] = field(default_factory=dict)
    values: Mapping[str, float] = field(default_factory=dict)
    by_fact: Mapping[str, Mapping[str, float]] = field(default_factory=dict)  # outcome: fact: mean over its orders
    heldout_fingerprint: str = ""  # which documents its bits per byte are of

    def value(self, outcome: str) -> float:
        if outcome in self.values:
            return self.values[outcome]
        return self.items[outcome].correct / self.items[outcome].total


@dataclass(frozen=True)
class System:
    """Models by seed. What is not from our run folders is one model, treated as one seed."""

    name: str
    models: Mapping[int, ModelResults] = field(default_factory=dict)
    run: Path | None = None  # the run folder that this is an arm of, over its seeds
    arm: str | None = None
    control: bool = False
    notes: tuple[str, ...] = ()

    @property
    def outcomes(self) -> list[str]:
        """Outcomes that every model has."""
        first, *others = [dict.fromkeys([*model.items, *model.values]) for model in self.models.values()]
        return [name for name in first if all(name in other for other in others)]


def single_model(name: str, items: Mapping[str, ItemResults], notes: Iterable[str] = ()) -> System:
    return System(one_line(name), {0: ModelResults(items)}, notes=tuple(notes))
