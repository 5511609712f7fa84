"""Arithmetic probes: the reference's 281, and division, subtraction and two-step problems beside them."""

import random
import re
from collections.abc import Callable, Sequence

from tokentrial.arms.facts import Fact
from tokentrial.tasks.task import Example, Row

TABLE = "mul_table"
_NUMBER = re.compile(r"-?[0-9]+")
_EQUATION = re.compile(r"\s*[0-9]+ {0,2}[*×x] {0,2}[0-9]+ {0,2}= {0,2}(-?[0-9]+)")
_END = re.compile(r"\n|<\|endoftext\|>|User:")


def probe_prompt(question: str) -> str:
    """The form in which every probe is asked."""
    return f"User: {question}\nAssistant: The answer is"


def _division(rng: random.Random) -> tuple[str, int, tuple[int, ...]]:
    divisor, quotient = rng.randint(2, 9), rng.randint(2, 9)
    return f"What is {divisor * quotient} divided by {divisor}?", quotient, (divisor * quotient, divisor)


def _subtraction(rng: random.Random) -> tuple[str, int, tuple[int, ...]]:
    smaller, larger = sorted((rng.randint(1, 99), rng.randint(1, 99)))
    return f"What is {larger} minus {smaller}?", larger - smaller, (larger, smaller)


def _addition(rng: random.Random) -> tuple[str, int, tuple[int, ...]]:
    a, b = rng.randint(1, 99), rng.randint(1, 99)
    return f"What is {a} plus {b}?", a + b, (a, b)


def _multidigit(rng: random.Random) -> tuple[str, int, tuple[int, ...]]:
    a, b = rng.randint(10, 99), rng.randint(2, 9)
    return f"What is {a} times {b}?", a * b, (a, b)


def _two_step(rng: random.Random) -> tuple[str, int, tuple[int, ...]]:
    a, b, c = rng.randint(2, 9), rng.randint(2, 9), rng.randint(1, 9)
    return f"What is {a} times {b} plus {c}?", a * b + c, (a, b, c)


_PROBES: dict[str, Callable[[random.Random], tuple[str, int, tuple[int, ...]]]] = {
    "mul_multidigit": _multidigit,
    "addition": _addition,
    "division": _division,
    "subtraction": _subtraction,
    "two_step": _two_step,
}


class Arithmetic:
    """`each` items of every probe, and the 81 of the table. The reader: cut at a newline, eos or `User:`; after a
    leading `x*y=` the number that follows, else the first number."""

    name = "arithmetic"

    def __init__(self, each: int = 100, seed: int = 0) -> None:
        self.each, self.seed = each, seed

    def table(self) -> list[Example]:
        """The 81 ordered products of 1 to 9."""
        return [
            _example(TABLE, f"What is {a} times {b}?", a * b, (a, b), Fact.of(a, b))
            for a in range(1, 10)
            for b in range(1, 10)
        ]

    def examples(self) -> Sequence[Example]:
        examples = self.table()
        for name, make in _PROBES.items():
            rng = random.Random(f"{name} {self.seed}")
            examples += [_example(name, *make(rng), None) for _ in range(self.each)]
        return examples

    def read(self, completion: str) -> str | None:
        line = _END.split(completion, maxsplit=1)[0]
        equation = _EQUATION.match(line)
        if equation:
            return equation[1]
        number = _NUMBER.search(line)
        return number[0] if number else None

    def score(self, example: Example, completion: str) -> bool:
        return self.read(completion) == example.answer


def _example(name: str, question: str, answer: int, operands: tuple[int, ...], fact: Fact | None) -> Example:
    return Example(name, question, probe_prompt(question), f" {answer}.", str(answer), operands, fact)


def table_subsets(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Rows of the table by subset: `all` 81, `from_2` 64 without the rows of 1, and of these those whose fact was
    asked in training and those whose fact never was."""
    table = [row for row in rows if row["task"] == TABLE]
    return {
        "all": table,
        "from_2": [row for row in table if row["asked"] is not None],
        "asked": [row for row in table if row["asked"] is True],
        "never_asked": [row for row in table if row["asked"] is False],
    }


def by_fact(rows: Sequence[Row], key: str) -> dict[str, float]:
    """Mean of `key` over the orders of each unordered fact."""
    values: dict[str, list[float]] = {}
    for row in rows:
        values.setdefault(row["fact"], []).append(float(row[key]))
    return {fact: sum(found) / len(found) for fact, found in values.items()}


def mean_by_fact(rows: Sequence[Row], key: str) -> float:
    """Mean of `key` over the unordered facts."""
    means = by_fact(rows, key).values()
    return sum(means) / len(means)
