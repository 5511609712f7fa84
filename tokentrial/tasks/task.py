"""The interface of a task: examples, and how a completion is read."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokentrial.facts.facts import Fact

Row = Mapping[str, Any]  # one evaluated item, a line of samples.jsonl


@dataclass(frozen=True)
class Example:
    """One item. `fact` is the fact it asks, where it asks one directly, and `left` the fact's left side as it asks."""

    task: str
    question: str
    prompt: str
    completion: str
    answer: str
    operands: tuple[int, ...] = ()
    fact: Fact | None = None
    left: str = ""
    split: str = "test"


class Task:
    """Examples and the reader of their answers, which sees only untokenized text, the same in every arm."""

    name: str

    @property
    def files(self) -> Sequence[Path]:
        """Local files that the examples are read from, as far as they are there."""
        return ()

    def examples(self, split: str = "test") -> Sequence[Example]:
        """All items of a split, in a fixed order."""
        raise NotImplementedError

    def check(self, split: str) -> None:
        """Read what lies in files of one's own, to the last row, before anything is computed. Raises TrialError that
        names the file and the line."""

    def extract_answer(self, completion: str) -> str | None:
        """The answer that an untokenized completion gives, None where it gives none."""
        raise NotImplementedError

    def score(self, example: Example, completion: str) -> bool:
        """Whether the untokenized completion gives the example's answer."""
        return self.extract_answer(completion) == example.answer
