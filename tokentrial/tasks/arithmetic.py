"""Arithmetic probes: the reference's 281, and division, subtraction and two-step problems beside them; the table is of
the trial's own facts."""

import random
import re
from collections.abc import Callable, Sequence

from tokentrial.arms.facts import Fact, Facts, Wording
from tokentrial.arms.families import TIMES_TABLE
from tokentrial.tasks.task import Example, Row

_NUMBER = re.compile(r"-?[0-9]+")
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
    """`each` items of every probe, and the table: every fact in each order of its operands, 81 products of 1 to 9. The
    reader: cut at a newline, eos or `User:`; after a leading `x*y=` the number that follows, else the first number.
    Where the facts' answers are no numbers, the one of them that the line begins with, after `...=` if it is there."""

    name = "arithmetic"

    def __init__(self, each: int = 100, seed: int = 0, facts: Facts = TIMES_TABLE) -> None:
        self.each, self.seed, self.facts = each, seed, facts
        signs = re.escape("*×x" + facts.signs)
        self.equation = re.compile(rf"\s*[0-9]+ {{0,2}}[{signs}] {{0,2}}[0-9]+ {{0,2}}= {{0,2}}(-?[0-9]+)")

    def table(self) -> list[Example]:
        """The facts as questions, in the order of their operands."""
        asked = [(wording, fact) for fact in self.facts for wording in fact.wordings]
        asked.sort(key=lambda each: each[0].operands)
        return [self._asked(wording, fact) for wording, fact in asked]

    def _asked(self, wording: Wording, fact: Fact) -> Example:
        return _example(self.facts.table, wording.question, fact.answer, wording.operands, fact, wording.spellings[0])

    def examples(self) -> Sequence[Example]:
        examples = self.table()
        for name, make in _PROBES.items():
            rng = random.Random(f"{name} {self.seed}")
            examples += [_example(name, *make(rng)) for _ in range(self.each)]
        return examples

    def read(self, completion: str) -> str | None:
        line = _END.split(completion, maxsplit=1)[0]
        if not self.facts.numeric:
            return self._read_words(line)
        equation = self.equation.match(line)
        if equation:
            return equation[1]
        number = _NUMBER.search(line)
        return number[0] if number else None

    def _read_words(self, line: str) -> str | None:
        said = line.rpartition("=")[2].strip()
        known = [answer for answer in self.facts.answers if re.match(rf"{re.escape(answer)}(?!\w)", said)]
        if known:
            return max(known, key=len)
        number = _NUMBER.search(said)
        return number[0] if number else said.rstrip(".") or None

    def score(self, example: Example, completion: str) -> bool:
        return self.read(completion) == example.answer


def _example(
    name: str, question: str, answer: str | int, operands: tuple[int, ...], fact: Fact | None = None, left: str = ""
) -> Example:
    return Example(name, question, probe_prompt(question), f" {answer}.", str(answer), operands, fact, left=left)


def of_table(row: Row) -> bool:
    """Whether an item asks a fact of the trial's table: `mul_table`, `fact_table`, ..."""
    return bool(row["task"].endswith("_table"))


def table_subsets(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Rows of the table by subset: `all`, 81 products of 1 to 9; `from_2`, 64 without the rows of 1; and of these those
    whose fact was asked in training and those whose fact never was."""
    table = [row for row in rows if of_table(row)]
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
