"""Two single models on one outcome: whether they differ, and why that is no verdict on an arm."""

from collections.abc import Mapping

import numpy as np

from tokentrial.compare.line import Line
from tokentrial.compare.system import Items, Model
from tokentrial.statistics.paired import Interval, mcnemar_exact, sign_flip
from tokentrial.statistics.proportions import (
    fisher_exact,
    mcnemar_bounds,
    mde_independent,
    mde_paired,
    newcombe_independent,
    newcombe_paired,
)

DIFFER = "these two models differ; one seed each"
ALIKE = "not distinguishable at 5 %; one seed each"
ALPHA = 0.05
NO_VERDICT = "no verdict on the arm: items are no replicates"


def compare_models(outcome: str, names: tuple[str, str], a: Model, b: Model) -> Line:
    """The contrast of two models, one seed each, by their items where they pair, else by their totals."""
    if outcome in a.items and outcome in b.items:
        return _by_items(outcome, names, a.items[outcome], b.items[outcome])
    value_a, value_b = a.value(outcome), b.value(outcome)
    return Line(
        outcome=outcome,
        a=names[0],
        b=names[1],
        unit="seeds",
        n_a=1,
        n_b=1,
        n_seeds=1,
        n_items=None,
        value_a=value_a,
        value_b=value_b,
        difference=value_a - value_b,
        ci95=None,
        p=None,
        test="none",
        mde80=None,
        verdict=None,
        note="one seed each: no test",
    )


def _by_items(outcome: str, names: tuple[str, str], a: Items, b: Items) -> Line:
    shared = sorted(a.right.keys() & b.right.keys())
    notes, by_fact, discordant = [NO_VERDICT], None, None
    if shared:
        test, (only_a, only_b) = "mcnemar_exact", _only(a, b, shared)
        discordant, n_items, counts = [only_a, only_b], (len(shared), len(shared)), _correct(a, b, shared)
        if (a.total, b.total) != n_items:
            notes.append(f"only the {len(shared)} items that both answered, of {a.total} and {b.total}")
        by_fact, clustered = _over_facts(a, b, shared)
        notes += [clustered] if clustered else []
    else:
        n_items, counts, test = (a.total, b.total), (a.correct, b.correct), "fisher_exact"
        bounds = mcnemar_bounds(a.correct, b.correct, a.total) if _same_set(a, b) else None
        if bounds and bounds[0] == bounds[1]:
            test, discordant = "mcnemar_exact", [max(counts[0] - counts[1], 0), max(counts[1] - counts[0], 0)]
            notes.append("the same items, of which one side has none or all: the totals tell the pairing")
        elif bounds:
            notes.append(f"the same items, but totals only; paired they would give p from {_p(bounds)}")
        else:
            notes.append("totals only: the items are not paired")
        if a.total != b.total:
            notes.append(f"{a.total} items against {b.total}: if one set holds the other, they are not independent")
    rate_a, rate_b = counts[0] / n_items[0], counts[1] / n_items[1]
    if discordant is not None:
        only_a, only_b = discordant
        both = counts[0] - only_a
        p = mcnemar_exact(only_a, only_b)
        ci95 = newcombe_paired(both, only_a, only_b, n_items[0] - both - only_a - only_b)
        mde80 = mde_paired(sum(discordant), n_items[0], ALPHA)
    else:
        p = fisher_exact(counts[0], n_items[0], counts[1], n_items[1])
        ci95 = newcombe_independent(counts[0], n_items[0], counts[1], n_items[1])
        mde80 = mde_independent(rate_b, *n_items, alpha=ALPHA)
    if (p < ALPHA) != (not ci95[0] <= 0 <= ci95[1]):
        notes.append("the score interval and the exact test disagree about 0 here: the test decides")
    floors = a.floors or b.floors
    notes += _against_floors(floors, (rate_a, rate_b), n_items)
    return Line(
        outcome=outcome,
        a=names[0],
        b=names[1],
        unit="items",
        n_a=n_items[0],
        n_b=n_items[1],
        n_seeds=1,
        n_items=min(n_items),
        value_a=rate_a,
        value_b=rate_b,
        difference=rate_a - rate_b,
        ci95=list(ci95),
        p=p,
        p_by_fact=by_fact,
        test=test,
        discordant=discordant,
        mde80=mde80,
        verdict=DIFFER if p < ALPHA else ALIKE,
        note="; ".join(notes),
        floors=floors,
    )


def _only(a: Items, b: Items, shared: list[str]) -> tuple[int, int]:
    return (
        sum(a.right[item] and not b.right[item] for item in shared),
        sum(b.right[item] and not a.right[item] for item in shared),
    )


def _correct(a: Items, b: Items, shared: list[str]) -> tuple[int, int]:
    return sum(a.right[item] for item in shared), sum(b.right[item] for item in shared)


def _same_set(a: Items, b: Items) -> bool:
    return a.known_set is not None and a.known_set == b.known_set and a.total == b.total


def _over_facts(a: Items, b: Items, shared: list[str]) -> tuple[float | None, str | None]:
    """Where several items ask one fact, such as 6*9 and 9*6, they are one cluster: sign-flip over facts, and a note."""
    if len({a.facts.get(item, item) for item in shared}) == len(shared):
        return None, None
    differences: dict[str, int] = {}
    for item in shared:
        fact = a.facts.get(item, item)
        differences[fact] = differences.get(fact, 0) + a.right[item] - b.right[item]
    p = sign_flip(list(differences.values()), np.random.default_rng(0))
    clusters = f"the {len(shared)} items ask {len(differences)} facts, and items of one fact go together"
    return p, f"{clusters}: flipped fact by fact p is {p:.2g}"


def _against_floors(floors: Mapping[str, float], rates: tuple[float, float], n_items: tuple[int, int]) -> list[str]:
    """Which of the two lie under what policies score that know no arithmetic."""
    notes = []
    shown = [f"{round(rate * n)}/{n}" for rate, n in zip(rates, n_items, strict=True)]
    for policy, floor in sorted(floors.items(), key=lambda each: -each[1]):
        under = [text for text, rate in zip(shown, rates, strict=True) if rate < floor - 1e-9]
        if under:
            at = f"{policy.replace('_', ' ')}, {round(floor * n_items[0])}/{n_items[0]}"
            notes.append(f"{' and '.join(under)} under the floor of {at}")
    return notes or ([f"above every floor (highest {max(floors.values()):.3g})"] if floors else [])


def _p(bounds: Interval) -> str:
    return f"{bounds[0]:.1g} to {bounds[1]:.1g}, by how they pair"
