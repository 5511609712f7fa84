"""Families of facts: what the tokens, sites, drills and probes of a trial are about, from its settings.

A new family of two numbers is a line of `_OPERATIONS`; anything else needs a CSV file, not code.
"""

import copyreg
import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import product
from typing import NamedTuple

from tokentrial.facts.facts import ASKING_FORMS, Fact, Facts, Wording
from tokentrial.facts.settings import FactSettings

_GAPS = ("", " ", "  ")  # what may stand around an operator


class Operation(NamedTuple):
    """A family of two numbers whose order does not matter. In templates {a} and {b} are the numbers, {c} the result."""

    token: str
    table_task: str
    operators: tuple[str, ...]
    word: str
    result: Callable[[int, int], int]
    drill_lines: dict[str, str]  # those that differ from what `_wording` makes


_TIMES_LINES = {
    "times_sign": "{a} × {b} = {c}",
    "letter_x": "{a}x{b}={c}",
    "boxes": "If you have {a} boxes with {b} apples each, you have {a}*{b}={c} apples in total, so {c}.",
}
_PLUS_LINES = {
    "times_sign": "{a} + {b} = {c}",
    "boxes": "If you have {a} apples and get {b} more, you have {a}+{b}={c} apples in total, so {c}.",
}
_OPERATIONS = {
    "multiplication": Operation("MUL", "mul_table", ("*", "×", "x"), "times", lambda a, b: a * b, _TIMES_LINES),
    "addition": Operation("ADD", "add_table", ("+",), "plus", lambda a, b: a + b, _PLUS_LINES),
}
_UNITS = (("km", "m", 1000), ("m", "cm", 100), ("kg", "g", 1000), ("h", "min", 60), ("min", "s", 60))
_WORDS = {"*": "times", "×": "times", "+": "plus", "-": "minus", "/": "divided by"}


@lru_cache(maxsize=8)
def build_facts(settings: FactSettings) -> Facts:
    """The facts that a trial's settings name. Raises ValueError where rows of a file are not told from each other."""
    low, high = settings.range
    if operation := _OPERATIONS.get(settings.family):
        pairs = [(a, b) for a in range(low, high + 1) for b in range(a, high + 1)]
        facts = tuple(_pair_fact(operation, a, b) for a, b in pairs)
        # doubles first and in the order of their results, so that the folds are equally hard; 1 * b is no question
        hard = [fact for fact in facts if fact.operands[0] >= 2 or settings.family != "multiplication"]
        hard.sort(key=lambda fact: (fact.operands[0] != fact.operands[1], int(fact.answer)))
        return Facts(settings, operation.table_task, facts, tuple(hard), operation.operators)
    if settings.family == "squares":
        facts = tuple(_square_fact(a) for a in range(low, high + 1))
        return Facts(settings, "square_table", facts, facts, ("^",))
    if settings.family == "units":
        facts = tuple(_unit_fact(number, *unit) for unit in _UNITS for number in range(low, high + 1))
        return Facts(settings, "unit_table", facts, facts, ())
    of_rows = tuple(_row_fact(index, row) for index, row in enumerate(settings.rows))
    operators = dict.fromkeys(row[1] for row in settings.rows if len(row) == 4)
    facts = Facts(settings, "fact_table", of_rows, of_rows, tuple(operators))
    check_told_apart(facts)
    return facts


# pickled by their settings: a process that is sent the same facts again and again builds them once
copyreg.pickle(Facts, lambda facts: (build_facts, (facts.settings,)))


def _pair_fact(operation: Operation, a: int, b: int) -> Fact:
    c = operation.result(a, b)
    wordings = []
    for left, right in dict.fromkeys([(a, b), (b, a)]):
        spellings = _spellings(str(left), operation.operators, str(right))
        lines = {form: line.format(a=left, b=right, c=c) for form, line in operation.drill_lines.items()}
        wordings.append(_wording(spellings, f"{left} {operation.word} {right}", str(c), (left, right), lines))
    return Fact(f"<{operation.token}_{a}_{b}_{c}>", str(c), tuple(wordings))


def _square_fact(a: int) -> Fact:
    c, spellings = a * a, _spellings(str(a), "^", "2")
    boxes = {"boxes": f"A floor of {a} by {a} tiles has {a}^2={c} tiles in total, so {c}."}
    return Fact(f"<SQR_{a}_{c}>", str(c), (_wording(spellings, f"{a} squared", str(c), (a,), boxes),))


