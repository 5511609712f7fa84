"""What the report shows beside its outcomes: the table cell by cell, checks of the manipulation, dose, completions,
what ran and what made it. Gathered from result files into plain JSON values; the page shows these and reads no file.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import orjson

from tokentrial.arms.families import facts_of
from tokentrial.store import MANIFEST, read_json
from tokentrial.tasks.arithmetic import of_table
from tokentrial.tasks.task import Row
from tokentrial.trial import Trial

SHOWN = 10  # completions a stage
LONGEST = 600  # characters of a completion that are shown
_METRICS = ("accuracy", "choice_logprob")
_GROUPS = ("asked", "never_asked")
_HASHES = 8  # shards whose hash is listed; the others are counted

Evaluated = Mapping[tuple[str, int], Mapping[str, Path]]  # (arm, seed): stage: its folder of results


class Evidence:
    """Takes the rows of every cell and stage in turn, so that no more than one stage's lie in memory, and those of one
    seed that is shown."""

    def __init__(self, trial: Trial, evaluated: Evaluated) -> None:
        self.arms = trial.arms
        self.shown = next((s for s in trial.seeds if all(evaluated.get((arm, s)) for arm in trial.arms)), None)
        self.places = facts_of(trial.facts).places
        self.shape = tuple(max(place[side] for place in self.places.values()) + 1 for side in (0, 1))
        self.sums: dict[tuple[str, str], np.ndarray[Any, np.dtype[np.float64]]] = {}
        self.counts: dict[tuple[str, str], np.ndarray[Any, np.dtype[np.float64]]] = {}
        self.checked: dict[tuple[str, str], Counter[str]] = {}
        self.rows: dict[str, dict[str, list[Row]]] = {}

    def add(self, arm: str, seed: int, stage: str, rows: Sequence[Row]) -> None:
        """Take what a cell answered after a stage."""
        sums = self.sums.setdefault((stage, arm), np.zeros((2, 2, *self.shape)))
        counts = self.counts.setdefault((stage, arm), np.zeros((2, *self.shape)))
        checked = self.checked.setdefault((arm, stage), Counter())
        shown: list[Row] = []
        for row in rows:
            checked["items"] += 1
            checked["fact_tokens"] += row["fact_tokens"]
            checked["unread"] += row["read"] is None
            if "stopped" in row:
                checked["solutions"] += 1
                checked["truncated"] += not row["stopped"]
            if of_table(row):
                place, group = self.places[row["question"]], int(row["asked"] is False)
                counts[(group, *place)] += 1
                sums[(0, group, *place)] += row["correct"]
                sums[(1, group, *place)] += row["choice_logprob"]
            if seed == self.shown and ("stopped" in row or (of_table(row) and row["asked"] is not None)):
                shown.append(row)
        if seed == self.shown:
            self.rows.setdefault(stage, {})[arm] = shown

    def tables(self) -> dict[str, Any]:
        """Stage: arm: metric: mean over the seeds that asked, and over those that never asked, each question at its
        place (of a x b, row a and column b); None where no seed is of that kind."""
        tables: dict[str, Any] = {}
        rows, columns = self.shape
        for (stage, arm), sums in self.sums.items():
            counts = self.counts[stage, arm]
            tables.setdefault(stage, {})[arm] = {
                metric: {
                    group: [
                        [float(sums[m, g, a, b] / counts[g, a, b]) if counts[g, a, b] else None for b in range(columns)]
                        for a in range(rows)
                    ]
                    for g, group in enumerate(_GROUPS)
                }
                for m, metric in enumerate(_METRICS)
            }
        return tables

    def checks(self) -> dict[str, Any]:
        """Arm: stage: fact tokens an answer, shares of answers without a number and of solutions cut off."""
        checks: dict[str, Any] = {}
        for (arm, stage), counted in self.checked.items():
            checks.setdefault(arm, {})[stage] = {
                "items": counted["items"],
                "fact_tokens_per_item": counted["fact_tokens"] / counted["items"],
                "unread": counted["unread"] / counted["items"],
                "truncated": counted["truncated"] / counted["solutions"] if counted["solutions"] else None,
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


def flops_per_token(metrics: Path) -> float:
    """FLOPs of one token's forward and backward pass, as the meter of pretraining reckoned: it logs every last step."""
    records = map(orjson.loads, reversed(metrics.read_bytes().splitlines()))
    logged = next(record for record in records if "tokens_per_s" in record)
    return float(logged["tflops_per_s"] * 1e12 / logged["tokens_per_s"])


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


