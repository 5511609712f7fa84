"""Arithmetic probes: the 281 of the original report, and division, subtraction and two-step problems beside them; the
table is of the trial's own facts."""

import random
import re
from collections.abc import Callable, Sequence
from typing import Any

from tokentrial.facts.facts import Fact, Facts
from tokentrial.facts.families import TIMES_TABLE
from tokentrial.tasks.task import Example, Row, Task

_NUMBER = re.compile(r"(?P<number>-?[0-9]+(?:[.,][0-9]+)*)")  # whole: 54.9 is no 54
_THOUSANDS = re.compile(r"-?[0-9]{1,3}(?:,[0-9]{3})+(?:\.[0-9]+)?")
_STATED = re.compile(rf" {{0,2}}{_NUMBER.pattern}")
_END = re.compile(r"\n|<\|endoftext\|>|User:")
PROBES = ("mul_multidigit", "addition", "division", "subtraction", "two_step")
TABLE_SUBSETS = ("all", "from_2", "asked", "never_asked")


def probe_prompt(question: str) -> str:
    """The form in which every probe is asked."""
    return f"User: {question}\nAssistant: The answer is"


def _draw_item(probe: str, draw: Callable[[int, int], int]) -> tuple[str, int, tuple[int, ...]]:
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
    """`items` items of every probe, and the table: every fact in each order of its operands, 81 products of 1 to 9. The
    reader: cut at a newline, eos or `User:`; after a leading `x*y=` or left side the number that follows, else
    the first.
    Where the facts' answers are no numbers, the one of them that the line begins with, after `...=` if it is there."""

    name = "arithmetic"

    def __init__(self, items: int = 100, seed: int = 0, facts: Facts = TIMES_TABLE) -> None:
        self.items, self.seed, self.facts = items, seed, facts
        signs = "|".join(map(re.escape, (*"*×x", *facts.operators)))
        self.equation = re.compile(rf"\s*[0-9]+ {{0,2}}(?:{signs}) {{0,2}}[0-9]+ {{0,2}}= {{0,2}}{_NUMBER.pattern}")
        # one pattern of all, the longest first: tried one by one, a thousand answers take 0.1 s a completion
        known = sorted(facts.answers, key=len, reverse=True)
        self.known = re.compile(rf"(?:{'|'.join(map(re.escape, known))})(?!\w|[.,][0-9])")

    def table(self) -> list[Example]:
        """The facts as questions, in the order of their operands."""
        asked = [(wording, fact) for fact in self.facts for wording in fact.wordings]
        asked.sort(key=lambda pair: pair[0].operands)
        return [
            _example(self.facts.table_task, w.question, fact.answer, w.operands, fact=fact, left=w.spellings[0])
            for w, fact in asked
        ]

    def examples(self, split: str = "test") -> list[Example]:
        examples = self.table()
        for probe in PROBES:
            draw = random.Random(f"{probe} {self.seed}").randint
            examples += [_example(probe, *_draw_item(probe, draw)) for _ in range(self.items)]
        return examples

    def extract_answer(self, completion: str) -> str | None:
        line = _END.split(completion, maxsplit=1)[0]
        if self.facts.numeric:
            left, _, right = line.partition("=")
            stated = _STATED.match(right) if left.strip() in self.facts.by_spelling else None
            match = stated or self.equation.match(line) or _NUMBER.search(line)
            return _plain(match["number"]) if match else None
        right = line.rpartition("=")[2].strip()
        if known := self.known.match(right):
            return known[0]
        number = _NUMBER.search(right)
        return _plain(number[0]) if number else right.rstrip(".") or None


def _plain(number: str) -> str:
    """A number without the commas of thousands."""
    return number.replace(",", "") if _THOUSANDS.fullmatch(number) else number


def _example(task: str, question: str, answer: str | int, operands: tuple[int, ...], **fact: Any) -> Example:
    return Example(task, question, probe_prompt(question), f" {answer}.", str(answer), operands, **fact)


def was_asked(fact: Fact | None, facts: Facts, never: frozenset[Fact]) -> bool | None:
    """Whether a fact is asked in training; None for an item of none, and for facts that no fold leaves out."""
    return fact not in never if fact in facts.in_folds else None


def is_table_row(row: Row) -> bool:
    """Whether an item asks a fact of the trial's table: `mul_table`, `fact_table`, ..."""
    return bool(row["task"].endswith("_table"))


def table_subsets(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Rows of the table by subset: `all`, 81 products of 1 to 9; `from_2`, 64 without the rows of 1; and of these those
    whose fact was asked in training and those whose fact never was."""
    table = [row for row in rows if is_table_row(row)]
    return {
        "all": table,
        "from_2": [row for row in table if row["asked"] is not None],
        "asked": [row for row in table if row["asked"] is True],
        "never_asked": [row for row in table if row["asked"] is False],
    }


def fact_means(rows: Sequence[Row], key: str) -> dict[str, float]:
    """Mean of `key` over the orders of each unordered fact."""
    values: dict[str, list[float]] = {}
    for row in rows:
        values.setdefault(row["fact"], []).append(float(row[key]))
    return {fact: sum(of_fact) / len(of_fact) for fact, of_fact in values.items()}


def mean_over_facts(rows: Sequence[Row], key: str) -> float:
    """Mean of `key` over the unordered facts."""
    means = fact_means(rows, key).values()
    return sum(means) / len(means)
