"""Outcomes: every figure that arms are compared by, read from a cell's result files.

An outcome's name is `stage/task/subset/metric`. Of the table, `all` is the mean of 81 items as in the reference; the
other subsets are means over unordered facts, the mean of a fact's two orders each.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from tokentrial.store.files import read_json
from tokentrial.tasks.arithmetic import fact_means, is_table_row, table_subsets
from tokentrial.tasks.task import Row

_NUMBER = re.compile(r"[0-9]+", re.ASCII)

GROUPS = ("asked", "never_asked")  # subsets of the table: a fact is in one of them, by seed


class Metric(NamedTuple):
    """What a metric's values mean."""

    higher_is_better: bool
    ceiling: float | None
    label: str = ""  # for a reader


METRICS = {
    "accuracy": Metric(True, 1.0, "accuracy"),
    "choice_logprob": Metric(True, 0.0, "log-probability of the right answer"),
    "bits_per_byte": Metric(False, None, "bits per byte"),
    "accuracy_flexible": Metric(True, 1.0, "accuracy, last number"),
    "gold_nats_per_byte": Metric(False, None, "nats per byte of the gold solution"),
    "fact_tokens": Metric(True, None, "fact tokens an answer"),
}


@dataclass
class CellResults:
    """What one cell scored: by outcome, and by outcome and fact where items have facts; and the floors, by policy."""

    values: dict[str, float] = field(default_factory=dict)
    facts: dict[str, dict[str, float]] = field(default_factory=dict)
    floors: dict[str, dict[str, float]] = field(default_factory=dict)


def read_evaluation(
    results: CellResults, stage: str, folder: Path, untouched: set[str], drill_answer: str | None
) -> Sequence[Row]:
    """Add what a cell's `eval_<stage>` folder holds; returns its evaluated items. `untouched` names the held-out
    documents that no arm rewrites, `drill_answer` is the answer most often asked for in the cell's drills."""
    rows = [orjson.loads(line) for line in (folder / "samples.jsonl").read_bytes().splitlines()]
    for subset, items in rows_by_subset(rows).items():
        name, is_table = f"{stage}/{subset}", is_table_row(items[0])
        over_facts = is_table and not subset.endswith("/all")
        keys = {"accuracy": "correct"} | ({"choice_logprob": "choice_logprob"} if is_table else {})
        for metric, key in keys.items():
            if over_facts:
                results.facts[f"{name}/{metric}"] = fact_means(items, key)
            results.values[f"{name}/{metric}"] = _mean_score(items, key, over_facts)
        results.floors[f"{name}/accuracy"] = floor_accuracies(items, over_facts, drill_answer)
        if not is_table and "gold_nats_per_byte" in items[0]:
            results.values |= _solution_scores(f"{stage}/{items[0]['task']}", items)
    results.values |= _bits_per_byte(f"{stage}/heldout_text", read_json(folder / "heldout_text.json"), untouched)
    return rows


def rows_by_subset(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Rows by `task/subset`: the subsets of the table that have any, then the other tasks whole."""
    subsets = {f"{part[0]['task']}/{subset}": part for subset, part in table_subsets(rows).items() if part}
    for row in rows:
        if not is_table_row(row):
            subsets.setdefault(f"{row['task']}/all", []).append(row)
    return subsets


def _mean_score(rows: Sequence[Row], key: str, over_facts: bool) -> float:
    return mean_of([*fact_means(rows, key).values()] if over_facts else [row[key] for row in rows])


def _solution_scores(name: str, rows: Sequence[Row]) -> dict[str, float]:
    """Of worked solutions: the flexible score, fact tokens a response, and the gold solution's nats per original byte,
    rows whose solution states a fact apart from the others."""
    values = {
        f"{name}/all/accuracy_flexible": mean_of([row["correct_flexible"] for row in rows]),
        f"{name}/all/fact_tokens": mean_of([row["fact_tokens"] for row in rows]),
    }
    for subset, sites in (("all", (True, False)), ("with_site", (True,)), ("without_site", (False,))):
        nats = [row["gold_nats_per_byte"] for row in rows if bool(row["site"]) in sites]
        if measured := [value for value in nats if value is not None]:
            values[f"{name}/{subset}/gold_nats_per_byte"] = mean_of(measured)
    return values


def _bits_per_byte(name: str, held_out: Mapping[str, Any], untouched: set[str]) -> dict[str, float]:
    """Over all bytes of a subset's documents. An arm that drops content saves the bits of what it dropped: it is
    measured on untouched text alone."""
    documents: dict[str, list[Row]] = {"untouched": [], "rewritten": [], "drills": []}
    for document in held_out["documents"]:
        text = "untouched" if document["name"] in untouched else "rewritten"
        documents["drills" if document["set"] == "drills" else text].append(document)
    return {
        f"{name}/{subset}/bits_per_byte": sum(d["bits"] for d in part) / sum(d["bytes"] for d in part)
        for subset, part in documents.items()
        if part and (subset == "untouched" or held_out["keeps_content"])
    }


def mean_of(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def floor_accuracies(rows: Sequence[Row], over_facts: bool, drill_answer: str | None) -> dict[str, float]:
    """Accuracy of policies that know no arithmetic: the best constant, an operand's echo, the drills' most frequent
    answer. FACTS for the whole table: 4/81, 9/81 and 17/81 for the larger operand."""
    constant = Counter(row["answer"] for row in rows).most_common(1)[0][0]
    operands = [row.get("operands") or [int(n) for n in _NUMBER.findall(row["question"])] or [0] for row in rows]
    policies = {
        "constant": [constant] * len(rows),
        "echo_operand": [str(numbers[0]) for numbers in operands],
        "echo_larger_operand": [str(max(numbers)) for numbers in operands],
    }
    if drill_answer is not None:
        policies["drill_unigram"] = [drill_answer] * len(rows)
    return {
        policy: _mean_score(
            [{"fact": row["fact"], "hit": answer == row["answer"]} for row, answer in zip(rows, answers, strict=True)],
            "hit",
            over_facts,
        )
        for policy, answers in policies.items()
    }


def untouched_documents(folders: Sequence[Path]) -> set[str]:
    """Names of the held-out text documents that none of the arms rewrites."""
    kept = [{d["name"] for d in read_json(f / "heldout_text.json")["documents"] if not d["rewritten"]} for f in folders]
    return set.intersection(*kept) if kept else set()


def most_asked_answer(exposure: Mapping[str, Any], arm: str, seed: int) -> str | None:
    """The answer most often asked for in the drills that a cell was served; None without drills."""
    asked: Counter[str] = Counter()
    for equation, forms in exposure["served"][arm][str(seed)]["facts"].items():
        asked[equation.partition("=")[2]] += forms["question"] + forms["statement"]
    if not asked.total():
        return None
    return min(asked, key=lambda answer: (-asked[answer], len(answer), answer))  # of numbers the smaller one
