"""`comparison_report.json`: outcomes by arm and seed, contrasts, gate, freeze and the verdict; and the page of it."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokentrial.arms.arm import find, names
from tokentrial.arms.families import facts_of
from tokentrial.report import family as families
from tokentrial.report.evidence import (
    Evaluated,
    Evidence,
    corpus_checks,
    dose,
    flops_per_token,
    made_by,
    ran,
    seconds_after_pretraining,
)
from tokentrial.report.mechanism import inside
from tokentrial.report.outcomes import (
    METRICS,
    CellResults,
    favourite_answer,
    mean_of,
    read_stage,
    untouched_documents,
)
from tokentrial.store import MANIFEST, fingerprint, provenance, read_json, write_bytes, write_json
from tokentrial.sweep import Variant
from tokentrial.trial import Trial

if TYPE_CHECKING:
    from tokentrial.statistics.verdict import Contrast

VERSION = 3
REPORT = "comparison_report.json"
PAGE = "report.html"
LEARNT_AT = 0.6

Results = dict[tuple[str, int], CellResults]


def build(trial: Trial, evaluated: Evaluated, declared_now: Mapping[str, Any], declared_path: Path) -> dict[str, Any]:
    """Build the report from what is there, write `comparison_report.json`, `report.md`, `report.html` and `figures/`,
    and return it.

    At once where nothing changed. `evaluated` holds every cell's up-to-date results, stage by stage in order; stages
    that some cells lack are named under `missing`.
    """
    frozen_before = (
        read_json(declared_path, "seeds", "control", "primary", "secondary") if declared_path.exists() else None
    )
    beside = families.reports(trial, REPORT)
    wanted = fingerprint(
        "report",
        VERSION,
        cells={
            f"{arm}/{seed}/{stage}": read_json(folder / MANIFEST)["fingerprint"]
            for (arm, seed), by_stage in evaluated.items()
            for stage, folder in by_stage.items()
        },
        declared=[declared_now, frozen_before],
        arms=trial.arms,
        seeds=trial.seeds,
        grpo=_grpo(trial),
        beside=[[variant.kind, variant.name, made and made["fingerprint"]] for variant, made in beside],
    )
    path, page = trial.folder / REPORT, trial.folder / PAGE
    if path.exists() and page.exists() and (before := read_json(path, "fingerprint"))["fingerprint"] == wanted:
        stored: dict[str, Any] = before
        return stored
    report = _compare(trial, evaluated, declared_now, frozen_before, beside)
    report["fingerprint"] = wanted
    report["missing"] = [
        f"{arm}/seed{seed} {stage}"
        for (arm, seed), by_stage in evaluated.items()
        for stage in report["stages"] or ["pretrain"]
        if stage not in by_stage
    ]
    from tokentrial.report.page import write_page
    from tokentrial.report.tables import markdown

    # the JSON last: its fingerprint says that the others are there
    write_bytes(trial.folder / "report.md", markdown(report).encode())
    write_page(report, page)
    write_json(path, report)
    return report


def _compare(
    trial: Trial,
    evaluated: Evaluated,
    declared_now: Mapping[str, Any],
    frozen_before: Mapping[str, Any] | None,
    beside: Sequence[tuple[Variant, Mapping[str, Any] | None]],
) -> dict[str, Any]:
    from tokentrial.statistics.verdict import decide, freeze, gate

    facts = facts_of(trial.facts)
    choice_floor = -math.log(len(facts.answers))  # every answer of the table as likely as the others
    frozen, changes = freeze(declared_now, frozen_before)
    exposure = read_json(trial.folder / "corpus" / "exposure.json")
    untouched = untouched_documents([folder for by_stage in evaluated.values() for folder in by_stage.values()])
    results: Results = {}
    evidence = Evidence(trial, evaluated)
    for (arm, seed), by_stage in evaluated.items():
        for stage, folder in by_stage.items():
            cell = results.setdefault((arm, seed), CellResults())
            favourite = favourite_answer(exposure, arm, seed)
            evidence.add(arm, seed, stage, read_stage(cell, stage, folder, untouched, favourite))
    measured = list(dict.fromkeys(name for cell in results.values() for name in cell.values))
    declared = [(pair["outcome"], pair["contrast"]) for pair in (frozen["primary"], *frozen["secondary"])]
    pairs = list(
        dict.fromkeys(
            [f"{arm} - {trial.control}" for arm in trial.arms if arm != trial.control]
            + [contrast for _, contrast in declared]
        )
    )
    seeds = [seed for seed in frozen["seeds"] if all((arm, seed) in results for arm in trial.arms)]
    contrasts = {
        (name, pair): made
        for name in measured
        for pair in pairs
        if (made := _contrast(results, name, pair, seeds, frozen, (name, pair) in declared, choice_floor))
    }
    learnt = _gate(results, facts.table, seeds, frozen, gate)
    not_learnt = learnt["failed"] if learnt else None
    absent = [seed for seed in frozen["seeds"] if seed not in seeds]
    if declared[0] in contrasts:
        family = [key for key in declared[1:] if key in contrasts]
        primary, secondary = decide(
            contrasts[declared[0]], [contrasts[key] for key in family], alpha=frozen["alpha"], not_learnt=not_learnt
        )
        contrasts |= {declared[0]: primary} | dict(zip(family, secondary, strict=True))
    if absent:
        reason = f"no verdict yet: seeds {absent} are declared and not there"
        contrasts = {key: replace(made, verdict=None, note=reason) for key, made in contrasts.items()}
    outcomes = {
        name: {
            "floor": _floor(results, name, choice_floor),
            "floors": _floors(results, name, trial.control),
            "per_seed": {
                arm: [results[arm, seed].values.get(name) if (arm, seed) in results else None for seed in trial.seeds]
                for arm in trial.arms
            },
            "contrasts": {pair: asdict(contrasts[name, pair]) for pair in pairs if (name, pair) in contrasts},
        }
        for name in measured
    }
    return {
        "trial": trial.name,
        "arms": trial.arms,
        "seeds": trial.seeds,
        "control": trial.control,
        "stages": list(dict.fromkeys(stage for by_stage in evaluated.values() for stage in by_stage)),
        "primary": _primary(declared[0], contrasts),
        "declared": frozen,
        "extended": changes,
        "gate": learnt,
        "outcomes": outcomes,
        **families.shown(trial, beside, declared, outcomes),
        "curves": _curves(trial, results),
        "consumed": _consumed(trial, exposure, evaluated, results),
        "facts": {"table": facts.table, "facts": len(facts), "choice_floor": choice_floor},
        "tables": evidence.tables(),
        "checks": evidence.checks(),
        "corpus": corpus_checks(trial.folder / "corpus", trial.arms),
        "dose": dose(exposure, trial.arms, trial.seeds),
        "mechanism": inside(trial.arms, trial.seeds, evaluated),
        "samples": evidence.samples(),
        "ran": ran(trial, evaluated, frozen),
        "arms_left_out": {name: find(name).summary for name in names() if name not in trial.arms},
        "settings": trial.model_dump(mode="json", exclude={"output"}),
        "grpo": _grpo(trial),
        "made_by": made_by(trial, evaluated),
        "provenance": provenance(),
    }


def _contrast(
    results: Results,
    name: str,
    pair: str,
    seeds: Sequence[int],
    frozen: Mapping[str, Any],
    declared: bool,
    choice_floor: float,
) -> "Contrast | None":
    import numpy as np

    from tokentrial.statistics.verdict import contrast

    treatment, control = pair.split(" - ")
    if not seeds or any((arm, seed) not in results for arm in (treatment, control) for seed in seeds):
        return None  # such as an arm that was left out of the trial after a look
    a = [results[treatment, seed].values.get(name) for seed in seeds]
    b = [results[control, seed].values.get(name) for seed in seeds]
    if None in a or None in b:
        return None
    metric = METRICS[name.rsplit("/", 1)[1]]
    facts = [
        (results[treatment, seed].facts.get(name, {}), results[control, seed].facts.get(name, {})) for seed in seeds
    ]
    columns = sorted({fact for both in facts for fact in both[0]})
    table = [[ta[fact] - tb[fact] if fact in ta else np.nan for fact in columns] for ta, tb in facts]
    return contrast(
        [float(x) for x in a if x is not None],
        [float(x) for x in b if x is not None],
        margin=frozen["smallest_effect"] if name.endswith("/accuracy") else None,
        alpha=frozen["alpha"],
        declared=declared,
        floor=_floor(results, name, choice_floor),
        ceiling=metric.ceiling,
        higher_is_better=metric.higher_is_better,
        by_fact=table if columns and len(seeds) > 1 else None,
        rng=np.random.default_rng(0),
    )


def _gate(
    results: Results, table: str, seeds: Sequence[int], frozen: Mapping[str, Any], gate: Any
) -> dict[str, Any] | None:
    """The declared control's accuracies against the gate; None where there is no gate or nothing to hold against it."""
    control = frozen["control"]
    if frozen["gate"] is None or not seeds or (control, seeds[0]) not in results:
        return None
    asked, never = (
        [results[control, seed].values.get(f"pretrain/{table}/{subset}/accuracy") for seed in seeds]
        for subset in ("asked", "never_asked")
    )
    unasked = None if None in never else never
    failed = gate(asked, unasked, frozen["gate"]["asked"], frozen["gate"]["never_asked"])
    return {
        "asked": mean_of([x for x in asked if x is not None]),
        "never_asked": None if unasked is None else mean_of([x for x in unasked if x is not None]),
        "needed": frozen["gate"],
        "failed": failed,
    }


