"""Results that others wrote: the original report's, lm-eval's, and GSM8K's published solutions."""

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, model_validator

from tokentrial.compare.files import Count, ExternalRecord, file_error, validate
from tokentrial.compare.system import ItemResults, System, single_model
from tokentrial.report.results import floor_accuracies
from tokentrial.store.rows import read_json_file, read_rows
from tokentrial.tasks.arithmetic import Arithmetic

ItemsAndNotes = tuple[dict[str, ItemResults], list[str]]  # items by outcome, and notes on what a file lacks

# `<task>_results.json` of the original report, and ours in the same shape: `metrics` holds totals, `examples` may
# hold the first items only (50 of GSM8K, 100 of the probes there)

RESULTS_SUFFIX = "_results.json"
TABLE = "mul_table"  # the task whose items are known: 81 products of 1 to 9
_NUMBER = re.compile(r"[0-9]+", re.ASCII)


class Totals(ExternalRecord):
    correct: Count
    total: Count
    correct_norm: Count | None = None

    @model_validator(mode="after")
    def _possible(self) -> "Totals":
        if not max(self.correct, self.correct_norm or 0) <= self.total or self.total == 0:
            raise ValueError(f"at least one item, and no more than all of {self.total} correct")
        return self


class Example(ExternalRecord):
    question: str
    true_answer: str
    is_correct: bool
    category: str | None = None


class Results(ExternalRecord):
    metrics: dict[str, Any]
    examples: list[Example] = Field(default_factory=list)


def read_results(path: Path) -> ItemsAndNotes:
    """A file of results in the original report's shape."""
    results = validate(path, Results, read_json_file(path))
    task = path.name.removesuffix(RESULTS_SUFFIX)
    if "category_accuracies" in results.metrics:
        by_category = results.metrics["category_accuracies"]
        totals = validate(path, dict[str, Totals], by_category, "metrics.category_accuracies: ")
    else:
        totals = {task: validate(path, Totals, results.metrics, "metrics.")}
    results_of: dict[str, ItemResults] = {}
    notes = []
    for name, stated in totals.items():
        examples = [e for e in results.examples if e.category == name or (e.category is None and name == task)]
        listed = _from_examples(path, name, examples)
        complete = listed.total == stated.total
        if listed.total > stated.total or (complete and listed.correct != stated.correct):
            listing = f"found {listed.correct} correct of {listed.total}"
            raise file_error(path, f"examples of {name}: {listing}, metrics say {stated.correct} of {stated.total}")
        whole = listed if complete else ItemResults(stated.correct, stated.total)
        if name == TABLE and (known := table_items(stated.correct, stated.total)):
            whole = replace(known, by_item=whole.by_item)
        results_of[f"{name}/all/accuracy"] = whole
        if stated.correct_norm is not None:
            results_of[f"{name}/all/accuracy_norm"] = ItemResults(stated.correct_norm, stated.total)
        if not complete:
            results_of |= {f"{name}/first_{listed.total}/accuracy": listed} if listed.total else {}
            items = f"only the first {listed.total}" if listed.total else "no"
            notes.append(f"{name}: totals of {stated.total}, {items} items")
    return results_of, notes


def _from_examples(path: Path, task: str, examples: Sequence[Example]) -> ItemResults:
    rows = [{"question": e.question, "answer": e.true_answer, "fact": ""} for e in examples]
    # of a table of facts, items with the same operands and answer are one fact in its two orders
    table = examples if task.endswith("_table") else ()
    facts = {e.question: f"{sorted(_NUMBER.findall(e.question))}={e.true_answer}" for e in table}
    try:
        floors = floor_accuracies(rows, False, None) if rows else {}
    except ValueError as error:  # a number of thousands of digits
        raise file_error(path, f"examples: {error}; expected questions with numbers") from None
    return ItemResults.from_answers(((e.question, e.is_correct) for e in examples), facts=facts, floors=floors)


def table_items(correct: int, total: int) -> ItemResults | None:
    """The multiplication table as totals, 81 items or the 64 without the rows of 1, with its floors; else None."""
    examples = [e for e in Arithmetic().table() if total == 81 or min(e.operands) > 1]
    if len(examples) != total:
        return None
    rows = [{"question": e.question, "answer": e.answer, "fact": ""} for e in examples]
    facts = {e.question: e.fact.equation for e in examples if e.fact}
    return ItemResults(correct, total, facts=facts, floors=floor_accuracies(rows, False, None), known_set=TABLE)


# lm-eval 0.4: `results_*.json` (totals) and `samples_<task>_*.jsonl` (every item)

