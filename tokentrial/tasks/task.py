"""The interface of a task: examples, and how a completion is read."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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

    def examples(self, split: str = "test") -> Sequence[Example]:
        """All items of a split, in a fixed order."""
        raise NotImplementedError

    def extract_answer(self, completion: str) -> str | None:
        """The answer that an untokenized completion gives, None where it gives none."""
        raise NotImplementedError

    def score(self, example: Example, completion: str) -> bool:
        """Whether the untokenized completion gives the example's answer."""
        return self.extract_answer(completion) == example.answer
