"""One contrast: two systems on one outcome. Arms over seeds can give a verdict on an arm; two models of one seed each
are described by their items, whether they differ or not."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np

from tokentrial.compare.runs import ReportedContrast, RunReport
from tokentrial.compare.system import ItemResults, System
from tokentrial.report.outcomes import METRICS, Metric, mean_of
from tokentrial.statistics.paired import Floats, sign_flip
from tokentrial.statistics.proportions import (
    fisher_exact,
    mcnemar_bounds,
    mcnemar_exact,
    newcombe_independent,
    newcombe_paired,
)
from tokentrial.statistics.unpaired import UnpairedT, unpaired_t
from tokentrial.statistics.verdict import HELPS, HURTS, NO_DIFFERENCE, Contrast, contrast

_SWAPPED = {HELPS: HURTS, HURTS: HELPS}
DIFFER = "these two models differ; one seed each"
ALIKE = "not distinguishable at 5 %; one seed each"
ALPHA = 0.05


@dataclass(frozen=True, kw_only=True)
class SystemContrast:
    """A contrast, a - b, and what may be said of it. Its fields are the keys of `--json`; None stands for undefined.

    `unit` says what was replicated: `seeds`, which alone can give a verdict on an arm, or `items`, which describe two
    models. `n_a` and `n_b` count these units; `n_seeds` and `n_items` are kept apart: seeds a side (pairs where they
    pair, else the fewer), and items that each seed answered (the shared ones where they pair, else the fewer).
    """

    outcome: str
    a: str
    b: str
    unit: str
    n_a: int
    n_b: int
    n_seeds: int
    n_items: int | None
    value_a: float
    value_b: float
    difference: float
    ci95: list[float] | None = None
    p: float | None = None
    p_holm: float | None = None  # over all contrasts of this unit that were asked for together
    p_by_fact: float | None = None  # sign-flip over unordered facts, where several items ask one fact
    test: str = "none"
    discordant: list[int] | None = None  # items that only a, and only b, answered
    mde80: float | None = None  # of seeds only: for two given models the interval says what is left open
    verdict: str | None = None
    note: str
    floors: Mapping[str, float] = field(default_factory=dict)


# arms over their seeds


def from_report(report: RunReport, outcome: str, a: System, b: System) -> SystemContrast | None:
    """The report's contrast of these arms, in either order; None where it has none."""
    reported = report.outcomes.get(outcome)
    if reported is None:
        return None
    x, y = ([v for v in reported.per_seed.get(arm or "", ()) if v is not None] for arm in (a.arm, b.arm))
    forward, backward = (reported.contrasts.get(pair) for pair in (f"{a.arm} - {b.arm}", f"{b.arm} - {a.arm}"))
    result, sign = (forward, 1) if forward else (backward, -1)
    if result is None or not x or not y:
        return None
    verdict = result.verdict if sign > 0 else _SWAPPED.get(result.verdict or "", result.verdict)
    notes = ["as the run's own report says", result.note]
    return replace(
        _over_seeds(outcome, a, b, x, y, result, result.test, verdict, notes),
        n_a=result.n_seeds,
        n_b=result.n_seeds,
        n_seeds=result.n_seeds,
        difference=sign * result.difference,
        ci95=result.ci95 and sorted(sign * end for end in result.ci95),
        p_holm=result.p_holm,
        floors=reported.floors,
    )


def compare_arms(outcome: str, a: System, b: System, margin: float | None, declared: bool) -> SystemContrast:
    """Two systems of which at least one has several seeds: paired where they share seeds, else unpaired."""
    metric = METRICS.get(outcome.rsplit("/", 1)[1], Metric(True, None))
    x, y = ([model.value(outcome) for model in system.models.values()] for system in (a, b))
    shared = sorted(a.models.keys() & b.models.keys())
    if len(shared) > 1:
        return _compare_paired(outcome, a, b, shared, metric, margin, declared)
    result = unpaired_t(x, y)
    if min(len(x), len(y)) == 1:
        return _one_model_against_arm(outcome, a, b, x, y, result)
    verdict = None
    if declared and result.p is not None:
        better = HELPS if (result.difference > 0) == metric.higher_is_better else HURTS
        verdict = better if result.p < ALPHA else NO_DIFFERENCE
    notes = [f"{len(shared) or 'no'} seeds in common: unpaired", "" if result.p else "no spread between seeds"]
    return _over_seeds(outcome, a, b, x, y, result, "welch_t", verdict, notes)


