"""What the report shows of the answers beside its outcomes: the table cell by cell, checks of the manipulation,
completions."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np

from tokentrial.arms.families import facts_of
from tokentrial.report.outcomes import GROUPS
from tokentrial.tasks.arithmetic import of_table
from tokentrial.tasks.task import Row
from tokentrial.trial.trial import Trial

SHOWN = 10  # completions a stage
LONGEST = 600  # characters of a completion that are shown
_METRICS = ("accuracy", "choice_logprob")

Evaluated = Mapping[tuple[str, int], Mapping[str, Path]]  # (arm, seed): stage: its folder of results


class Evidence:
    """Takes the rows of every cell and stage in turn, so that no more than one stage's lie in memory, and those of one
    seed that is shown."""

    def __init__(self, trial: Trial, evaluated: Evaluated) -> None:
        self.arms = trial.arms
        self.shown = next((s for s in trial.seeds if all(evaluated.get((arm, s)) for arm in trial.arms)), None)
        self.places = facts_of(trial.facts).places
        shape = [max(place[side] for place in self.places.values()) + 1 for side in (0, 1)]
        # by stage and arm; of the table the number of items, then the sum of each metric: (3, group, row, column)
        self.table: dict[tuple[str, str], Any] = defaultdict(lambda: np.zeros((1 + len(_METRICS), 2, *shape)))
        self.counted: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
        self.rows: dict[str, dict[str, list[Row]]] = defaultdict(dict)

    def add(self, arm: str, seed: int, stage: str, rows: Sequence[Row]) -> None:
        """Take what a cell answered after a stage."""
        table, shown = self.table[stage, arm], []
        for row in rows:
            if of_table(row):
                group = int(row["asked"] is False)
                table[(slice(None), group, *self.places[row["question"]])] += (1, row["correct"], row["choice_logprob"])
            if "stopped" in row or (of_table(row) and row["asked"] is not None):
                shown.append(row)
        self.counted[arm, stage].update(
            items=len(rows),
            fact_tokens=sum(row["fact_tokens"] for row in rows),
            unread=sum(row["read"] is None for row in rows),
            solutions=sum("stopped" in row for row in rows),
            truncated=sum(not row.get("stopped", True) for row in rows),
        )
        if seed == self.shown:
            self.rows[stage][arm] = shown

    def tables(self) -> dict[str, Any]:
        """Stage: arm: metric: mean over the seeds that asked, and over those that never asked, each question at its
        place (of a x b, row a and column b); NaN where no seed is of that kind."""
        tables: dict[str, Any] = defaultdict(dict)
        for (stage, arm), (items, *sums) in self.table.items():
            with np.errstate(invalid="ignore"):  # 0 / 0
                means = [dict(zip(GROUPS, of / items, strict=True)) for of in sums]
            tables[stage][arm] = dict(zip(_METRICS, means, strict=True))
        return tables

    def checks(self) -> dict[str, Any]:
        """Arm: stage: fact tokens an answer, shares of answers without a number and of solutions cut off."""
        checks: dict[str, Any] = defaultdict(dict)
        for (arm, stage), counted in self.counted.items():
            items, solutions = counted["items"], counted["solutions"]
            checks[arm][stage] = {
                "items": items,
                "fact_tokens_per_item": counted["fact_tokens"] / items,
                "unread": counted["unread"] / items,
                "truncated": counted["truncated"] / solutions if solutions else None,
            }
        return checks

    def samples(self) -> dict[str, Any]:
        """Stage: items of one seed with every arm's completion, so chosen that arms which differ come first."""
        return {
            stage: {"seed": self.shown, "items": _varied(rows, self.arms)}
            for stage, rows in self.rows.items()
            if set(rows) == set(self.arms)
        }


def _varied(rows: Mapping[str, Sequence[Row]], arms: Sequence[str]) -> list[dict[str, Any]]:
    """Half of the items from the table and half from worked solutions; of each, one of every pattern of right and
    wrong arms in turn."""
    first = rows[arms[0]]
    table = [i for i, row in enumerate(first) if of_table(row)]
    solved = [i for i, row in enumerate(first) if not of_table(row)]
    half = SHOWN // 2 if solved else SHOWN
    chosen = [*_in_turn(table, rows, arms, half), *_in_turn(solved, rows, arms, SHOWN - half)]
    return [
        {
            "task": first[i]["task"],
            "question": first[i]["question"],
            "answer": first[i]["answer"],
            "asked": first[i].get("asked"),
            "arms": {
                arm: {key: rows[arm][i][key][:LONGEST] for key in ("completion", "plain")}
                | {"correct": bool(rows[arm][i]["correct"])}
                for arm in arms
            },
        }
        for i in chosen
    ]


def _in_turn(items: Sequence[int], rows: Mapping[str, Sequence[Row]], arms: Sequence[str], wanted: int) -> list[int]:
    groups: dict[tuple[bool, ...], list[int]] = defaultdict(list)
    for i in items:
        # an item that is never asked stands for more than one that was drilled: the groups are kept apart
        pattern = (rows[arms[0]][i].get("asked") is not False, *(bool(rows[arm][i]["correct"]) for arm in arms))
        groups[pattern].append(i)
    differing_first = sorted(groups, key=lambda pattern: (len(set(pattern[1:])) == 1, pattern))
    turns = zip_longest(*(groups[pattern] for pattern in differing_first))
    return [i for turn in turns for i in turn if i is not None][:wanted]
