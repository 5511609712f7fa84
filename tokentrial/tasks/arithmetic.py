"""Arithmetic probes: the reference's 281, and division, subtraction and two-step problems beside them; the table is of
the trial's own facts."""

import random
import re
from collections.abc import Callable, Sequence

from tokentrial.arms.facts import Fact, Facts
from tokentrial.arms.families import TIMES_TABLE
from tokentrial.tasks.task import Example, Row, Task

_NUMBER = re.compile(r"(?P<number>-?[0-9]+)")
_END = re.compile(r"\n|<\|endoftext\|>|User:")


def probe_prompt(question: str) -> str:
    """The form in which every probe is asked."""
    return f"User: {question}\nAssistant: The answer is"


_PROBES = ("mul_multidigit", "addition", "division", "subtraction", "two_step")


def _drawn(probe: str, draw: Callable[[int, int], int]) -> tuple[str, int, tuple[int, ...]]:
    """Question, answer and operands of an item of a probe; `draw` gives a whole number between two."""
    match probe:
        case "mul_multidigit":
            a, b = draw(10, 99), draw(2, 9)
            return f"What is {a} times {b}?", a * b, (a, b)
        case "addition":
            a, b = draw(1, 99), draw(1, 99)
            return f"What is {a} plus {b}?", a + b, (a, b)
        case "division":
            b, quotient = draw(2, 9), draw(2, 9)
            return f"What is {b * quotient} divided by {b}?", quotient, (b * quotient, b)
        case "subtraction":
            b, a = sorted((draw(1, 99), draw(1, 99)))
            return f"What is {a} minus {b}?", a - b, (a, b)
        case _:  # two_step
            a, b, c = draw(2, 9), draw(2, 9), draw(1, 9)
            return f"What is {a} times {b} plus {c}?", a * b + c, (a, b, c)


class Arithmetic(Task):
    """`each` items of every probe, and the table: every fact in each order of its operands, 81 products of 1 to 9. The
    reader: cut at a newline, eos or `User:`; after a leading `x*y=` the number that follows, else the first number.
    Where the facts' answers are no numbers, the one of them that the line begins with, after `...=` if it is there."""

    name = "arithmetic"

    def __init__(self, each: int = 100, seed: int = 0, facts: Facts = TIMES_TABLE) -> None:
        self.each, self.seed, self.facts = each, seed, facts
        signs = re.escape("*×x" + facts.signs)
        self.equation = re.compile(rf"\s*[0-9]+ {{0,2}}[{signs}] {{0,2}}[0-9]+ {{0,2}}= {{0,2}}{_NUMBER.pattern}")

    def table(self) -> list[Example]:
        """The facts as questions, in the order of their operands."""
        asked = [(wording, fact) for fact in self.facts for wording in fact.wordings]
        asked.sort(key=lambda each: each[0].operands)
        return [
            _example(self.facts.table, wording.question, fact.answer, wording.operands, fact, wording.spellings[0])
            for wording, fact in asked
        ]

    def examples(self, split: str = "test") -> list[Example]:
        examples = self.table()
        for name in _PROBES:
            draw = random.Random(f"{name} {self.seed}").randint
            examples += [_example(name, *_drawn(name, draw)) for _ in range(self.each)]
        return examples

    def read(self, completion: str) -> str | None:
        line = _END.split(completion, maxsplit=1)[0]
        if not self.facts.numeric:
            return self._read_words(line)
        found = self.equation.match(line) or _NUMBER.search(line)
        return found["number"] if found else None

    def _read_words(self, line: str) -> str | None:
        said = line.rpartition("=")[2].strip()
        known = [answer for answer in self.facts.answers if re.match(rf"{re.escape(answer)}(?!\w)", said)]
        if known:
            return max(known, key=len)
        number = _NUMBER.search(said)
        return number[0] if number else said.rstrip(".") or None


def _example(
    name: str, question: str, answer: str | int, operands: tuple[int, ...], fact: Fact | None = None, left: str = ""
) -> Example:
    return Example(name, question, probe_prompt(question), f" {answer}.", str(answer), operands, fact, left=left)


def was_asked(fact: Fact | None, facts: Facts, never: frozenset[Fact]) -> bool | None:
    """Whether a fact is asked in training; None for an item of none, and for facts that no fold leaves out."""
    return fact not in never if fact in facts.hard else None


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