def _primary(declared: tuple[str, str], contrasts: Mapping[tuple[str, str], "Contrast"]) -> dict[str, Any]:
    made = contrasts.get(declared)
    return {
        "outcome": declared[0],
        "contrast": declared[1],
        "verdict": made.verdict if made else None,
        "note": made.note if made else "not measured yet",
    }


def _floors(results: Results, name: str, control: str) -> dict[str, float]:
    """Each floor's mean over the control's seeds; the items are the same in every arm."""
    found = [cell.floors[name] for (arm, _), cell in results.items() if arm == control and name in cell.floors]
    return {
        policy: mean_of([floor[policy] for floor in found if policy in floor]) for policy in (found[0] if found else ())
    }


def _floor(results: Results, name: str, choice_floor: float) -> float | None:
    if name.endswith("/choice_logprob"):
        return choice_floor
    found = [max(cell.floors[name].values()) for cell in results.values() if name in cell.floors]
    return max(mean_of(found), 0.0) if found else None


def _curves(trial: Trial, results: Results) -> dict[str, Any]:
    """Accuracy on the table during pretraining, and the steps to 60 %, by arm and seed."""
    curves: dict[str, Any] = {}
    for arm, seed in results:
        path = trial.folder / arm / f"seed{seed}" / "pretrain" / "results.json"
        curve = read_json(path)["curve"]
        reached = {
            subset: next((point["step"] for point in curve if point.get(subset, 0) >= LEARNT_AT), None)
            for subset in ("asked", "never_asked")
        }
        curves.setdefault(arm, {})[str(seed)] = {"points": curve, "steps_to_60": reached}
    return curves


