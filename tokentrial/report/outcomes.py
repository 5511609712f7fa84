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

from tokentrial.store import read_json
from tokentrial.tasks.arithmetic import by_fact, of_table, table_subsets
from tokentrial.tasks.task import Row

_NUMBER = re.compile(r"[0-9]+", re.ASCII)


class Metric(NamedTuple):
    """What a metric's values mean."""

    higher_is_better: bool
    ceiling: float | None


METRICS = {
    "accuracy": Metric(True, 1.0),
    "choice_logprob": Metric(True, 0.0),
    "bits_per_byte": Metric(False, None),
    "accuracy_flexible": Metric(True, 1.0),
    "gold_nats_per_byte": Metric(False, None),
    "fact_tokens": Metric(True, None),
}


@dataclass
class CellResults:
    """What one cell showed: values by outcome, and by outcome and fact where items have facts."""

    values: dict[str, float] = field(default_factory=dict)
    facts: dict[str, dict[str, float]] = field(default_factory=dict)
    floors: dict[str, dict[str, float]] = field(default_factory=dict)


def read_stage(
    results: CellResults, stage: str, folder: Path, untouched: set[str], favourite: str | None
) -> Sequence[Row]:
    """Add what a cell's `eval_<stage>` folder holds; returns its evaluated items. `untouched` names the held-out
    documents that no arm rewrites, `favourite` is the answer most often asked for in the cell's drills."""
    rows = [orjson.loads(line) for line in (folder / "samples.jsonl").read_bytes().splitlines()]
    for subset, chosen in table_subsets(rows).items():
        if not chosen:
            continue
        for key, metric in (("correct", "accuracy"), ("choice_logprob", "choice_logprob")):
            name = f"{stage}/{chosen[0]['task']}/{subset}/{metric}"
            facts = by_fact(chosen, key)
            results.values[name] = mean_of([row[key] for row in chosen] if subset == "all" else [*facts.values()])
            results.facts[name] = facts if subset != "all" else {}
        results.floors[f"{stage}/{chosen[0]['task']}/{subset}/accuracy"] = floors(chosen, subset != "all", favourite)
    for task in dict.fromkeys(row["task"] for row in rows if not of_table(row)):
        chosen = [row for row in rows if row["task"] == task]
        name = f"{stage}/{task}/all/accuracy"
        results.values[name] = mean_of([row["correct"] for row in chosen])
        results.floors[name] = floors(chosen, False, favourite)
        if "gold_nats_per_byte" in chosen[0]:
            _read_solutions(results, f"{stage}/{task}", chosen)
    held_out = read_json(folder / "heldout_text.json")
    documents = held_out["documents"]
    groups = {
        "untouched": [d for d in documents if d["set"] == "text" and d["name"] in untouched],
        "rewritten": [d for d in documents if d["set"] == "text" and d["name"] not in untouched],
        "drills": [d for d in documents if d["set"] == "drills"],
    }
    for subset, held in groups.items():
        if held and (subset == "untouched" or held_out["keeps_content"]):
            name = f"{stage}/heldout_text/{subset}/bits_per_byte"
            results.values[name] = sum(d["bits"] for d in held) / sum(d["bytes"] for d in held)
    return rows


def _read_solutions(results: CellResults, name: str, rows: Sequence[Row]) -> None:
    """Of worked solutions: the flexible score, fact tokens a response, and the gold solution's nats per original byte,
    rows whose solution states a fact apart from the others."""
    results.values[f"{name}/all/accuracy_flexible"] = mean_of([row["correct_flexible"] for row in rows])
    results.values[f"{name}/all/fact_tokens"] = mean_of([row["fact_tokens"] for row in rows])
    for subset, chosen in (
        ("all", rows),
        ("with_site", [row for row in rows if row["site"]]),
        ("without_site", [row for row in rows if not row["site"]]),
    ):
        nats = [row["gold_nats_per_byte"] for row in chosen if row["gold_nats_per_byte"] is not None]
        if nats:
            results.values[f"{name}/{subset}/gold_nats_per_byte"] = mean_of(nats)


def mean_of(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def floors(rows: Sequence[Row], over_facts: bool, favourite: str | None) -> dict[str, float]:
    """Accuracy of policies that know no arithmetic: the best constant, an operand's echo, the drills' most frequent
    answer. FACTS for the whole table: 4/81, 9/81 and 17/81 for the larger operand."""
    constant = Counter(row["answer"] for row in rows).most_common(1)[0][0]
    operands = [row.get("operands") or [int(n) for n in _NUMBER.findall(row["question"])] or [0] for row in rows]
    policies = {
        "constant": [constant] * len(rows),
        "echo_operand": [str(of[0]) for of in operands],
        "echo_larger_operand": [str(max(of)) for of in operands],
    }
    if favourite is not None:
        policies["drill_unigram"] = [favourite] * len(rows)
    scored = {}
    for policy, answers in policies.items():
        hits: list[dict[str, Any]] = [
            {"fact": row["fact"], "hit": answers[i] == row["answer"]} for i, row in enumerate(rows)
        ]
        scored[policy] = mean_of([*by_fact(hits, "hit").values()] if over_facts else [hit["hit"] for hit in hits])
    return scored


def untouched_documents(folders: Sequence[Path]) -> set[str]:
    """Names of the held-out text documents that none of the arms rewrites."""
    names: set[str] | None = None
    for folder in folders:
        kept = {d["name"] for d in read_json(folder / "heldout_text.json")["documents"] if not d["rewritten"]}
        names = kept if names is None else names & kept
    return names or set()


def favourite_answer(exposure: Mapping[str, Any], arm: str, seed: int) -> str | None:
    """The answer most often asked for in the drills that a cell was served; None without drills."""
    asked: Counter[str] = Counter()
    for equation, forms in exposure["served"][arm][str(seed)]["facts"].items():
        asked[equation.partition("=")[2]] += forms["question"] + forms["statement"]
    if not asked.total():
        return None
    return min(asked, key=lambda answer: (-asked[answer], len(answer), answer))  # of numbers the smaller one
