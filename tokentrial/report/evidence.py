"""What the report shows beside its outcomes: the table cell by cell, checks of the manipulation, dose, completions,
what ran and what made it. Gathered from result files into plain JSON values; the page shows these and reads no file.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import orjson

from tokentrial.arms.families import facts_of
from tokentrial.report.outcomes import mean_of
from tokentrial.store import MANIFEST, canonical, read_json
from tokentrial.tasks.arithmetic import of_table
from tokentrial.tasks.task import Row
from tokentrial.trial import Trial

SHOWN = 10  # completions a stage
LONGEST = 600  # characters of a completion that are shown
_METRICS = ("accuracy", "choice_logprob")
_GROUPS = ("asked", "never_asked")
LEARNT_AT = 0.6
_HASHES = 8  # shards whose hash is listed; the others are counted

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
                means = [dict(zip(_GROUPS, of / items, strict=True)) for of in sums]
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
    groups: dict[tuple[bool, ...], list[int]] = {}
    for i in items:
        # an item that is never asked stands for more than one that was drilled: the groups are kept apart
        pattern = (rows[arms[0]][i].get("asked") is not False, *(bool(rows[arm][i]["correct"]) for arm in arms))
        groups.setdefault(pattern, []).append(i)
    differing_first = sorted(groups, key=lambda pattern: (len(set(pattern[1:])) == 1, pattern))
    turns = max(map(len, groups.values()), default=0)
    return [groups[p][turn] for turn in range(turns) for p in differing_first if turn < len(groups[p])][:wanted]


def consumed(
    trial: Trial, exposure: Mapping[str, Any], evaluated: Evaluated, trained: Mapping[tuple[str, int], Any]
) -> dict[str, Any]:
    """What each arm read and took, mean over its evaluated seeds; a stage that no cell went through has no seconds."""
    found = {}
    for arm in trial.arms:
        cells = [
            _cell_consumed(trial, exposure["served"][arm][str(seed)], arm, seed, of, evaluated[arm, seed])
            for (name, seed), of in trained.items()
            if name == arm
        ]
        if cells:
            means = {key: [cell[key] for cell in cells if key in cell] for key in dict.fromkeys(chain(*cells))}
            found[arm] = {key: mean_of(values) for key, values in means.items()}
            found[arm]["parameters"] = cells[0]["parameters"]  # the same in each: no mean
    return found


def _cell_consumed(
    trial: Trial, served: Mapping[str, Any], arm: str, seed: int, trained: Mapping[str, Any], stages: Mapping[str, Path]
) -> dict[str, float]:
    cell = trial.folder / arm / f"seed{seed}"
    # the meter of pretraining reckons FLOPs of a token's forward and backward pass, and logs every last step
    records = map(orjson.loads, reversed((cell / "pretrain" / "metrics.jsonl").read_bytes().splitlines()))
    logged = next(record for record in records if "tokens_per_s" in record)
    evaluations = [path for folder in stages.values() for path in sorted(folder.glob("*_results.json"))]
    return {
        "tokens": served["tokens"],
        "bytes": served["bytes"],
        "documents": sum(served["documents"].values()),
        "questions": served["questions"],
        "fact_tokens": served["fact_tokens"],
        "drill_share": served["drill_share"],
        "parameters": trained["num_params"],
        "flops": served["tokens"] * (logged["tflops_per_s"] * 1e12 / logged["tokens_per_s"]),
        "train_seconds": trained["seconds"],
        **{
            f"{stage}_seconds": read_json(cell / stage / f"{stage}_results.json")["seconds"]
            for stage in ("sft", "grpo")
            if stage in stages
        },
        "evaluation_seconds": sum(read_json(path)["metrics"]["eval_time_seconds"] for path in evaluations),
    }


def curves(trained: Mapping[tuple[str, int], Any]) -> dict[str, Any]:
    """Accuracy on the table during pretraining, and the steps to 60 %, by arm and seed."""
    found: dict[str, Any] = defaultdict(dict)
    for (arm, seed), of in trained.items():
        reached = {
            subset: next((point["step"] for point in of["curve"] if point.get(subset, 0) >= LEARNT_AT), None)
            for subset in _GROUPS
        }
        found[arm][str(seed)] = {"points": of["curve"], "steps_to_60": reached}
    return found


def inside(arms: Sequence[str], seeds: Sequence[int], evaluated: Evaluated) -> dict[str, Any]:
    """Arm: what each seed's `mechanism.json` after pretraining holds; seeds that have none, and arms, are left out."""
    found = {}
    for arm in arms:
        folders = [folder for seed in seeds if (folder := evaluated[arm, seed].get("pretrain"))]
        if cells := [read_json(path) for folder in folders if (path := folder / "mechanism.json").exists()]:
            found[arm] = cells
    return found


