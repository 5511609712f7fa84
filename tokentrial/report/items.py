"""What the report shows of the answers one by one: the table fact by fact, checks of the manipulation, completions."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np

from tokentrial.facts.families import build_facts
from tokentrial.report.outcomes import GROUPS
from tokentrial.tasks.arithmetic import is_table_row
from tokentrial.tasks.task import Row
from tokentrial.trial.trial import Trial

_SAMPLES = 10  # completions a stage
_LONGEST = 600  # characters of a completion that are shown
_METRICS = ("accuracy", "choice_logprob")

EvaluationFolders = Mapping[tuple[str, int], Mapping[str, Path]]  # (arm, seed): stage: its folder of results


class ItemSummary:
    """Takes the rows of every cell and stage in turn, so that no more than one stage's lie in memory, and those of the
    one seed whose completions are shown."""

    def __init__(self, trial: Trial, evaluations: EvaluationFolders) -> None:
        self.arms = trial.arms
        whole_seeds = (seed for seed in trial.seeds if all(evaluations.get((arm, seed)) for arm in trial.arms))
        self.sample_seed = next(whole_seeds, None)
        self.table_cells = build_facts(trial.facts).table_cells
        shape = [max(place[side] for place in self.table_cells.values()) + 1 for side in (0, 1)]
        # by stage and arm; of the table the number of items, then the sum of each metric: (3, group, row, column)
        self.table_sums: dict[tuple[str, str], Any] = defaultdict(lambda: np.zeros((1 + len(_METRICS), 2, *shape)))
        self.counts: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
        self.candidates: dict[str, dict[str, list[Row]]] = defaultdict(dict)

    def add(self, arm: str, seed: int, stage: str, rows: Sequence[Row]) -> None:
        """Take what a cell answered after a stage."""
        sums = self.table_sums[stage, arm]
        for row in rows:
            if is_table_row(row):
                group = int(row["asked"] is False)
                sums[(slice(None), group, *self.table_cells[row["question"]])] += (
                    1,
                    row["correct"],
                    row["choice_logprob"],
                )
        self.counts[arm, stage].update(
            items=len(rows),
            fact_tokens=sum(row["fact_tokens"] for row in rows),
            unread=sum(row["read"] is None for row in rows),
            solutions=sum("stopped" in row for row in rows),
            truncated=sum(not row.get("stopped", True) for row in rows),
        )
        if seed == self.sample_seed:
            self.candidates[stage][arm] = [
                row for row in rows if "stopped" in row or (is_table_row(row) and row["asked"] is not None)
            ]

    def tables(self) -> dict[str, Any]:
        """Stage: arm: metric: mean over the seeds that asked, and over those that never asked, each question at its
        place (of a x b, row a and column b); NaN where no seed is of that kind."""
        tables: dict[str, Any] = defaultdict(dict)
        for (stage, arm), (items, *sums) in self.table_sums.items():
            with np.errstate(invalid="ignore"):  # 0 / 0
                means = [dict(zip(GROUPS, by_group / items, strict=True)) for by_group in sums]
            tables[stage][arm] = dict(zip(_METRICS, means, strict=True))
        return tables

    def checks(self) -> dict[str, Any]:
        """Arm: stage: fact tokens an answer, shares of answers without a number and of solutions cut off."""
        checks: dict[str, Any] = defaultdict(dict)
        for (arm, stage), counts in self.counts.items():
            items, solutions = counts["items"], counts["solutions"]
            checks[arm][stage] = {
                "items": items,
                "fact_tokens_per_item": counts["fact_tokens"] / items,
                "unread": counts["unread"] / items,
                "truncated": counts["truncated"] / solutions if solutions else None,
            }
        return checks

    def samples(self) -> dict[str, Any]:
        """Stage: items of one seed with every arm's completion, so chosen that arms which differ come first."""
        return {
            stage: {"seed": self.sample_seed, "items": _samples({arm: by_arm[arm] for arm in self.arms})}
            for stage, by_arm in self.candidates.items()
            if set(by_arm) == set(self.arms)
        }


def _samples(by_arm: Mapping[str, Sequence[Row]]) -> list[dict[str, Any]]:
    """Half of the items from the table and half from worked solutions."""
    items = [dict(zip(by_arm, rows, strict=True)) for rows in zip(*by_arm.values(), strict=False)]
    first = next(iter(by_arm))
    table = [item for item in items if is_table_row(item[first])]
    solved = [item for item in items if not is_table_row(item[first])]
    half = _SAMPLES // 2 if solved else _SAMPLES
    return [
        {
            **{key: item[first].get(key) for key in ("task", "question", "answer", "asked")},
            "arms": {
                arm: {key: row[key][:_LONGEST] for key in ("completion", "plain")} | {"correct": bool(row["correct"])}
                for arm, row in item.items()
            },
        }
        for item in (*_varied(table, half), *_varied(solved, _SAMPLES - half))
    ]


def _varied(items: Sequence[Mapping[str, Row]], count: int) -> list[Mapping[str, Row]]:
    """So many items, one of every pattern of right and wrong arms in turn, patterns where arms differ first."""
    by_pattern: dict[tuple[bool, ...], list[Mapping[str, Row]]] = defaultdict(list)
    for item in items:
        rows = [*item.values()]
        # an item that is never asked stands for more than one that was drilled: the two are kept apart
        by_pattern[rows[0].get("asked") is not False, *(bool(row["correct"]) for row in rows)].append(item)
    differing_first = sorted(by_pattern, key=lambda pattern: (len(set(pattern[1:])) == 1, pattern))
    turns = zip_longest(*(by_pattern[pattern] for pattern in differing_first))
    return [item for turn in turns for item in turn if item is not None][:count]
