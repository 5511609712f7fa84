"""Results that others wrote: the reference experiment's, lm-eval's, and GSM8K's published solutions."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, model_validator

from tokentrial.compare.files import Count, Fields, checked, json_file, json_lines, refuse
from tokentrial.compare.system import Items, System, single
from tokentrial.report.outcomes import floor_accuracies
from tokentrial.tasks.arithmetic import Arithmetic

Read = tuple[dict[str, Items], list[str]]  # items by outcome, and notes of what a file has not

# `<task>_results.json` of the reference experiment, and ours in the same shape: `metrics` holds totals, `examples` may
# hold the first items only (50 of GSM8K, 100 of the probes there)

RESULTS = "_results.json"
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


def read_results(path: Path) -> Read:
    """A file of results in the reference's shape."""
    results = checked(path, Results, json_file(path))
    task = path.name.removesuffix(RESULTS)
    if "category_accuracies" in results.metrics:
        totals = checked(path, Probes, results.metrics, "metrics.").category_accuracies
    else:
        totals = {task: checked(path, Totals, results.metrics, "metrics.")}
    found: dict[str, Items] = {}
    notes = []
    for name, total in totals.items():
        examples = [e for e in results.examples if e.category == name or (e.category is None and name == task)]
        shown = _of_examples(path, examples)
        whole = shown.total == total.total
        if shown.total > total.total or (whole and shown.correct != total.correct):
            stated = f"{shown.correct} correct of {shown.total}"
            raise refuse(path, f"examples of {name}: found {stated}, metrics say {total.correct} of {total.total}")
        known = table(total.correct, total.total) if name == TABLE else None
        found[f"{name}/all/accuracy"] = replace(
            known or (shown if whole else Items(total.correct, total.total)), right=shown.right if whole else {}
        )
        if total.correct_norm is not None:
            found[f"{name}/all/accuracy_norm"] = Items(total.correct_norm, total.total)
        if not whole:
            if shown.right:
                found[f"{name}/first_{shown.total}/accuracy"] = shown
            notes.append(
                f"{name}: totals of {total.total}, "
                + (f"only the first {shown.total} items" if shown.right else "no items")
            )
    return found, notes


def _of_examples(path: Path, examples: Sequence[Answered]) -> Items:
    rows = [{"question": e.question, "answer": e.true_answer, "fact": ""} for e in examples]
    try:
        known = floor_accuracies(rows, False, None) if rows else {}
    except ValueError as error:  # a number of thousands of digits
        raise refuse(path, f"examples: {error}; expected questions with numbers") from None
    return Items.of(((e.question, e.is_correct) for e in examples), floors=known)


def table(correct: int, total: int) -> Items | None:
    """The multiplication table as totals, 81 items or the 64 without the rows of 1, with its floors; else None."""
    examples = [e for e in Arithmetic().table() if total == 81 or min(e.operands) > 1]
    if len(examples) != total:
        return None
    rows = [{"question": e.question, "answer": e.answer, "fact": ""} for e in examples]
    facts = {e.question: e.fact.equation for e in examples if e.fact}
    return Items(correct, total, facts=facts, floors=floor_accuracies(rows, False, None), known_set=TABLE)


# lm-eval 0.4: `results_*.json` (totals) and `samples_<task>_*.jsonl` (every item)

_SAMPLES = re.compile(r"samples_(.+?)(_\d{4}-\d\d-\d\dT[\d.-]+)?\.jsonl")
# its names of what we and the reference call accuracy
_NAMES = {
    "acc,none": "accuracy",
    "acc_norm,none": "accuracy_norm",
    "exact_match,strict-match": "accuracy",
    "exact_match,flexible-extract": "accuracy_flexible",
}


class SampleCount(Fields):
    effective: Annotated[int, Field(ge=1, le=10**8)]


class HarnessResults(Fields):
    results: dict[str, dict[str, Any]]
    counts: dict[str, SampleCount] = Field(alias="n-samples")


