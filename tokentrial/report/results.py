"""Results: what every cell scored, read from its evaluation's files, and the one table of all of them.

    OUT/results.parquet, OUT/results.csv
    arm, seed, stage, task, subset, item, fact, metric, value

A row without item and fact is an outcome of a cell, one with a fact alone the mean over that fact's orders, one with an
item a single answer. Figures of one's own start there: `tokentrial results OUT` prints it.
"""

import re
import secrets
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from tokentrial.errors import TrialError
from tokentrial.report.outcomes import GOLD_NATS, METRICS, kind_of
from tokentrial.store.files import PARTIAL, read_json
from tokentrial.tasks.arithmetic import TABLE_SUBSETS, fact_means, is_table_row, mean_over_facts, table_subsets
from tokentrial.tasks.task import Row

RESULTS = "results.parquet"
RESULTS_CSV = "results.csv"
COLUMNS = ("arm", "seed", "stage", "task", "subset", "item", "fact", "metric", "value")
_NUMBER = re.compile(r"[0-9]+", re.ASCII)


class SharedItems(NamedTuple):
    """Where the means of several arms are over the same items: names of the held-out documents that none of the arms
    rewrites, and task and question of the solutions that some arm cannot fit into the context."""

    untouched: frozenset[str]
    too_long: frozenset[tuple[str, str]]


@dataclass
class CellResults:
    """What one cell scored: by outcome, and by outcome and fact where items have facts; and the floors, by policy."""

    values: dict[str, float] = field(default_factory=dict)
    facts: dict[str, dict[str, float]] = field(default_factory=dict)
    floors: dict[str, dict[str, float]] = field(default_factory=dict)


def read_evaluation(
    results: CellResults, stage: str, folder: Path, shared: SharedItems, drill_answer: str | None
) -> Sequence[Row]:
    """Add what a cell's `eval_<stage>` folder holds; returns its evaluated items. `drill_answer` is the answer most
    often asked for in the cell's drills. Where checkpoints before the model's end were evaluated, outcomes are means
    over all of them; items are those of its end."""
    cell = CellResults()
    rows = _read_folder(cell, stage, folder, shared, drill_answer)
    if before_end := sorted(folder.glob("step_*")):
        read = [cell, *(CellResults() for _ in before_end)]
        for earlier, checkpoint in zip(read[1:], before_end, strict=True):
            _read_folder(earlier, stage, checkpoint, shared, drill_answer)
        cell = replace(
            cell,
            values={name: mean_of([one.values[name] for one in read]) for name in cell.values},
            facts={
                name: {fact: mean_of([one.facts[name][fact] for one in read]) for fact in by_fact}
                for name, by_fact in cell.facts.items()
            },
        )
    results.values |= cell.values
    results.facts |= cell.facts
    results.floors |= cell.floors
    return rows


def _read_folder(
    results: CellResults, stage: str, folder: Path, shared: SharedItems, drill_answer: str | None
) -> Sequence[Row]:
    held_out = read_json(folder / "heldout_text.json")
    rows = [orjson.loads(line) for line in (folder / "samples.jsonl").read_bytes().splitlines()]
    for row in rows:
        if (row["task"], row["question"]) in shared.too_long:
            row["gold_nats_per_byte"] = None  # the other arms cannot be compared on it
    for subset, items in rows_by_subset(rows).items():
        kind, over_facts = kind_of(items[0]), is_table_row(items[0]) and not subset.endswith("/all")
        for metric, known in METRICS.items():
            # of an arm that drops content or draws tokens a solution with a site is another text
            other_text = metric == GOLD_NATS and not held_out["keeps_content"] and not subset.endswith("/without_site")
            scores = [(row, known.score(row)) for row in items] if _has(metric, subset, kind) and not other_text else []
            if scored := [{"fact": row["fact"], "score": score} for row, score in scores if score is not None]:
                name = f"{stage}/{subset}/{metric}"
                if over_facts:
                    results.facts[name] = fact_means(scored, "score")
                results.values[name] = _mean_score(scored, over_facts)
        if subset.partition("/")[2] in TABLE_SUBSETS:
            results.floors[f"{stage}/{subset}/accuracy"] = floor_accuracies(items, over_facts, drill_answer)
    results.values |= _bits_per_byte(f"{stage}/heldout_text", held_out, shared.untouched)
    return rows


def _has(metric: str, subset: str, kind: str) -> bool:
    """Whether items of a kind have the metric in this subset."""
    known, part = METRICS[metric], subset.partition("/")[2]
    return kind in known.of and (kind != "solution" or part in known.subsets)


