"""What the report shows of the run: what was consumed, learning curves, the look inside the models, dose, the corpus,
what ran against what was declared, and what made it. Gathered from the run folder into plain JSON values.

`trained` is of every evaluated cell, by arm and seed, the `results.json` of its pretraining.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import orjson

from tokentrial.report.evidence import Evaluated
from tokentrial.report.outcomes import GROUPS, mean_of
from tokentrial.store.files import canonical, read_json
from tokentrial.store.folders import MANIFEST
from tokentrial.trial.trial import Trial

Trained = Mapping[tuple[str, int], Mapping[str, Any]]
LEARNT_AT = 0.6
_HASHES = 8  # shards whose hash is listed; the others are counted
_SERVED = ("tokens", "bytes", "documents", "questions", "fact_tokens", "drill_share")


def consumed(trial: Trial, exposure: Mapping[str, Any], evaluated: Evaluated, trained: Trained) -> dict[str, Any]:
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
    cell, of_all = trial.folder / arm / f"seed{seed}", {**served, "documents": sum(served["documents"].values())}
    spent = {key: of_all[key] for key in _SERVED} | {
        "parameters": trained["num_params"],
        "flops": served["tokens"] * trial.pretrain.flops_per_token(trained["vocab_size"]),
        "train_seconds": trained["seconds"],
    }
    for stage in (stage for stage in ("sft", "grpo") if stage in stages):
        spent[f"{stage}_seconds"] = read_json(cell / stage / f"{stage}_results.json")["seconds"]
    evaluations = [path for folder in stages.values() for path in sorted(folder.glob("*_results.json"))]
    spent["evaluation_seconds"] = sum(read_json(path)["metrics"]["eval_time_seconds"] for path in evaluations)
    return spent


def curves(trained: Trained) -> dict[str, Any]:
    """Accuracy on the table during pretraining, and the steps to 60 %, by arm and seed."""
    found: dict[str, Any] = defaultdict(dict)
    for (arm, seed), of in trained.items():
        reached = {
            subset: next((point["step"] for point in of["curve"] if point.get(subset, 0) >= LEARNT_AT), None)
            for subset in GROUPS
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
                "fact_tokens": of["fact_tokens"],
                "changed_documents": of["changed_documents"],
                "documents": of["num_documents"],
                "sites_in_context": len(of["sites_in_context"]),
            }
            for arm, of in ((arm, meta["arms"][arm]) for arm in arms)
        },
        "audit": {"passed": audit["passed"], "checks": audit["checks"]},
        "overlap": audit["overlap_of_probes_and_drills"],
    }


def ran(
    trial: Trial, trained: Trained, declared_now: Mapping[str, Any], frozen: Mapping[str, Any]
) -> list[dict[str, str]]:
    """Setting by setting, what was declared against what ran."""
    steps = {arm: sorted({of["total_steps"] for (name, _), of in trained.items() if name == arm}) for arm in trial.arms}
    whole = [seed for seed in frozen["seeds"] if all((arm, seed) in trained for arm in trial.arms)]
    taken = [f"{arm}: {_listed(of)} steps" for arm, of in steps.items() if of]
    settings = [of["config"] for of in trained.values()]
    rows = [
        ("arms", _listed(trial.arms), _listed(arm for arm in trial.arms if steps[arm])),
        ("seeds", _listed(frozen["seeds"]), _listed(whole)),
        *(
            (key.replace("_", " "), _said(frozen[key]), _said(declared_now.get(key)))
            for key in ("control", "primary", "secondary", "test", "alpha", "smallest_effect", "gate")
        ),
        ("budget", f"the same {trial.budget.match} in every arm", "; ".join(taken)),
        ("tokens a step", f"{trial.pretrain.batch_tokens:,}", _distinct(f"{n['batch_tokens']:,}" for n in settings)),
        ("device", trial.pretrain.device, _distinct(of["device"] for of in trained.values())),
        ("dtype", trial.pretrain.dtype, _distinct(of["dtype"] for of in trained.values())),
        ("processes a cell", str(trial.pretrain.ranks), _distinct(f"{of['ranks']:,}" for of in trained.values())),
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
        if (path := trial.folder / name / MANIFEST).exists():
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
