"""One contrast: two systems on one outcome. Arms over seeds can give a verdict on an arm; two models of one seed each
are described by their items, whether they differ or not."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from tokentrial.compare.runs import Report
from tokentrial.compare.system import Items, System
from tokentrial.report.outcomes import METRICS, Metric, mean_of
from tokentrial.statistics.paired import Floats, sign_flip
from tokentrial.statistics.proportions import (
    fisher_exact,
    mcnemar_bounds,
    mcnemar_exact,
    mde_independent,
    mde_paired,
    newcombe_independent,
    newcombe_paired,
)
from tokentrial.statistics.unpaired import UnpairedT, unpaired_t
from tokentrial.statistics.verdict import HELPS, HURTS, NO_DIFFERENCE, Contrast, contrast

_SWAPPED = {HELPS: HURTS, HURTS: HELPS}
DIFFER = "these two models differ; one seed each"
ALIKE = "not distinguishable at 5 %; one seed each"
ALPHA = 0.05
NO_VERDICT = "no verdict on the arm: items are no replicates"


@dataclass(frozen=True, kw_only=True)
class Line:
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
    mde80: float | None = None
    verdict: str | None = None
    note: str
    floors: Mapping[str, float] = field(default_factory=dict)


# arms over their seeds


def from_report(report: Report, outcome: str, a: System, b: System) -> Line | None:
    """The report's contrast of these arms, in either order; None where it makes none."""
    of = report.outcomes.get(outcome)
    if of is None:
        return None
    values = [[v for v in of.per_seed.get(arm or "", ()) if v is not None] for arm in (a.arm, b.arm)]
    made, sign = of.contrasts.get(f"{a.arm} - {b.arm}"), 1
    if made is None:
        made, sign = of.contrasts.get(f"{b.arm} - {a.arm}"), -1
    if made is None or not all(values):
        return None
    return Line(
        outcome=outcome,
        a=a.name,
        b=b.name,
        unit="seeds",
        n_a=made.n_seeds,
        n_b=made.n_seeds,
        n_seeds=made.n_seeds,
        n_items=_n_items(outcome, a, b),
        value_a=mean_of(values[0]),
        value_b=mean_of(values[1]),
        difference=sign * made.difference,
        ci95=made.ci95 and sorted(sign * end for end in made.ci95),
        p=made.p,
        p_holm=made.p_holm,
        test=made.test,
        mde80=made.mde80,
        verdict=made.verdict if sign > 0 else _SWAPPED.get(made.verdict or "", made.verdict),
        note="; ".join(filter(None, ["as the run's own report says", made.note])),
        floors=of.floors,
    )


def compare_arms(outcome: str, a: System, b: System, margin: float | None, declared: bool) -> Line:
    """Two systems of which at least one has several seeds: paired where they share seeds, else unpaired."""
    metric = METRICS.get(outcome.rsplit("/", 1)[1], Metric(True, None))
    of_a, of_b = ({seed: model.value(outcome) for seed, model in each.models.items()} for each in (a, b))
    x, y = [*of_a.values()], [*of_b.values()]
    shared = sorted(of_a.keys() & of_b.keys())
    if min(len(x), len(y)) > 1 and len(shared) > 1:
        return _paired(outcome, a, b, shared, metric, margin, declared)
    made, verdict = unpaired_t(x, y), None
    if min(len(x), len(y)) == 1:  # said of the model, never of its arm
        model, arm = (a, b) if len(x) == 1 else (b, a)
        said = "no spread between the seeds"
        if made.p is not None:
            where = "outside" if made.p < ALPHA else "within"
            said = f"{model.name} lies {where} what the seeds of {arm.name} give"
        notes = [f"no verdict on the arm: {model.name} is one seed"]
        verdict = f"{said}; one seed against {len(arm.models)}"
        return _line(outcome, a, b, x, y, made, "one_against_seeds_t", verdict, notes)
    if declared and made.p is not None:
        better = HELPS if (made.difference > 0) == metric.higher_is_better else HURTS
        verdict = better if made.p < ALPHA else NO_DIFFERENCE
    notes = [f"{len(shared) or 'no'} seeds in common: unpaired", *([] if made.p else ["no spread between seeds"])]
    return _line(outcome, a, b, x, y, made, "welch_t", verdict, notes)


