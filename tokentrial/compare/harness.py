"""Results of EleutherAI's lm-eval 0.4: `results_*.json` (totals) and `samples_<task>_*.jsonl` (every item)."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from tokentrial.compare.files import Fields, checked, json_file, json_lines, refuse
from tokentrial.compare.system import Items, by_item

_SAMPLES = re.compile(r"samples_(.+?)(_\d{4}-\d\d-\d\dT[\d.-]+)?\.jsonl")
# the harness's names of what we and the reference call accuracy
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


def is_results(value: Any) -> bool:
    return isinstance(value, dict) and "results" in value


def is_samples(row: Any) -> bool:
    return isinstance(row, dict) and "doc_id" in row and "metrics" in row


def read(files: Sequence[Path]) -> tuple[dict[str, Items], list[str]]:
    """Items by outcome: every item where there are samples, else totals; and notes of what was left out."""
    found: dict[str, Items] = {}
    notes: list[str] = []
    for path in files:
        if path.suffix == ".jsonl":
            found |= _samples(path, notes)
    for path in files:
        if path.suffix == ".json":
            found = _totals(path, notes) | found
    return found, notes


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
            correct = round(value * total) if 0 <= value <= 1 else -1
            if correct < 0 or abs(value * total - correct) > 1e-6 * total:
                notes.append(f"{task} {key}: left out, {value:g} is no count out of {total}")
                continue
            found[_outcome(task, key)] = Items(correct, total)
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
    found = {}
    for key, given in answers.items():
        if key not in graded:
            right = by_item((item, correct) for _, item, correct in sorted(given))
            found[_outcome(task, key)] = Items(sum(right.values()), len(right), right)
    if not found:
        raise refuse(path, "no metric that is right or wrong (0 or 1) in every sample")
    return found


def _outcome(task: str, key: str) -> str:
    return f"{task}/all/{_NAMES.get(key, key.removesuffix(',none'))}"