_SAMPLES = re.compile(r"samples_(.+?)(_\d{4}-\d\d-\d\dT[\d.-]+)?\.jsonl(\.\w+)?")
# its names of what we and the reference call accuracy
_METRIC_NAMES = {
    "acc,none": "accuracy",
    "acc_norm,none": "accuracy_norm",
    "exact_match,strict-match": "accuracy",
    "exact_match,flexible-extract": "accuracy_flexible",
}


class SampleCount(ExternalRecord):
    effective: Annotated[int, Field(ge=1, le=10**8)]


class LmEvalResults(ExternalRecord):
    results: dict[str, dict[str, Any]]
    counts: dict[str, SampleCount] = Field(alias="n-samples")


class LmEvalSample(ExternalRecord):
    doc_id: int
    doc: Any = None
    doc_hash: str = ""
    filter: str = "none"
    metrics: list[str]


def read_lm_eval(totals: Sequence[Path], samples: Sequence[Path]) -> ItemsAndNotes:
    """One run of lm-eval: every item where there are samples, else totals."""
    items: dict[str, ItemResults] = {}
    notes: list[str] = []
    for path in totals:
        items |= _lm_eval_totals(path, notes)
    for path in samples:
        items |= _lm_eval_samples(path, notes)
    return items, notes


def _lm_eval_totals(path: Path, notes: list[str]) -> dict[str, ItemResults]:
    results = validate(path, LmEvalResults, read_json_file(path))
    items = {}
    for task, metrics in results.results.items():
        if task not in results.counts:
            continue  # a group: the mean of its tasks
        total = results.counts[task].effective
        for key, value in metrics.items():
            if not isinstance(value, float) or "," not in key or "_stderr," in key:
                continue
            if 0 <= value <= 1 and abs(value * total - round(value * total)) <= 1e-6 * total:
                items[_outcome(task, key)] = ItemResults(round(value * total), total)
            else:
                notes.append(f"{task} {key}: left out, {value:g} is not a count out of {total}")
    if not items:
        problem = "no metric of `results` is a count out of `n-samples`; give a task that is scored right or wrong"
        raise file_error(path, problem)
    return items


def _lm_eval_samples(path: Path, notes: list[str]) -> dict[str, ItemResults]:
    named = _SAMPLES.fullmatch(path.name)
    task = named[1] if named else path.stem
    answers: dict[str, list[tuple[int, str, bool]]] = {}
    graded = set()  # metrics that are not 0 or 1 in every sample
    for where, row in read_rows(path):
        sample = validate(where, LmEvalSample, row)
        question = sample.doc.get("question") if isinstance(sample.doc, dict) else None
        item = question if isinstance(question, str) else f"{sample.doc_id} {sample.doc_hash}"
        for metric in sample.metrics:
            key, value = f"{metric},{sample.filter}", row.get(metric)
            if isinstance(value, bool | int | float) and value in (0, 1):
                answers.setdefault(key, []).append((sample.doc_id, item, bool(value)))
            else:
                graded.add(key)
    notes += [f"{task} {key}: left out, not right or wrong" for key in sorted(graded)]
    items = {
        # by doc_id, so that repeated questions pair by their place in the task
        _outcome(task, key): ItemResults.from_answers((item, correct) for _, item, correct in sorted(by_document))
        for key, by_document in answers.items()
        if key not in graded
    }
    if not items:
        raise file_error(path, "no metric that is right or wrong (0 or 1) in every sample")
    return items


def _outcome(task: str, key: str) -> str:
    return f"{task}/all/{_METRIC_NAMES.get(key, key.removesuffix(',none'))}"


# GSM8K's `example_model_solutions.jsonl`: every test question with the solutions of several systems


def solution_systems(row: dict[str, Any]) -> list[str]:
    """The systems of a line of solutions: the keys that hold `is_correct`; none where it is no such line."""
    if "question" not in row:
        return []
    return [name for name, value in row.items() if isinstance(value, dict) and "is_correct" in value]


def read_solutions(path: Path) -> list[System]:
    """Each of its systems; all of them answer every question."""
    answers: dict[str, list[tuple[str, bool]]] = {}
    for row in read_rows(path):
        answers = answers or {name: [] for name in solution_systems(row.fields)}
        question = row.text("question")
        for name, answered in answers.items():
            if name not in solution_systems(row.fields):
                raise file_error(row.where, f"no {name!r}, expected the systems of line 1: {list(answers)}")
            correct = row.fields[name]["is_correct"]
            if not isinstance(correct, bool):
                raise file_error(row.where, f"{name}.is_correct: found {correct!r:.80}, expected true or false")
            answered.append((question, correct))
    return [
        single_model(name, {"gsm8k/all/accuracy": ItemResults.from_answers(answered)})
        for name, answered in answers.items()
    ]
