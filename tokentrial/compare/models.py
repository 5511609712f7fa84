"""Two single models on one outcome: whether they differ, and why that is no verdict on an arm."""

from collections.abc import Mapping

import numpy as np

from tokentrial.compare.system import Items, Line, System
from tokentrial.statistics.paired import sign_flip
from tokentrial.statistics.proportions import (
    fisher_exact,
    mcnemar_bounds,
    mcnemar_exact,
    mde_independent,
    mde_paired,
    newcombe_independent,
    newcombe_paired,
)

DIFFER = "these two models differ; one seed each"
ALIKE = "not distinguishable at 5 %; one seed each"
ALPHA = 0.05
NO_VERDICT = "no verdict on the arm: items are no replicates"


def compare_models(outcome: str, a: System, b: System) -> Line:
    """The contrast of two models, one seed each, by their items where they pair, else by their totals."""
    (of_a,), (of_b,) = a.models.values(), b.models.values()
    if outcome in of_a.items and outcome in of_b.items:
        return _by_items(outcome, (a.name, b.name), of_a.items[outcome], of_b.items[outcome])
    value_a, value_b = of_a.value(outcome), of_b.value(outcome)
    return Line(
        outcome=outcome,
        a=a.name,
        b=b.name,
        unit="seeds",
        n_a=1,
        n_b=1,
        n_seeds=1,
        n_items=None,
        value_a=value_a,
        value_b=value_b,
        difference=value_a - value_b,
        note="one seed each: no test",
    )


def _by_items(outcome: str, names: tuple[str, str], a: Items, b: Items) -> Line:
    shared = sorted(a.right.keys() & b.right.keys())
    discordant, p_by_fact, notes = _paired(a, b, shared) if shared else _totals(a, b)
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


def _paired(a: Items, b: Items, shared: list[str]) -> Pairing:
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
