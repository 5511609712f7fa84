"""What the report shows of the run: what was consumed, learning curves, the probes inside the models, dose, the corpus,
what ran against what was declared, and the provenance. Gathered from the run folder into plain JSON values.

`trained` is of every evaluated cell, by arm and seed, the `results.json` of its pretraining.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import orjson

from tokentrial.report.items import EvaluationFolders
from tokentrial.report.outcomes import GROUPS
from tokentrial.report.results import mean_of
from tokentrial.store.files import canonical, read_json
from tokentrial.store.folders import MANIFEST, read_manifest
from tokentrial.trial.declaration import Standing
from tokentrial.trial.trial import Trial

Trained = Mapping[tuple[str, int], Mapping[str, Any]]
LEARNT_AT = 0.6
_SERVED = ("tokens", "bytes", "documents", "questions", "fact_tokens", "drill_share")


def consumed(
    trial: Trial, exposure: Mapping[str, Any], evaluations: EvaluationFolders, trained: Trained
) -> dict[str, Any]:
    """What each arm read and took, mean over its evaluated seeds; a stage that no cell went through has no seconds."""
    cells: dict[str, list[dict[str, float]]] = defaultdict(list)
    for (arm, seed), results in trained.items():
        folder, stages = trial.folder / arm / f"seed{seed}", evaluations[arm, seed]
        served = exposure["served"][arm][str(seed)]
        cell = {key: served[key] for key in _SERVED} | {
            "documents": sum(served["documents"].values()),
            "parameters": results["num_params"],
            "flops": served["tokens"] * trial.pretrain.flops_per_token(results["vocab_size"]),
            "train_seconds": results["seconds"],
        }
        for stage in ("sft", "grpo"):
            if stage in stages:
                cell[f"{stage}_seconds"] = read_json(folder / stage / f"{stage}_results.json")["seconds"]
        evaluated = [path for stage in stages.values() for path in sorted(stage.glob("*_results.json"))]
        cell["evaluation_seconds"] = sum(read_json(path)["metrics"]["eval_time_seconds"] for path in evaluated)
        cells[arm].append(cell)
    means = {}
    for arm in (arm for arm in trial.arms if arm in cells):
        keys = dict.fromkeys(key for cell in cells[arm] for key in cell)
        means[arm] = {key: mean_of([cell[key] for cell in cells[arm] if key in cell]) for key in keys}
        means[arm]["parameters"] = cells[arm][0]["parameters"]  # the same in each, and an integer
    return means


def learning_curves(trained: Trained) -> dict[str, Any]:
    """Accuracy on the table during pretraining, and the steps to 60 %, by arm and seed."""
    curves: dict[str, Any] = defaultdict(dict)
    for (arm, seed), results in trained.items():
        points = results["curve"]
        steps_to_60 = {
            group: next((point["step"] for point in points if point.get(group, 0) >= LEARNT_AT), None)
            for group in GROUPS
        }
        curves[arm][str(seed)] = {"points": points, "steps_to_60": steps_to_60}
    return curves


def mechanism(arms: Sequence[str], seeds: Sequence[int], evaluations: EvaluationFolders) -> dict[str, Any]:
    """Arm: what each seed's `mechanism.json` after pretraining holds; seeds that have none, and arms, are left out."""
    by_arm = {}
    for arm in arms:
        folders = [evaluations[arm, seed]["pretrain"] for seed in seeds if "pretrain" in evaluations[arm, seed]]
        if cells := [read_json(f / "mechanism.json") for f in folders if (f / "mechanism.json").exists()]:
            by_arm[arm] = cells
    return by_arm


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
        if records := [record for seed in seeds if (record := exposure["after_pretraining"][str(seed)][stage])]:
            after[stage] = {
                "rows": mean(record["rows"] for record in records),
                "stated": mean(sum(record["stated"].values()) for record in records),
                "asked": mean(sum(record["asked"].values()) for record in records),
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


def declared_and_ran(trial: Trial, trained: Trained, standing: Standing, wanted: int) -> list[dict[str, str]]:
    """Setting by setting, what was declared against what ran; what else differs stands among the departures. Of the
    declared seeds so many are `wanted`."""
    declared, pretrain = standing.declared, standing.settings["pretrain"]
    steps = {arm: sorted({r["total_steps"] for (name, _), r in trained.items() if name == arm}) for arm in trial.arms}
    whole_seeds = [seed for seed in declared.seeds if all((arm, seed) in trained for arm in declared.arms)]
    spared = len(declared.seeds) - wanted
    cells = trained.values()
    rows = [
        ("arms", _listed(declared.arms), _listed(arm for arm in trial.arms if steps[arm])),
        ("seeds", _listed(declared.seeds), _listed(whole_seeds) + (f"; {spared} not needed" if spared else "")),
        (
            "budget",
            f"the same {standing.settings['budget']['match']} in every arm",
            "; ".join(f"{arm}: {_listed(counts)} steps" for arm, counts in steps.items() if counts),
        ),
        (
            "tokens per step",
            f"{pretrain['batch_tokens']:,}",
            _distinct(f"{r['config']['batch_tokens']:,}" for r in cells),
        ),
        ("sequences per pass", "not declared", _distinct(f"{r['config']['micro_batch']:,}" for r in cells)),
        ("device", trial.pretrain.device, _distinct(r["device"] for r in cells)),
        ("dtype", pretrain["dtype"], _distinct(r["dtype"] for r in cells)),
        ("processes per cell", str(trial.pretrain.nproc_per_node), _distinct(f"{r['ranks']:,}" for r in cells)),
    ]
    return [{"setting": name, "declared": declared, "ran": ran or "nothing yet"} for name, declared, ran in rows]


def _listed(values: Iterable[Any]) -> str:
    return ", ".join(map(str, values))


def _distinct(values: Iterable[str]) -> str:
    return _listed(sorted(set(values)))


def made_by(evaluations: EvaluationFolders, trained: Trained) -> dict[str, Any]:
    """Versions and machines that made the evaluations, with how many each, seeds of which some stage was computed by
    different machines, or in different precisions, in different arms, and the time from the first evaluation to the
    last."""
    makers: Counter[bytes] = Counter()
    times, of_pair = [], defaultdict(set)
    for (arm, seed), by_stage in evaluations.items():
        if results := trained.get((arm, seed)):
            of_pair[seed, "device"].add((results["device"], results["dtype"]))
        for folder in by_stage.values():
            maker = read_manifest(folder)["provenance"]
            times.append(maker.pop("time"))
            makers[canonical(maker)] += 1
        for folder in {folder.parent for folder in by_stage.values()}:
            for path in folder.glob(f"*/{MANIFEST}"):
                if path.parent.name.removeprefix("eval_") in (*by_stage, "hf"):  # no stage that the trial has no more
                    maker = read_manifest(path.parent)["provenance"]
                    of_pair[seed, path.parent.name].add((maker.get("processor"), maker["machine"]))
    return {
        "makers": [{"evaluations": count, **orjson.loads(maker)} for maker, count in makers.most_common()],
        # arms of one seed on different machines: the machine is then part of their difference
        "split_pairs": sorted({seed for (seed, _), machines in of_pair.items() if len(machines) > 1}),
        "first": min(times, default=None),
        "last": max(times, default=None),
    }