def _paired(
    outcome: str, a: System, b: System, shared: Sequence[int], metric: Metric, margin: float | None, declared: bool
) -> Line:
    x, y = ([each.models[seed].value(outcome) for seed in shared] for each in (a, b))
    made = contrast(
        x,
        y,
        margin=margin if metric.ceiling == 1 else None,
        alpha=ALPHA,
        declared=declared,
        floor=max((floor for items in _items(outcome, a, b) for floor in items.floors.values()), default=None),
        ceiling=metric.ceiling,
        higher_is_better=metric.higher_is_better,
        by_fact=_by_fact(outcome, a, b, shared),
        rng=np.random.default_rng(0),
    )
    notes = [made.note] if made.note else []
    if left := sorted(a.models.keys() ^ b.models.keys()):
        notes.append(f"seeds {left} of one side only are left out")
    if made.facts_ci95:
        low, high = made.facts_ci95
        notes.append(f"over facts like these too: [{low:+.3f}, {high:+.3f}]")
    asked_a, asked_b = (
        [items and items.right.keys() for items in (each.models[seed].items.get(outcome) for seed in shared)]
        for each in (a, b)
    )
    if asked_a != asked_b:
        notes.append("the two sides were asked other items")
    return _line(outcome, a, b, x, y, made, made.test, made.verdict, notes)


def _line(
    outcome: str,
    a: System,
    b: System,
    x: Sequence[float],
    y: Sequence[float],
    made: Contrast | UnpairedT,
    test: str,
    verdict: str | None,
    notes: Sequence[str],
) -> Line:
    return Line(
        outcome=outcome,
        a=a.name,
        b=b.name,
        unit="seeds",
        n_a=len(x),
        n_b=len(y),
        n_seeds=min(len(x), len(y)),
        n_items=_n_items(outcome, a, b),
        value_a=mean_of(x),
        value_b=mean_of(y),
        difference=made.difference,
        ci95=list(made.ci95) if made.ci95 else None,
        p=made.p,
        test=test,
        mde80=made.mde80,
        verdict=verdict,
        note="; ".join(notes),
        floors=next((items.floors for items in _items(outcome, b)), {}),
    )


def _by_fact(outcome: str, a: System, b: System, shared: Sequence[int]) -> Floats | None:
    """Differences, seeds x unordered facts, NaN where a seed has not that fact; None where facts do not match."""
    tables = [(a.models[seed].by_fact.get(outcome, {}), b.models[seed].by_fact.get(outcome, {})) for seed in shared]
    if any(not of_a or of_a.keys() != of_b.keys() for of_a, of_b in tables):
        return None
    columns = sorted({fact for of_a, _ in tables for fact in of_a})
    return np.array([[of_a[f] - of_b[f] if f in of_a else np.nan for f in columns] for of_a, of_b in tables])


def _items(outcome: str, *systems: System) -> list[Items]:
    return [model.items[outcome] for each in systems for model in each.models.values() if outcome in model.items]


def _n_items(outcome: str, a: System, b: System) -> int | None:
    return min((items.total for items in _items(outcome, a, b)), default=None)


# two models, one seed each


def compare_models(outcome: str, a: System, b: System) -> Line:
    """The contrast of two models, one seed each, by their items where they pair, else by their totals."""
    (of_a,), (of_b,) = a.models.values(), b.models.values()
    if outcome in of_a.items and outcome in of_b.items:
        return _by_items(outcome, (a.name, b.name), of_a.items[outcome], of_b.items[outcome])
    x, y = of_a.value(outcome), of_b.value(outcome)
    untested = UnpairedT(x - y, None, None, None)
    return _line(outcome, a, b, [x], [y], untested, "none", None, ["one seed each: no test"])