class Sample(Fields):
    doc_id: int
    doc: Any = None
    doc_hash: str = ""
    filter: str = "none"
    metrics: list[str]


def read_harness(files: Sequence[Path]) -> Read:
    """One run of lm-eval: every item where there are samples, else totals."""
    totals: dict[str, Items] = {}
    samples: dict[str, Items] = {}
    notes: list[str] = []
    for path in sorted(files, key=lambda path: path.suffix != ".jsonl"):
        if path.suffix == ".jsonl":
            samples |= _samples(path, notes)
        else:
            totals |= _totals(path, notes)
    return totals | samples, notes


def _totals(path: Path, notes: list[str]) -> dict[str, Items]:
    results = checked(path, HarnessResults, json_file(path))
    found = {}
    for task, metrics in results.results.items():
        if task not in results.counts:
            continue  # a group: the mean of its tasks
        total = results.counts[task].effective
        for key, value in metrics.items():
            if not isinstance(value, float) or "," not in key or "_stderr," in key:
                continue
            if 0 <= value <= 1 and abs(value * total - round(value * total)) <= 1e-6 * total:
                found[_outcome(task, key)] = Items(round(value * total), total)
            else:
                notes.append(f"{task} {key}: left out, {value:g} is no count out of {total}")
    if not found:
        raise refuse(path, "no metric of `results` is a count out of `n-samples`; give a task that is right or wrong")
    return found


def _samples(path: Path, notes: list[str]) -> dict[str, Items]:
    named = _SAMPLES.fullmatch(path.name)
    task = named[1] if named else path.stem
    answers: dict[str, list[tuple[int, str, bool]]] = {}
    graded = set()
    for number, row in json_lines(path):
        sample = checked(path, Sample, row, f"line {number}: ")
        question = sample.doc.get("question") if isinstance(sample.doc, dict) else None
        item = question if isinstance(question, str) else f"{sample.doc_id} {sample.doc_hash}"
        for metric in sample.metrics:
            key, value = f"{metric},{sample.filter}", row.get(metric)
            if isinstance(value, bool | int | float) and value in (0, 1):
                answers.setdefault(key, []).append((sample.doc_id, item, bool(value)))
            else:
                graded.add(key)
    notes += [f"{task} {key}: left out, not right or wrong" for key in sorted(graded)]
    found = {
        _outcome(task, key): Items.of((item, correct) for _, item, correct in sorted(given))
        for key, given in answers.items()
        if key not in graded
    }
    if not found:
        raise refuse(path, "no metric that is right or wrong (0 or 1) in every sample")
    return found


def _outcome(task: str, key: str) -> str:
    return f"{task}/all/{_NAMES.get(key, key.removesuffix(',none'))}"


# GSM8K's `example_model_solutions.jsonl`: every test question with the solutions of several systems


class Solution(Fields):
    is_correct: bool


class Question(Fields):
    question: str


def solvers(row: Any) -> list[str]:
    """The systems of a line of solutions: the keys that hold `is_correct`; none where it is no such line."""
    if not isinstance(row, dict) or "question" not in row:
        return []
    return [name for name, value in row.items() if isinstance(value, dict) and "is_correct" in value]


def read_solutions(path: Path) -> Iterator[System]:
    """Each of its systems; all of them answer every question."""
    names: list[str] = []
    answers: dict[str, list[tuple[str, bool]]] = {}
    for number, row in json_lines(path):
        where = f"line {number}: "
        question = checked(path, Question, row, where).question
        names = names or solvers(row)
        for name in names:
            if name not in row:
                raise refuse(path, f"{where}no {name!r}, expected the systems of line 1: {names}")
            solved = checked(path, Solution, row[name], f"{where}{name}.").is_correct
            answers.setdefault(name, []).append((question, solved))
    for name in names:
        yield single(name, {"gsm8k/all/accuracy": Items.of(answers[name])})