def _consumed(trial: Trial, exposure: Mapping[str, Any], evaluated: Evaluated, results: Results) -> dict[str, Any]:
    """What each arm read, mean over its seeds: tokens, original bytes, documents, questions, FLOPs, seconds."""
    consumed = {}
    for arm in trial.arms:
        seeds = [seed for seed in trial.seeds if (arm, seed) in results]
        served = [exposure["served"][arm][str(seed)] for seed in seeds]
        cells = [trial.folder / arm / f"seed{seed}" / "pretrain" for seed in seeds]
        trained = [read_json(cell / "results.json") for cell in cells]
        flops = [flops_per_token(cell / "metrics.jsonl") for cell in cells]
        spent = [seconds_after_pretraining(trial, arm, seed, evaluated[arm, seed]) for seed in seeds]
        if served:
            consumed[arm] = {
                "tokens": mean_of([s["tokens"] for s in served]),
                "bytes": mean_of([s["bytes"] for s in served]),
                "documents": mean_of([sum(s["documents"].values()) for s in served]),
                "questions": mean_of([s["questions"] for s in served]),
                "fact_tokens": mean_of([s["fact_tokens"] for s in served]),
                "drill_share": mean_of([s["drill_share"] for s in served]),
                "parameters": trained[0]["num_params"],
                "flops": mean_of([s["tokens"] * each for s, each in zip(served, flops, strict=True)]),
                "train_seconds": mean_of([t["seconds"] for t in trained]),
                **{
                    key: mean_of([s[key] for s in spent if key in s])
                    for key in dict.fromkeys(k for s in spent for k in s)
                },
            }
    return consumed


def _grpo(trial: Trial) -> dict[str, Any] | None:
    """Whether GRPO went on, pass@k before it by cell, and whether a bonus that only some arms can earn was paid."""
    path = trial.folder / "grpo_decision.json"
    if trial.grpo is None or not path.exists():
        return None
    return {**read_json(path), "mul_bonus": trial.grpo.mul_bonus}