def dose(exposure: Mapping[str, Any], arms: Sequence[str], seeds: Sequence[int]) -> dict[str, Any]:
    """How often facts are served: by arm and form (mean over seeds), the least, median and most served fact, and what
    the stages after pretraining state and ask."""
    by_arm = {}
    for arm in arms:
        served = [exposure["served"][arm][str(seed)]["facts"] for seed in seeds]
        totals = [sum(forms.values()) for facts in served for forms in facts.values()]
        by_arm[arm] = {
            "forms": {
                form: mean(sum(forms[form] for forms in facts.values()) for facts in served)
                for form in exposure["forms"]
            },
            "per_fact": [min(totals), float(np.median(totals)), max(totals)],
        }
    after = {}
    for stage in ("sft", "grpo"):
        there = [record for seed in seeds if (record := exposure["after_pretraining"][str(seed)][stage])]
        if there:
            after[stage] = {
                "rows": mean(record["rows"] for record in there),
                "stated": mean(sum(record["stated"].values()) for record in there),
                "asked": mean(sum(record["asked"].values()) for record in there),
            }
    return {"by_arm": by_arm, "after_pretraining": after}


def corpus_checks(corpus: Path, arms: Sequence[str]) -> dict[str, Any]:
    """Sites that were written as tokens, sites of the source's own text shown for a look, names that stood there
    literally, and the audit."""
    meta, audit = read_json(corpus / "meta.json"), read_json(corpus / "audit.json")
    return {
        "literal_token_names": meta["text"]["literal_token_names"],
        "by_arm": {
            arm: {
                "fact_tokens": meta["arms"][arm]["fact_tokens"],
                "changed_documents": meta["arms"][arm]["changed_documents"],
                "documents": meta["arms"][arm]["num_documents"],
                "sites_in_context": len(meta["arms"][arm]["sites_in_context"]),
            }
            for arm in arms
        },
        "audit": {"passed": audit["passed"], "checks": audit["checks"]},
        "overlap": audit["overlap_of_probes_and_drills"],
    }


def ran(
    trial: Trial, trained: Mapping[tuple[str, int], Any], declared_now: Mapping[str, Any], frozen: Mapping[str, Any]
) -> list[dict[str, str]]:
    """Setting by setting, what was declared against what ran."""
    steps = {arm: sorted({of["total_steps"] for (name, _), of in trained.items() if name == arm}) for arm in trial.arms}
    whole = [seed for seed in frozen["seeds"] if all((arm, seed) in trained for arm in trial.arms)]
    results = trained.values()
    rows = [
        ("arms", _listed(trial.arms), _listed(arm for arm in trial.arms if steps[arm])),
        ("seeds", _listed(frozen["seeds"]), _listed(whole)),
        *(
            (key.replace("_", " "), _said(frozen[key]), _said(declared_now.get(key)))
            for key in ("control", "primary", "secondary", "test", "alpha", "smallest_effect", "gate")
        ),
        (
            "budget",
            f"the same {trial.budget.match} in every arm",
            "; ".join(f"{arm}: {_listed(of)} steps" for arm, of in steps.items() if of),
        ),
        (
            "tokens a step",
            f"{trial.pretrain.batch_tokens:,}",
            _distinct(f"{of['config']['batch_tokens']:,}" for of in results),
        ),
        ("device", trial.pretrain.device, _distinct(of["device"] for of in results)),
        ("dtype", trial.pretrain.dtype, _distinct(of["dtype"] for of in results)),
        ("processes a cell", str(trial.pretrain.ranks), _distinct(f"{of['ranks']:,}" for of in results)),
    ]
    return [{"setting": name, "declared": declared, "ran": found or "nothing yet"} for name, declared, found in rows]


def _said(value: Any) -> str:
    if isinstance(value, list):
        return "; ".join(map(_said, value)) or "none"
    if isinstance(value, dict):
        return ", ".join(str(part) if isinstance(part, str) else f"{key} {part}" for key, part in value.items())
    return "none" if value is None else str(value)


def _listed(values: Iterable[Any]) -> str:
    return ", ".join(map(str, values))


def _distinct(values: Iterable[str]) -> str:
    return _listed(sorted(set(values)))


def made_by(trial: Trial, evaluated: Evaluated) -> dict[str, Any]:
    """Versions and machines that made the cells, with how many evaluations each, the time from the first to the last,
    and the hashes of the data."""
    makers: Counter[bytes] = Counter()
    times = []
    for folder in (folder for by_stage in evaluated.values() for folder in by_stage.values()):
        maker = read_json(folder / MANIFEST)["provenance"]
        times.append(maker.pop("time"))
        makers[canonical(maker)] += 1
    data: dict[str, Any] = {}
    for name in ("corpus", "corpus/drills"):
        path = trial.folder / name / MANIFEST
        if path.exists():
            manifest = read_json(path)
            files = {file: entry["sha256"] for file, entry in manifest["files"].items()}
            data[name] = {
                "fingerprint": manifest["fingerprint"],
                "files": dict(list(files.items())[:_HASHES]),
                "more_files": max(0, len(files) - _HASHES),
            }
    return {
        "makers": [{"evaluations": count, **orjson.loads(maker)} for maker, count in makers.most_common()],
        "first": min(times, default=None),
        "last": max(times, default=None),
        "data": data,
    }
