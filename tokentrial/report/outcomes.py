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
from tokentrial.tasks.arithmetic import by_fact, of_table, table_subsets
from tokentrial.tasks.task import Row

_NUMBER = re.compile(r"[0-9]+", re.ASCII)

GROUPS = ("asked", "never_asked")  # subsets of the table: a fact is in one of them, by seed


class Metric(NamedTuple):
    """What a metric's values mean."""

    higher_is_better: bool
    ceiling: float | None
    words: str = ""  # for a reader


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
    for part, chosen in parts(rows).items():
        name, table = f"{stage}/{part}", of_table(chosen[0])
        over_facts = table and not part.endswith("/all")
        measured = {"accuracy": "correct"} | ({"choice_logprob": "choice_logprob"} if table else {})
        for metric, key in measured.items():
            facts = by_fact(chosen, key) if over_facts else {}
            results.values[f"{name}/{metric}"] = mean_of([*facts.values()] or [row[key] for row in chosen])
            if facts:
                results.facts[f"{name}/{metric}"] = facts
        results.floors[f"{name}/accuracy"] = floors(chosen, over_facts, favourite)
        if not table and "gold_nats_per_byte" in chosen[0]:
            _read_solutions(results.values, f"{stage}/{chosen[0]['task']}", chosen)
    held_out = read_json(folder / "heldout_text.json")
    documents: dict[str, list[Row]] = {"untouched": [], "rewritten": [], "drills": []}
    for document in held_out["documents"]:
        kept = "untouched" if document["name"] in untouched else "rewritten"
        documents["drills" if document["set"] == "drills" else kept].append(document)
    for subset, held in documents.items():
        if held and (subset == "untouched" or held_out["keeps_content"]):
            bits, size = sum(d["bits"] for d in held), sum(d["bytes"] for d in held)
            results.values[f"{stage}/heldout_text/{subset}/bits_per_byte"] = bits / size
    return rows


def parts(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Rows by `task/subset`: the subsets of the table that have any, then the other tasks whole."""
    found = {f"{part[0]['task']}/{subset}": part for subset, part in table_subsets(rows).items() if part}
    for row in rows:
        if not of_table(row):
            found.setdefault(f"{row['task']}/all", []).append(row)
    return found


def _read_solutions(values: dict[str, float], name: str, rows: Sequence[Row]) -> None:
    """Of worked solutions: the flexible score, fact tokens a response, and the gold solution's nats per original byte,
    rows whose solution states a fact apart from the others."""
    values[f"{name}/all/accuracy_flexible"] = mean_of([row["correct_flexible"] for row in rows])
    values[f"{name}/all/fact_tokens"] = mean_of([row["fact_tokens"] for row in rows])
    for subset, sites in (("all", (True, False)), ("with_site", (True,)), ("without_site", (False,))):
        chosen = [row["gold_nats_per_byte"] for row in rows if bool(row["site"]) in sites]
        if nats := [each for each in chosen if each is not None]:
            values[f"{name}/{subset}/gold_nats_per_byte"] = mean_of(nats)


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
        hits = [{"fact": r["fact"], "hit": answer == r["answer"]} for r, answer in zip(rows, answers, strict=True)]
        scored[policy] = mean_of([*by_fact(hits, "hit").values()] if over_facts else [each["hit"] for each in hits])
    return scored


def untouched_documents(folders: Sequence[Path]) -> set[str]:
    """Names of the held-out text documents that none of the arms rewrites."""
    kept = [{d["name"] for d in read_json(f / "heldout_text.json")["documents"] if not d["rewritten"]} for f in folders]
    return set.intersection(*kept) if kept else set()


def favourite_answer(exposure: Mapping[str, Any], arm: str, seed: int) -> str | None:
    """The answer most often asked for in the drills that a cell was served; None without drills."""
    asked: Counter[str] = Counter()
    for equation, forms in exposure["served"][arm][str(seed)]["facts"].items():
        asked[equation.partition("=")[2]] += forms["question"] + forms["statement"]
    if not asked.total():
        return None
    return min(asked, key=lambda answer: (-asked[answer], len(answer), answer))  # of numbers the smaller one