def _by_items(outcome: str, names: tuple[str, str], a: Items, b: Items) -> Line:
    shared = sorted(a.right.keys() & b.right.keys())
    discordant, p_by_fact, notes = _pairs(a, b, shared) if shared else _totals(a, b)
    n_a, n_b = (len(shared), len(shared)) if shared else (a.total, b.total)
    right_a, right_b = ((sum(s.right[i] for i in shared) if shared else s.correct) for s in (a, b))
    if discordant is not None:
        only_a, only_b = discordant
        both = right_a - only_a
        test, p = "mcnemar_exact", mcnemar_exact(only_a, only_b)
        ci95 = newcombe_paired(both, only_a, only_b, n_a - both - only_a - only_b)
        mde80 = mde_paired(only_a + only_b, n_a, ALPHA)
    else:
        test, p = "fisher_exact", fisher_exact(right_a, n_a, right_b, n_b)
        ci95 = newcombe_independent(right_a, n_a, right_b, n_b)
        mde80 = mde_independent(right_b / n_b, n_a, n_b, ALPHA)
    if (p < ALPHA) != (not ci95[0] <= 0 <= ci95[1]):
        notes.append("the score interval and the exact test disagree about 0 here: the test decides")
    floors = a.floors or b.floors
    return Line(
        outcome=outcome,
        a=names[0],
        b=names[1],
        unit="items",
        n_a=n_a,
        n_b=n_b,
        n_seeds=1,
        n_items=min(n_a, n_b),
        value_a=right_a / n_a,
        value_b=right_b / n_b,
        difference=right_a / n_a - right_b / n_b,
        ci95=list(ci95),
        p=p,
        p_by_fact=p_by_fact,
        test=test,
        discordant=discordant,
        mde80=mde80,
        verdict=DIFFER if p < ALPHA else ALIKE,
        note="; ".join([NO_VERDICT, *notes, *_against_floors(floors, (right_a, n_a), (right_b, n_b))]),
        floors=floors,
    )


Pairing = tuple[list[int] | None, float | None, list[str]]  # items that one side alone has right; p over facts; notes


def _pairs(a: Items, b: Items, shared: list[str]) -> Pairing:
    """Of items that both answered. Where several of them ask one fact, such as 6*9 and 9*6, they are one cluster, and
    signs are flipped fact by fact too."""
    notes, p_by_fact = [], None
    if not len(shared) == a.total == b.total:
        notes.append(f"only the {len(shared)} items that both answered, of {a.total} and {b.total}")
    differences = [a.right[item] - b.right[item] for item in shared]
    by_fact: dict[str, int] = {}
    for item, difference in zip(shared, differences, strict=True):
        fact = a.facts.get(item, item)
        by_fact[fact] = by_fact.get(fact, 0) + difference
    if len(by_fact) < len(shared):
        p_by_fact = sign_flip(list(by_fact.values()), np.random.default_rng(0))
        clusters = f"the {len(shared)} items ask {len(by_fact)} facts, and items of one fact go together"
        notes.append(f"{clusters}: flipped fact by fact p is {p_by_fact:.2g}")
    return [differences.count(1), differences.count(-1)], p_by_fact, notes


def _totals(a: Items, b: Items) -> Pairing:
    """Of totals: of the same items they tell the pairing where one side has none or all of them right, else bounds."""
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
    return discordant, None, notes


def _against_floors(floors: Mapping[str, float], *sides: tuple[int, int]) -> list[str]:
    """Which of the two lie under what policies score that know no arithmetic."""
    notes = []
    n = sides[0][1]
    for policy, floor in sorted(floors.items(), key=lambda each: -each[1]):
        under = [f"{right}/{total}" for right, total in sides if right / total < floor - 1e-9]
        if under:
            notes.append(f"{' and '.join(under)} under the floor of {policy.replace('_', ' ')}, {round(floor * n)}/{n}")
    return notes or ([f"above every floor (highest {max(floors.values()):.3g})"] if floors else [])