def _one_model_against_arm(
    outcome: str, a: System, b: System, x: Sequence[float], y: Sequence[float], result: UnpairedT
) -> SystemContrast:
    """What is said is of the model, never of its arm."""
    model, arm = (a, b) if len(x) == 1 else (b, a)
    finding = "no spread between the seeds"
    if result.p is not None:
        where = "outside" if result.p < ALPHA else "within"
        finding = f"{model.name} lies {where} what the seeds of {arm.name} give"
    verdict = f"{finding}; one seed against {len(arm.models)}"
    notes = [f"no verdict on the arm: {model.name} is one seed"]
    return _over_seeds(outcome, a, b, x, y, result, "one_against_seeds_t", verdict, notes)


def _compare_paired(
    outcome: str, a: System, b: System, shared: Sequence[int], metric: Metric, margin: float | None, declared: bool
) -> SystemContrast:
    x, y = ([system.models[seed].value(outcome) for seed in shared] for system in (a, b))
    result = contrast(
        x,
        y,
        margin=margin if metric.ceiling == 1 else None,
        alpha=ALPHA,
        declared=declared,
        floor=max((floor for items in _items(outcome, a, b) for floor in items.floors.values()), default=None),
        ceiling=metric.ceiling,
        higher_is_better=metric.higher_is_better,
        by_fact=_differences_by_fact(outcome, a, b, shared),
        rng=np.random.default_rng(0),
    )
    notes = [result.note]
    if unshared := sorted(a.models.keys() ^ b.models.keys()):
        notes.append(f"seeds {unshared} of one side only are left out")
    if result.facts_ci95:
        low, high = result.facts_ci95
        notes.append(f"over facts like these too: [{low:+.3f}, {high:+.3f}]")
    empty = ItemResults(0, 0)
    asked_a, asked_b = (
        [system.models[seed].items.get(outcome, empty).by_item.keys() for seed in shared] for system in (a, b)
    )
    if asked_a != asked_b:
        notes.append("the two sides were asked other items")
    return _over_seeds(outcome, a, b, x, y, result, result.test, result.verdict, notes)


def _over_seeds(
    outcome: str,
    a: System,
    b: System,
    x: Sequence[float],
    y: Sequence[float],
    result: Contrast | UnpairedT | ReportedContrast,
    test: str,
    verdict: str | None,
    notes: Sequence[str],
) -> SystemContrast:
    return SystemContrast(
        outcome=outcome,
        a=a.name,
        b=b.name,
        unit="seeds",
        n_a=len(x),
        n_b=len(y),
        n_seeds=min(len(x), len(y)),
        n_items=min((items.total for items in _items(outcome, a, b)), default=None),
        value_a=mean_of(x),
        value_b=mean_of(y),
        difference=result.difference,
        ci95=list(result.ci95) if result.ci95 else None,
        p=result.p,
        test=test,
        mde80=result.mde80,
        verdict=verdict,
        note=join_notes(*notes),
        floors=next((items.floors for items in _items(outcome, b)), {}),
    )


def _differences_by_fact(outcome: str, a: System, b: System, shared: Sequence[int]) -> Floats | None:
    """Differences, seeds x unordered facts, NaN where a seed has not that fact; None where facts do not match."""
    rows: list[dict[str, float]] = []
    for seed in shared:
        facts_a, facts_b = (system.models[seed].by_fact.get(outcome, {}) for system in (a, b))
        if not facts_a or facts_a.keys() != facts_b.keys():
            return None
        rows.append({fact: facts_a[fact] - facts_b[fact] for fact in facts_a})
    facts = sorted({fact for row in rows for fact in row})
    return np.array([[row.get(fact, np.nan) for fact in facts] for row in rows])


def _items(outcome: str, *systems: System) -> list[ItemResults]:
    models = [model for system in systems for model in system.models.values()]
    return [model.items[outcome] for model in models if outcome in model.items]


# two models, one seed each


class Pairing(NamedTuple):
    """How the items of two models pair."""

    discordant: list[int] | None  # items that only a, and only b, has right; None where it is unknown
    p_by_fact: float | None
    notes: list[str]


def compare_models(outcome: str, a: System, b: System) -> SystemContrast:
    """The contrast of two models, one seed each, by their items where they pair, else by their totals."""
    (model_a,), (model_b,) = a.models.values(), b.models.values()
    x, y = model_a.value(outcome), model_b.value(outcome)
    untested = _over_seeds(outcome, a, b, [x], [y], UnpairedT(x - y, None, None, None), "none", None, [])
    if outcome in model_a.items and outcome in model_b.items:
        return _compare_items(untested, model_a.items[outcome], model_b.items[outcome])
    return replace(untested, note="one seed each: no test")


