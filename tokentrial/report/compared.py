"""Outcomes compared: every arm's values by seed with their floors, the contrasts, the control's gate, the verdicts."""

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


def compare(
    trial: Trial, results: Results, frozen: Mapping[str, Any], table: str, choice_floor: float
) -> dict[str, Any]:
    """`primary`, `gate` and `outcomes` of the report. Only seeds that were declared, with all of their arms, count."""
    measured = list(dict.fromkeys(name for cell in results.values() for name in cell.values))
    declared: list[Key] = [(pair["outcome"], pair["contrast"]) for pair in (frozen["primary"], *frozen["secondary"])]
    of_control = [f"{arm} - {trial.control}" for arm in trial.arms if arm != trial.control]
    pairs = list(dict.fromkeys([*of_control, *(pair for _, pair in declared)]))
    seeds = [seed for seed in frozen["seeds"] if all((arm, seed) in results for arm in trial.arms)]
    floor = {name: _floor(results, name, choice_floor) for name in measured}
    contrasts = {
        (name, pair): made
        for name in measured
        for pair in pairs
        if (made := _contrast(results, (name, pair), seeds, frozen, (name, pair) in declared, floor[name]))
    }
    gate = _gate(results, table, seeds, frozen)
    contrasts |= _decided(contrasts, declared, frozen["alpha"], gate)
    absent = [seed for seed in frozen["seeds"] if seed not in seeds]
    if absent or (gate is None and frozen["gate"]):
        reason = f"seeds {absent} are declared and not there" if absent else "the gate is not measured"
        contrasts = {
            key: replace(made, verdict=None, note=f"no verdict yet: {reason}") for key, made in contrasts.items()
        }
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
                "floor": floor[name],
                "floors": _floors(results, name, trial.control),
                "per_seed": {arm: [_value(results, arm, seed, name) for seed in trial.seeds] for arm in trial.arms},
                "contrasts": {pair: asdict(contrasts[name, pair]) for pair in pairs if (name, pair) in contrasts},
            }
            for name in measured
        },
    }


def _value(results: Results, arm: str, seed: int, name: str) -> float | None:
    return results[arm, seed].values.get(name) if (arm, seed) in results else None


def _contrast(
    results: Results, key: Key, seeds: Sequence[int], frozen: Mapping[str, Any], declared: bool, floor: float | None
) -> Contrast | None:
    """A pair of arms on an outcome; None where a seed lacks one, such as of an arm left out after a look."""
    name, pair = key
    a, b = ([value for s in seeds if (value := _value(results, arm, s, name)) is not None] for arm in pair.split(" - "))
    if not seeds or not len(a) == len(b) == len(seeds):
        return None
    treatment, control = ([results[arm, seed].facts.get(name, {}) for seed in seeds] for arm in pair.split(" - "))
    facts = sorted({fact for known in treatment for fact in known})
    by_fact = [
        [of_a[fact] - of_b[fact] if fact in of_a else math.nan for fact in facts]
        for of_a, of_b in zip(treatment, control, strict=True)
    ]
    metric = METRICS[name.rsplit("/", 1)[1]]
    return verdict.contrast(
        a,
        b,
        margin=frozen["smallest_effect"] if name.endswith("/accuracy") else None,
        alpha=frozen["alpha"],
        declared=declared,
        floor=floor,
        ceiling=metric.ceiling,
        higher_is_better=metric.higher_is_better,
        by_fact=by_fact if facts and len(seeds) > 1 else None,
        rng=np.random.default_rng(0),
    )


def _decided(
    contrasts: Mapping[Key, Contrast], declared: Sequence[Key], alpha: float, gate: Mapping[str, Any] | None
) -> dict[Key, Contrast]:
    """The declared contrasts with their final verdicts; none before the primary is there."""
    first, family = declared[0], [key for key in declared[1:] if key in contrasts]
    if first not in contrasts:
        return {}
    secondary = [contrasts[key] for key in family]
    primary, judged = verdict.decide(
        contrasts[first], secondary, alpha=alpha, not_learnt=gate["failed"] if gate else None
    )
    return {first: primary, **dict(zip(family, judged, strict=True))}


def _gate(results: Results, table: str, seeds: Sequence[int], frozen: Mapping[str, Any]) -> dict[str, Any] | None:
    """The declared control's accuracies against the gate; None where there is no gate or nothing to hold against it."""
    control, needed = frozen["control"], frozen["gate"]
    if needed is None or not seeds or (control, seeds[0]) not in results:
        return None
    of_control = [results[control, seed].values for seed in seeds]
    names = [f"pretrain/{table}/{group}/accuracy" for group in GROUPS]
    asked, never = ([values[name] for values in of_control if name in values] for name in names)
    if len(asked) < len(seeds):
        return None  # evaluated after later stages alone
    unasked = never if len(never) == len(seeds) else None
    return {
        "asked": mean_of(asked),
        "never_asked": None if unasked is None else mean_of(unasked),
        "needed": needed,
        "failed": verdict.gate(asked, unasked, needed["asked"], needed["never_asked"]),
    }


def _floors(results: Results, name: str, control: str) -> dict[str, float]:
    """Each floor's mean over the control's seeds; the items are the same in every arm."""
    found = [cell.floors[name] for (arm, _), cell in results.items() if arm == control and name in cell.floors]
    policies = found[0] if found else ()
    return {policy: mean_of([floor[policy] for floor in found if policy in floor]) for policy in policies}


def _floor(results: Results, name: str, choice_floor: float) -> float | None:
    if name.endswith("/choice_logprob"):
        return choice_floor
    found = [max(cell.floors[name].values()) for cell in results.values() if name in cell.floors]
    return mean_of(found) if found else None