def ran(trial: Trial, evaluated: Evaluated, frozen: Mapping[str, Any]) -> list[dict[str, str]]:
    """Setting by setting, what was declared against what ran."""
    there = [key for key, by_stage in evaluated.items() if by_stage]
    trained = {key: read_json(_pretrained(trial, *key) / "results.json") for key in there}
    now = {"seeds": trial.seeds, "control": trial.control, **trial.verdict.model_dump(mode="json")}
    rows = [
        ("arms", ", ".join(trial.arms), ", ".join(arm for arm in trial.arms if any(a == arm for a, _ in there))),
        (
            "seeds",
            _listed(frozen["seeds"]),
            _listed([seed for seed in frozen["seeds"] if all((arm, seed) in there for arm in trial.arms)]),
        ),
        *(
            (key.replace("_", " "), _said(frozen[key]), _said(now.get(key)))
            for key in ("control", "primary", "secondary", "test", "alpha", "smallest_effect", "gate")
        ),
        ("budget", f"the same {trial.budget.match} in every arm", _steps(trial, trained)),
        ("tokens a step", f"{trial.pretrain.batch_tokens:,}", _distinct(trained, "config", "batch_tokens")),
        ("device", trial.pretrain.device, _distinct(trained, "device")),
        ("dtype", trial.pretrain.dtype, _distinct(trained, "dtype")),
        ("processes a cell", str(trial.pretrain.ranks), _distinct(trained, "ranks")),
    ]
    return [{"setting": name, "declared": declared, "ran": found or "nothing yet"} for name, declared, found in rows]


def _steps(trial: Trial, trained: Mapping[tuple[str, int], Any]) -> str:
    by_arm = {arm: sorted({t["total_steps"] for (a, _), t in trained.items() if a == arm}) for arm in trial.arms}
    return "; ".join(f"{arm}: {_listed(steps)} steps" for arm, steps in by_arm.items() if steps)


def _distinct(trained: Mapping[tuple[str, int], Any], *keys: str) -> str:
    found = set()
    for value in trained.values():
        for key in keys:
            value = value[key]
        found.add(f"{value:,}" if isinstance(value, int) else str(value))
    return ", ".join(sorted(found))


def _said(value: Any) -> str:
    if isinstance(value, list):
        return "; ".join(map(_said, value)) or "none"
    if isinstance(value, dict):
        return ", ".join(str(part) if isinstance(part, str) else f"{key} {part}" for key, part in value.items())
    return "none" if value is None else str(value)


def _listed(values: Sequence[int]) -> str:
    return ", ".join(map(str, values))


def made_by(trial: Trial, evaluated: Evaluated) -> dict[str, Any]:
    """Versions and machines that made the cells, with how many evaluations each, the time from the first to the last,
    and the hashes of the data."""
    manifests = [read_json(folder / MANIFEST) for by_stage in evaluated.values() for folder in by_stage.values()]
    makers: Counter[bytes] = Counter()
    times = []
    for record in (manifest["provenance"] for manifest in manifests):
        times.append(record["time"])
        maker = {key: value for key, value in record.items() if key != "time"}
        makers[orjson.dumps(maker, option=orjson.OPT_SORT_KEYS)] += 1
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


def seconds_after_pretraining(trial: Trial, arm: str, seed: int, stages: Mapping[str, Path]) -> dict[str, float]:
    """Measured seconds of a cell's SFT, GRPO and evaluations, where it has them."""
    cell = _pretrained(trial, arm, seed).parent
    spent = {
        f"{stage}_seconds": float(read_json(cell / stage / f"{stage}_results.json")["seconds"])
        for stage in ("sft", "grpo")
        if stage in stages
    }
    results = [path for folder in stages.values() for path in sorted(folder.glob("*_results.json"))]
    spent["evaluation_seconds"] = sum(read_json(path)["metrics"]["eval_time_seconds"] for path in results)
    return spent


def _pretrained(trial: Trial, arm: str, seed: int) -> Path:
    return trial.folder / arm / f"seed{seed}" / "pretrain"