def _compare_items(untested: SystemContrast, a: ItemResults, b: ItemResults) -> SystemContrast:
    shared = sorted(a.by_item.keys() & b.by_item.keys())
    discordant, p_by_fact, notes = _pair_items(a, b, shared) if shared else _pair_totals(a, b)
    if shared:
        a, b = (replace(s, correct=sum(s.by_item[item] for item in shared), total=len(shared)) for s in (a, b))
    if discordant is not None:
        only_a, only_b = discordant
        both = a.correct - only_a
        test, p = "mcnemar_exact", mcnemar_exact(only_a, only_b)
        ci95 = newcombe_paired(both, only_a, only_b, a.total - both - only_a - only_b)
    else:
        test, p = "fisher_exact", fisher_exact(a.correct, a.total, b.correct, b.total)
        ci95 = newcombe_independent(a.correct, a.total, b.correct, b.total)
    if (p < ALPHA) != (not ci95[0] <= 0 <= ci95[1]):
        notes.append("the score interval and the exact test disagree about 0 here: the test decides")
    floors = a.floors or b.floors
    value_a, value_b = a.correct / a.total, b.correct / b.total
    return replace(
        untested,
        unit="items",
        n_a=a.total,
        n_b=b.total,
        n_items=min(a.total, b.total),
        value_a=value_a,
        value_b=value_b,
        difference=value_a - value_b,
        ci95=list(ci95),
        p=p,
        p_by_fact=p_by_fact,
        test=test,
        discordant=discordant,
        verdict=DIFFER if p < ALPHA else ALIKE,
        note=join_notes("no verdict on the arm: items are no replicates", *notes, *_floor_notes(floors, a, b)),
        floors=floors,
    )


def _pair_items(a: ItemResults, b: ItemResults, shared: Sequence[str]) -> Pairing:
    """By items that both answered. Where several of them ask one fact, such as 6*9 and 9*6, they are one cluster, and
    signs are flipped fact by fact too."""
    notes, p_by_fact = [], None
    if not len(shared) == a.total == b.total:
        notes.append(f"only the {len(shared)} items that both answered, of {a.total} and {b.total}")
    differences = [a.by_item[item] - b.by_item[item] for item in shared]
    by_fact: Counter[str] = Counter()
    for item, difference in zip(shared, differences, strict=True):
        by_fact[a.facts.get(item, item)] += difference
    if len(by_fact) < len(shared):
        p_by_fact = sign_flip(list(by_fact.values()), np.random.default_rng(0))
        clusters = f"the {len(shared)} items ask {len(by_fact)} facts, and items of one fact go together"
        notes.append(f"{clusters}: flipped fact by fact p is {p_by_fact:.2g}")
    return Pairing([differences.count(1), differences.count(-1)], p_by_fact, notes)


def _pair_totals(a: ItemResults, b: ItemResults) -> Pairing:
    """By totals: of the same items they tell the pairing where one side has none or all of them right, else bounds."""
    discordant, notes = None, ["totals only: the items are not paired"]
    if a.known_set is not None and (a.known_set, a.total) == (b.known_set, b.total):
        least, most = mcnemar_bounds(a.correct, b.correct, a.total)
        if least == most:
            discordant = [max(a.correct - b.correct, 0), max(b.correct - a.correct, 0)]
            notes = ["the same items, of which one side has none or all: the totals tell the pairing"]
        else:
            bounds = f"from {least:.1g} to {most:.1g}, by how they pair"
            notes = [f"the same items, but totals only; paired they would give p {bounds}"]
    if a.total != b.total:
        notes.append(f"{a.total} items against {b.total}: if one set holds the other, they are not independent")
    return Pairing(discordant, None, notes)


def _floor_notes(floors: Mapping[str, float], a: ItemResults, b: ItemResults) -> list[str]:
    """Which of the two score less than policies that know no arithmetic."""
    notes = []
    for policy, floor in sorted(floors.items(), key=lambda named: -named[1]):
        below = [f"{side.correct}/{side.total}" for side in (a, b) if side.correct / side.total < floor - 1e-9]
        if below:
            share = f"{round(floor * a.total)}/{a.total}"
            notes.append(f"{' and '.join(below)} under the floor of {policy.replace('_', ' ')}, {share}")
    return notes or ([f"above every floor (highest {max(floors.values()):.3g})"] if floors else [])


def join_notes(*notes: str) -> str:
    return "; ".join(filter(None, notes))
