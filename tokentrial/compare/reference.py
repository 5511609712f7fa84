"""`<task>_results.json` of the reference experiment, and ours in the same shape.

`metrics` holds totals; `examples` may hold the first items only (50 of GSM8K, 100 of the probes there).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import Field, model_validator

from tokentrial.compare.files import Count, Fields, checked, json_file, refuse
from tokentrial.compare.system import Items, by_item
from tokentrial.report.outcomes import floors
from tokentrial.tasks.arithmetic import Arithmetic

SUFFIX = "_results.json"
TABLE = "mul_table"  # the one whose items are known: 81 products of 1 to 9


class Totals(Fields):
    correct: Count
    total: Count
    correct_norm: Count | None = None

    @model_validator(mode="after")
    def _possible(self) -> "Totals":
        if not max(self.correct, self.correct_norm or 0) <= self.total or self.total == 0:
            raise ValueError(f"at least one item, and no more than all of {self.total} correct")
        return self


class Probes(Fields):
    category_accuracies: dict[str, Totals]


class Answered(Fields):
    question: str
    true_answer: str
    is_correct: bool
    category: str | None = None


class Results(Fields):
    metrics: dict[str, Any]
    examples: list[Answered] = Field(default_factory=list)


def read(path: Path) -> tuple[dict[str, Items], list[str]]:
    """Items by outcome, and what of the file holds totals only."""
    results = checked(path, Results, json_file(path))
    task = path.name.removesuffix(SUFFIX)
    if "category_accuracies" in results.metrics:
        totals = checked(path, Probes, results.metrics, "metrics.").category_accuracies
    else:
        totals = {task: checked(path, Totals, results.metrics, "metrics.")}
    found: dict[str, Items] = {}
    notes = []
    for name, total in totals.items():
        examples = [e for e in results.examples if e.category == name or (e.category is None and name == task)]
        right = by_item((e.question, e.is_correct) for e in examples)
        if len(right) > total.total or (len(right) == total.total and sum(right.values()) != total.correct):
            stated = f"{sum(right.values())} correct of {len(right)}"
            raise refuse(path, f"examples of {name}: found {stated}, metrics say {total.correct} of {total.total}")
        complete = len(right) == total.total
        known = table(total.total) if name == TABLE else None
        found[f"{name}/all/accuracy"] = Items(
            total.correct,
            total.total,
            right=right if complete else {},
            facts=facts_of(right) if complete and name == TABLE else {},
            floors=known.floors if known else _floors(path, examples) if complete else {},
            known_set=known.known_set if known else None,
        )
        if total.correct_norm is not None:
            found[f"{name}/all/accuracy_norm"] = Items(total.correct_norm, total.total)
        if right and not complete:
            part = f"{name}/first_{len(right)}/accuracy"
            found[part] = Items(sum(right.values()), len(right), right, floors=_floors(path, examples))
        if not complete:
            shown = f"only the first {len(right)} items" if right else "no items"
            notes.append(f"{name}: totals of {total.total}, {shown}")
    return found, notes


def _floors(path: Path, examples: Sequence[Answered]) -> dict[str, float]:
    try:
        rows = [{"question": e.question, "answer": e.true_answer, "fact": ""} for e in examples]
        return floors(rows, False, None) if rows else {}
    except ValueError as error:  # a number of thousands of digits
        raise refuse(path, f"examples: {error}; expected questions with numbers") from None


def table(total: int, correct: int = 0) -> Items | None:
    """The multiplication table as totals, 81 items or the 64 without the rows of 1, with its floors; else None."""
    examples = [e for e in Arithmetic().table() if total == 81 or min(e.operands) > 1]
    if len(examples) != total:
        return None
    rows = [{"question": e.question, "answer": e.answer, "fact": ""} for e in examples]
    return Items(correct, total, floors=floors(rows, False, None), known_set=TABLE)


def facts_of(questions: Sequence[str] | dict[str, bool]) -> dict[str, str]:
    """The unordered fact of each question of the table."""
    known = {e.question: e.fact.equation for e in Arithmetic().table() if e.fact}
    return {question: known[question] for question in questions if question in known}