def rows_by_subset(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Rows by `task/subset`: the subsets of the table that have any, then the other tasks whole."""
    subsets = {f"{part[0]['task']}/{subset}": part for subset, part in table_subsets(rows).items() if part}
    for row in rows:
        if not is_table_row(row):
            subsets.setdefault(f"{row['task']}/all", []).append(row)
            if kind_of(row) == "solution":  # solutions that state a fact apart from the others
                subset = "with_site" if row["site"] else "without_site"
                subsets.setdefault(f"{row['task']}/{subset}", []).append(row)
    return subsets


def _mean_score(scored: Sequence[Row], over_facts: bool) -> float:
    return mean_over_facts(scored, "score") if over_facts else mean_of([float(row["score"]) for row in scored])


def _bits_per_byte(name: str, held_out: Mapping[str, Any], untouched: frozenset[str]) -> dict[str, float]:
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
            [{"fact": row["fact"], "score": a == row["answer"]} for row, a in zip(rows, answers, strict=True)],
            over_facts,
        )
        for policy, answers in policies.items()
    }


def shared_items(folders: Sequence[Path]) -> SharedItems:
    """What the cells of these folders are compared on. Raises TrialError where one cannot be read."""
    kept = [{d["name"] for d in read_json(f / "heldout_text.json")["documents"] if not d["rewritten"]} for f in folders]
    too_long = (item for folder in folders for item in _too_long(folder / "samples.jsonl"))
    return SharedItems(frozenset.intersection(*map(frozenset, kept)) if kept else frozenset(), frozenset(too_long))


def _too_long(samples: Path) -> Iterator[tuple[str, str]]:
    """Task and question of the solutions that did not fit."""
    try:
        for line in samples.read_bytes().splitlines():
            # few lines have it: to parse them all again would double the time that a report takes to read them
            if b'"gold_nats_per_byte":null' in line:
                row = orjson.loads(line)
                yield str(row["task"]), str(row["question"])  # whatever others wrote there
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise TrialError(f"{samples}: cannot be read ({error!r}); evaluate this cell again") from None


def most_asked_answer(exposure: Mapping[str, Any], arm: str, seed: int) -> str | None:
    """The answer most often asked for in the drills that a cell was served; None without drills."""
    asked: Counter[str] = Counter()
    for equation, forms in exposure["served"][arm][str(seed)]["facts"].items():
        asked[equation.partition("=")[2]] += forms["question"] + forms["statement"]
    if not asked.total():
        return None
    return min(asked, key=lambda answer: (-asked[answer], len(answer), answer))  # of numbers the smaller one


class ResultsTable:
    """Writes the table, a cell's stage at a time: of a large run the items of all cells do not fit the memory."""

    def __init__(self, folder: Path) -> None:
        import pyarrow as pa
        from pyarrow import csv, parquet

        types = {"seed": pa.int64(), "value": pa.float64()}
        self.schema = pa.schema([(column, types.get(column, pa.string())) for column in COLUMNS])
        self.paths = [folder / RESULTS, folder / RESULTS_CSV]
        # names of its own: another process may build the report of the same folder
        self.parts = [path.with_name(f"{path.name}.{secrets.token_hex(4)}{PARTIAL}") for path in self.paths]
        self.writers = [parquet.ParquetWriter(self.parts[0], self.schema), csv.CSVWriter(self.parts[1], self.schema)]

    def add(self, arm: str, seed: int, stage: str, results: CellResults, rows: Sequence[Row]) -> None:
        """What a cell scored after a stage, and its answers."""
        import pyarrow as pa

        whole_rows = [(arm, seed, *row) for row in _table_rows(stage, results, rows)]
        columns = zip(*whole_rows, strict=True) if whole_rows else [()] * len(COLUMNS)
        table = pa.Table.from_arrays(
            [pa.array(column, field.type) for column, field in zip(columns, self.schema, strict=True)],
            schema=self.schema,
        )
        for writer in self.writers:
            writer.write_table(table)

    def close(self) -> None:
        """Let the whole table take its place."""
        for path, part, writer in zip(self.paths, self.parts, self.writers, strict=True):
            writer.close()
            part.replace(path)


def _table_rows(stage: str, results: CellResults, rows: Sequence[Row]) -> Iterator[tuple[Any, ...]]:
    """From `stage` on, the columns of each row."""
    for name, value in results.values.items():
        of_stage, task, subset, metric = name.split("/", 3)
        if of_stage == stage:
            yield stage, task, subset, None, None, metric, value
            for fact, mean in results.facts.get(name, {}).items():
                yield stage, task, subset, None, fact, metric, mean
    for name, items in rows_by_subset(rows).items():
        task, subset = name.split("/", 1)
        for item in items:
            for metric, known in METRICS.items():
                is_outcome = f"{stage}/{name}/{metric}" in results.values
                score = known.score(item) if is_outcome and _has(metric, name, kind_of(item)) else None
                if score is not None:
                    yield stage, task, subset, item["question"], item["fact"], metric, float(score)


def read_outcomes(folder: Path) -> dict[str, dict[str, dict[int, float]]]:
    """Of a run folder's table, each outcome's value by arm and seed. Raises TrialError where there is none."""
    outcomes: dict[str, dict[str, dict[int, float]]] = {}
    for row in read_table(folder, items=False).to_pylist():
        name = "/".join(row[part] for part in ("stage", "task", "subset", "metric"))
        outcomes.setdefault(name, {}).setdefault(row["arm"], {})[row["seed"]] = row["value"]
    return outcomes


def export_results(folder: Path, items: bool, kind: str) -> bytes:
    """The table of `read_table` as `csv` or `parquet`."""
    from pyarrow import BufferOutputStream, csv, parquet

    table, out = read_table(folder, items), BufferOutputStream()
    csv.write_csv(table, out) if kind == "csv" else parquet.write_table(table, out)
    return bytes(out.getvalue())


def read_table(folder: Path, items: bool) -> Any:
    """A run folder's table (pyarrow): the outcomes of every cell, with `items` facts and answers too."""
    from pyarrow import ArrowInvalid, compute, parquet

    path = folder / RESULTS
    if not path.is_file():
        raise TrialError(f"{path}: not found; run `tokentrial report {folder}` first")
    try:
        table = parquet.read_table(path, columns=[*COLUMNS])
    except (ArrowInvalid, OSError) as error:
        raise TrialError(f"{path}: cannot be read ({error}); run `tokentrial report {folder}` again") from None
    if items:
        return table
    of_cells = table.filter(compute.and_(compute.is_null(table["item"]), compute.is_null(table["fact"])))
    return of_cells.drop_columns(["item", "fact"])