def _unit_fact(number: int, unit: str, smaller: str, factor: int) -> Fact:
    answer = f"{number * factor} {smaller}"
    phrase = f"{number} {unit} in {smaller}"
    wording = _wording((f"{number} {unit}", f"{number}{unit}"), phrase, answer)
    return Fact(f"<UNIT_{number}_{unit}_{number * factor}_{smaller}>", answer, (wording,))


def _row_fact(index: int, row: Sequence[str]) -> Fact:
    """A row of a CSV file: question, answer; or left, operator, right, result."""
    *left, answer = row
    words = "_".join(word for word in re.split(r"[^A-Za-z0-9]+", " ".join(row)) if word)
    token = f"<FACT_{index}_{words[:40]}>"
    if len(left) == 3:
        spellings = _spellings(left[0], (left[1],), left[2])
        phrase = f"{left[0]} {_WORDS.get(left[1], left[1])} {left[2]}"
        numbers = tuple(int(side) for side in (left[0], left[2]) if re.fullmatch("[0-9]+", side))
        return Fact(token, answer, (_wording(spellings, phrase, answer, numbers),))
    asked = left[0].removesuffix("?").rstrip()
    topic = re.sub(r"^(?:What|Who) (?:is|was) ", "", asked)  # the capital of France
    statement = f"{topic} is {answer}." if topic != asked else f"{asked}? {answer}."
    wording = _wording((topic,), topic, answer, question=f"{asked}?", drill_lines={"statement": statement})
    return Fact(token, answer, (wording,))


def _spellings(left: str, operators: Sequence[str], right: str) -> tuple[str, ...]:
    return tuple(f"{left}{gap}{operator}{other}{right}" for operator, gap, other in product(operators, _GAPS, _GAPS))


def _wording(
    spellings: tuple[str, ...],
    phrase: str,
    answer: str,
    operands: tuple[int, ...] = (),
    drill_lines: dict[str, str] | None = None,
    question: str | None = None,
) -> Wording:
    equation, question = f"{spellings[0]}={answer}", question or f"What is {phrase}?"
    by_form = {
        "equation": equation,
        "times_sign": f"{spellings[0]} = {answer}",
        "boxes": f"Remember that {equation}, so {answer}.",
        "statement": f"{phrase} equals {answer}.",
        "question": f"User: {question}\nAssistant: The answer is {answer}.",
    }
    return Wording(operands, phrase, question, spellings, by_form | (drill_lines or {}))


def check_told_apart(facts: Facts) -> None:
    """Refuses facts that a text could not state one by one: each is written and asked as no other is, and its own drill
    lines state it. Raises ValueError that names both."""
    first: dict[str, Fact] = {}  # to be written so
    for fact in facts:
        for wording in fact.wordings:
            if not wording.phrase:
                raise ValueError(_alike(facts, fact, fact, "asks nothing"))
            for text in dict.fromkeys(
                (*wording.spellings, wording.phrase, wording.question, *wording.drill_lines.values())
            ):
                if (other := first.setdefault(text, fact)) != fact:
                    raise ValueError(_alike(facts, fact, other, f"both become {text!r}"))
    for fact in facts:
        for form, line in ((form, line) for w in fact.wordings for form, line in w.drill_lines.items()):
            asks = form in ASKING_FORMS
            stated, asked = [site.fact for site in facts.sites(line)], facts.asked_in(line)
            if stated != ([] if asks else [fact]) or asked != ({fact} if asks else set()):
                other = next((named for named in (*stated, *asked) if named != fact), fact)
                raise ValueError(_alike(facts, fact, other, f"{line!r} does not state only the first"))


def _alike(facts: Facts, fact: Fact, other: Fact, problem: str) -> str:
    rows = [f"{facts.index_of[one] + 1}, {list(facts.settings.rows[facts.index_of[one]])}" for one in (fact, other)]
    return f"rows: fact {' and fact '.join(dict.fromkeys(rows))}: {problem}; reword one of them"


TIMES_TABLE = build_facts(FactSettings())  # the 45 products of 1 to 9: what a trial is about unless it says otherwise
