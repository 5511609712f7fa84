"""What is compared: a system is one model, or one arm over its seeds."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tokentrial.report.tables import one_line


@dataclass(frozen=True)
class Items:
    """One model's right answers on one outcome."""

    correct: int
    total: int
    right: Mapping[str, bool] = field(default_factory=dict)  # by item; empty where a file holds totals only
    facts: Mapping[str, str] = field(default_factory=dict)  # item: the unordered fact that it asks
    floors: Mapping[str, float] = field(default_factory=dict)  # accuracy of policies that know no arithmetic
    known_set: str | None = None  # a set that its total covers: both sides of it answered the same items

    @classmethod
    def of(cls, answers: Iterable[tuple[str, bool]], **known: Any) -> "Items":
        """Of questions and whether they were answered right; a question that is there again is another item."""
        right: dict[str, bool] = {}
        times: dict[str, int] = {}
        for question, correct in answers:
            times[question] = times.get(question, 0) + 1
            right[question if times[question] == 1 else f"{question} #{times[question]}"] = correct
        return cls(sum(right.values()), len(right), right, **known)


@dataclass(frozen=True)
class Model:
    """One model, that is, one seed: right answers and other values, by outcome."""

    items: Mapping[str, Items] = field(default_factory=dict)
    values: Mapping[str, float] = field(default_factory=dict)
    by_fact: Mapping[str, Mapping[str, float]] = field(default_factory=dict)  # outcome: fact: mean over its orders
    held_out: str = ""  # which documents its bits per byte are of

    def value(self, outcome: str) -> float:
        if outcome in self.values:
            return self.values[outcome]
        return self.items[outcome].correct / self.items[outcome].total


@dataclass(frozen=True)
class System:
    """Models by seed. What is not of our run folders is one model, as good as one seed."""

    name: str
    models: Mapping[int, Model] = field(default_factory=dict)
    run: Path | None = None  # the run folder that this is an arm of, over its seeds
    arm: str | None = None
    control: bool = False
    notes: tuple[str, ...] = ()

    @property
    def outcomes(self) -> list[str]:
        """Outcomes that every model has."""
        named = [[*dict.fromkeys([*model.items, *model.values])] for model in self.models.values()]
        return [name for name in named[0] if all(name in other for other in named)]


def single(name: str, items: Mapping[str, Items], notes: Iterable[str] = ()) -> System:
    return System(one_line(name), {0: Model(items)}, notes=tuple(notes))
