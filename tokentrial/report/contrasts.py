"""Outcomes of arms against each other: values by seed with their floors, the contrasts, the control's gate, the
verdicts."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from tokentrial.report.outcomes import GROUPS, METRICS, CellResults, mean_of
from tokentrial.statistics import verdict
from tokentrial.statistics.verdict import Contrast
from tokentrial.trial.trial import Trial

Results = Mapping[tuple[str, int], CellResults]  # by arm and seed
Key = tuple[str, str]  # an outcome's name and a contrast, `treatment - control`


def contrast_arms(
    trial: Trial, results: Results, frozen: Mapping[str, Any], table: str, choice_floor: float
) -> dict[str, Any]:
    """`primary`, `gate` and `outcomes` of the report. Only seeds that were declared, with all of their arms, count."""
    outcomes = list(dict.fromkeys(name for cell in results.values() for name in cell.values))
    floors = {name: _floor(results, name, choice_floor) for name in outcomes}
    declared: list[Key] = [(pair["outcome"], pair["contrast"]) for pair in (frozen["primary"], *frozen["secondary"])]
    against_control = [f"{arm} - {trial.control}" for arm in trial.arms if arm != trial.control]
    pairs = list(dict.fromkeys([*against_control, *(pair for _, pair in declared)]))
    seeds = [seed for seed in frozen["seeds"] if all((arm, seed) in results for arm in trial.arms)]
    gate = _gate(results, table, seeds, frozen)
    contrasts = {
        (name, pair): contrast
        for name in outcomes
        for pair in pairs
        if (contrast := _contrast(results, (name, pair), seeds, frozen, (name, pair) in declared, floors[name]))
    }
    contrasts |= _verdicts(contrasts, declared, frozen["alpha"], gate)
    missing = [seed for seed in frozen["seeds"] if seed not in seeds]
    if missing or (gate is None and frozen["gate"]):
        # a verdict on the seeds that happen to be done would be a look that nobody declared
        reason = f"seeds {missing} are declared and not there" if missing else "the gate is not measured"
        contrasts = {key: replace(c, verdict=None, note=f"no verdict yet: {reason}") for key, c in contrasts.items()}
    primary = contrasts.get(declared[0])
    return {
        "primary": {
            **frozen["primary"],
            "verdict": primary.verdict if primary else None,
            "note": primary.note if primary else "not measured yet",
        },
        "gate": gate,
        "outcomes": {
            name: {
                "floor": floors[name],
                "floors": _floors_by_policy(results, name, trial.control),
                "per_seed": {
                    arm: [results.get((arm, s), CellResults()).values.get(name) for s in trial.seeds]
                    for arm in trial.arms
                },
                "contrasts": {pair: asdict(contrasts[name, pair]) for pair in pairs if (name, pair) in contrasts},
            }
            for name in outcomes
        },
    }


def _contrast(
    results: Results, key: Key, seeds: Sequence[int], frozen: Mapping[str, Any], declared: bool, floor: float | None
) -> Contrast | None:
    """A pair of arms on an outcome; None where a seed lacks one, such as of an arm left out after a look."""
    name, pair = key
    treatment, control = ([results.get((arm, s), CellResults()) for s in seeds] for arm in pair.split(" - "))
    if not seeds or any(name not in cell.values for cell in (*treatment, *control)):
        return None
    facts_a, facts_b = ([cell.facts.get(name, {}) for cell in cells] for cells in (treatment, control))
    facts = sorted({fact for by_fact in facts_a for fact in by_fact})
    differences_by_fact = [  # (seeds, facts)
        [a[fact] - b[fact] if fact in a else math.nan for fact in facts] for a, b in zip(facts_a, facts_b, strict=True)
    ]
    metric = METRICS[name.rsplit("/", 1)[1]]
    return verdict.contrast(
        [cell.values[name] for cell in treatment],
        [cell.values[name] for cell in control],
        margin=frozen["smallest_effect"] if name.endswith("/accuracy") else None,
        alpha=frozen["alpha"],
        declared=declared,
        floor=floor,
        ceiling=metric.ceiling,
        higher_is_better=metric.higher_is_better,
        by_fact=differences_by_fact if facts and len(seeds) > 1 else None,
        rng=np.random.default_rng(0),
    )


def _verdicts(
    contrasts: Mapping[Key, Contrast], declared: Sequence[Key], alpha: float, gate: Mapping[str, Any] | None
) -> dict[Key, Contrast]:
    """The declared contrasts with their final verdicts; none before the primary is there."""
    primary, family = declared[0], [key for key in declared[1:] if key in contrasts]
    if primary not in contrasts:
        return {}
    decided, secondary = verdict.decide(
        contrasts[primary],
        [contrasts[key] for key in family],
        alpha=alpha,
        not_learnt=gate["failed"] if gate else None,
    )
    return {primary: decided, **dict(zip(family, secondary, strict=True))}


def _gate(results: Results, table: str, seeds: Sequence[int], frozen: Mapping[str, Any]) -> dict[str, Any] | None:
    """The declared control's accuracies against the gate; None where there is no gate or nothing to hold against it."""
    control, needed = frozen["control"], frozen["gate"]
    if needed is None or not seeds or (control, seeds[0]) not in results:
        return None
    cells = [results[control, seed].values for seed in seeds]
    names = [f"pretrain/{table}/{group}/accuracy" for group in GROUPS]
    asked, never = ([values[name] for values in cells if name in values] for name in names)
    if len(asked) < len(seeds):
        return None  # evaluated after later stages alone
    never_asked = never if len(never) == len(seeds) else None
    return {
        "asked": mean_of(asked),
        "never_asked": None if never_asked is None else mean_of(never_asked),
        "needed": needed,
        "failed": verdict.gate_failure(asked, never_asked, needed["asked"], needed["never_asked"]),
    }


def _floors_by_policy(results: Results, name: str, control: str) -> dict[str, float]:
    """Each floor's mean over the control's seeds; the items are the same in every arm."""
    floors = [cell.floors[name] for (arm, _), cell in results.items() if arm == control and name in cell.floors]
    policies = floors[0] if floors else ()
    return {policy: mean_of([by_policy[policy] for by_policy in floors if policy in by_policy]) for policy in policies}


def _floor(results: Results, name: str, choice_floor: float) -> float | None:
    """The mean over cells of the best policy's accuracy."""
    if name.endswith("/choice_logprob"):
        return choice_floor
    highest = [max(cell.floors[name].values()) for cell in results.values() if name in cell.floors]
    return mean_of(highest) if highest else None
