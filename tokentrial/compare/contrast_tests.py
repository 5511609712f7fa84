"""One contrast: two systems on one outcome, by what was sampled of them: seeds, facts or items.

Nothing here gives a verdict: all of it is exploratory, a difference with its interval and p, both unadjusted. Of two
given models `finding` says in words whether they differ, which says nothing of their arms.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import ceil
from typing import Any

import numpy as np

from tokentrial.compare.system import ALPHA, EXPLORATORY, ItemResults, System, SystemContrast
from tokentrial.report.results import mean_of
from tokentrial.statistics.contrast import contrast
from tokentrial.statistics.paired import ROUND_OFF, paired_t, sign_flip
from tokentrial.statistics.proportions import (
    fisher_exact,
    mcnemar_bounds,
    mcnemar_exact,
    newcombe_independent,
    newcombe_paired,
)
from tokentrial.statistics.unpaired import unpaired_t

DIFFER = "these two models differ; one seed each"
ALIKE = "not distinguishable at 5 %; one seed each"


def _with(row: SystemContrast, *notes: str, **measured: Any) -> SystemContrast:
    """The row with these fields, and these notes after its own."""
    return replace(row, **measured, note="; ".join(filter(None, (row.note, *notes))))


def _untested(outcome: str, a: System, b: System, x: Sequence[float], y: Sequence[float]) -> SystemContrast:
    """The contrast of two systems whose models score so, before any test."""
    measured: dict[str, Any] = {"value_a": mean_of(x), "value_b": mean_of(y), "difference": mean_of(x) - mean_of(y)}
    return SystemContrast(outcome=outcome, a=a.name, b=b.name, n_a=len(x), n_b=len(y), **measured)


def compare_arms(outcome: str, a: System, b: System) -> SystemContrast:
    """Two systems of which at least one has several seeds: paired where they share seeds, else unpaired."""
    shared = sorted(a.models.keys() & b.models.keys())
    if len(shared) > 1:
        return _compare_paired(outcome, a, b, shared)
    x, y = ([model.value(outcome) for model in system.models.values()] for system in (a, b))
    welch, row = unpaired_t(x, y), _untested(outcome, a, b, x, y)
    spread = "" if welch.p is not None else "no spread between the seeds"
    row = _with(row, EXPLORATORY, spread, interval=welch.ci95, p=welch.p, detectable=welch.mde80)
    if min(row.n_a, row.n_b) > 1:
        return _with(row, "the two sides do not share two seeds: unpaired", test="welch_t")
    (model, arm), finding = (a, b) if row.n_a == 1 else (b, a), None
    if welch.p is not None:
        where = "outside" if welch.p < ALPHA else "within"
        finding = f"{model.name} lies {where} what the seeds of {arm.name} give; one seed against {len(arm.models)}"
    return _with(row, f"{model.name} says nothing of its arm", test="one_against_seeds_t", finding=finding)


def _compare_paired(outcome: str, a: System, b: System, shared: Sequence[int]) -> SystemContrast:
    models = [(a.models[seed], b.models[seed]) for seed in shared]
    x, y = ([model.value(outcome) for model in side] for side in zip(*models, strict=True))
    paired, notes = contrast(x, y, rng=np.random.default_rng(0)), []
    if unshared := sorted(a.models.keys() ^ b.models.keys()):
        notes.append(f"seeds {unshared} of one side only are left out")
    if any({*model.asked(outcome)} != {*other.asked(outcome)} for model, other in models):
        notes.append("the two sides were asked different items")
    measured = {name: getattr(paired, name) for name in ("difference", "interval", "p", "test", "detectable")}
    return _with(_untested(outcome, a, b, x, y), EXPLORATORY, paired.note, *notes, **measured)


# two models, one seed each


def compare_models(outcome: str, a: System, b: System) -> SystemContrast:
    """Two models of one seed each: by facts where several items ask one, else by items, else by totals."""
    (model_a,), (model_b,) = a.models.values(), b.models.values()
    values = model_a.value(outcome), model_b.value(outcome)
    row = _untested(outcome, a, b, values[:1], values[1:])
    facts_a, facts_b = (model.by_fact.get(outcome) for model in (model_a, model_b))
    items_a, items_b = (model.items.get(outcome) for model in (model_a, model_b))
    if facts_a and facts_b:
        row = _compare_facts(row, facts_a, facts_b)
    elif items_a and items_b:
        paired = items_a.by_item.keys() & items_b.by_item.keys()
        row = (_compare_items if paired else _compare_totals)(row, items_a, items_b)
    if (p := row.p) is None:
        return _with(row, "one seed each: no test")
    if row.interval and (p < ALPHA) == (row.interval[0] <= 0 <= row.interval[1]):
        row = _with(row, "interval and test disagree about 0 here: the test decides")
    if items_a and items_b and items_a.total == items_b.total and (row.value_a, row.value_b) == values:
        row = _with_floors(row, items_a.floors or items_b.floors)
    return _with(row, "about two models, not about their arms, p unadjusted", finding=row.finding or _finding(p))


def _finding(p: float) -> str:
    return DIFFER if p < ALPHA else ALIKE


def _compare_facts(row: SystemContrast, a: Mapping[str, float], b: Mapping[str, float]) -> SystemContrast:
    """An outcome that is a mean over facts, as in the report."""
    if not (shared := sorted(a.keys() & b.keys())):
        return _with(row, "no fact in common", unit="facts", n_a=len(a), n_b=len(b))
    if not len(shared) == len(a) == len(b):
        x, y = (mean_of([side[fact] for fact in shared]) for side in (a, b))
        row = _with(row, f"only the {len(shared)} facts in common, of {len(a)} and {len(b)}")
        row = replace(row, value_a=x, value_b=y, difference=x - y)
    return _flip_facts(row, [a[fact] - b[fact] for fact in shared])


def _flip_facts(row: SystemContrast, differences: Sequence[float]) -> SystemContrast:
    """The sign-flip test over facts, with Student's interval; their mean is the difference of the values."""
    n, interval = len(differences), paired_t(differences).ci95
    p = sign_flip(differences, np.random.default_rng(0))
    return replace(row, unit="facts", n_a=n, n_b=n, interval=interval, p=p, test="sign_flip_over_facts")


def _compare_items(row: SystemContrast, a: ItemResults, b: ItemResults) -> SystemContrast:
    """By the items that both answered. Where several of them ask one fact, such as 6*9 and 9*6, they are one cluster:
    items are then no independent draws, and McNemar's test does not apply."""
    shared = sorted(a.by_item.keys() & b.by_item.keys())
    answers = Counter((a.by_item[item], b.by_item[item]) for item in shared)
    row = _mcnemar(row, *(answers[x, y] for x in (True, False) for y in (True, False)))
    if not len(shared) == a.total == b.total:
        row = _with(row, f"only the {len(shared)} items that both answered, of {a.total} and {b.total}")
    by_fact: Counter[str] = Counter()
    for item in shared:
        by_fact[a.facts.get(item) or b.facts.get(item, item)] += a.by_item[item] - b.by_item[item]
    if len(by_fact) == len(shared):
        return row
    row = _with(row, f"the {len(shared)} items ask {len(by_fact)} facts, and items of one fact are treated as one")
    # scaled so that their mean is the difference of the two accuracies over items
    return _flip_facts(row, [d * len(by_fact) / len(shared) for d in by_fact.values()])


def _mcnemar(row: SystemContrast, both: int, only_a: int, only_b: int, neither: int) -> SystemContrast:
    n = both + only_a + only_b + neither
    measured = {"value_a": (both + only_a) / n, "value_b": (both + only_b) / n, "difference": (only_a - only_b) / n}
    tested = {"p": mcnemar_exact(only_a, only_b), "interval": newcombe_paired(both, only_a, only_b, neither)}
    named = {"unit": "items", "test": "mcnemar_exact", "discordant": [only_a, only_b]}
    return _with(row, n_a=n, n_b=n, **measured, **tested, **named)


def _compare_totals(row: SystemContrast, a: ItemResults, b: ItemResults) -> SystemContrast:
    """By totals: of the same items they tell the pairing where one side has none or all of them right."""
    counts = (a.correct, a.total, b.correct, b.total)
    same_items = a.known_set is not None and (a.known_set, a.total) == (b.known_set, b.total)
    # where all items of a fact are answered alike, the share of right answers has at most so many times the variance
    # (design effect, Kish 1965): that of so many times fewer independent items
    orders = max(Counter({**a.facts, **b.facts}.values()).values(), default=1)
    if same_items and {0, a.total} & {a.correct, b.correct}:
        only_a, only_b = max(a.correct - b.correct, 0), max(b.correct - a.correct, 0)
        row = _mcnemar(row, a.correct - only_a, only_a, only_b, a.total - max(a.correct, b.correct))
        row = _with(row, "one side has all or none of these items right, so the totals give the pairing")
        worst = mcnemar_exact(ceil(only_a / orders), ceil(only_b / orders))
    else:
        tested = {"p": fisher_exact(*counts), "interval": newcombe_independent(*counts), "test": "fisher_exact"}
        row = _with(row, "totals only: the items are not paired", unit="items", n_a=a.total, n_b=b.total, **tested)
        worst = fisher_exact(*(ceil(count / orders) for count in counts))
        if same_items:
            least, most = mcnemar_bounds(a.correct, b.correct, a.total)
            row = _with(row, f"paired, the same items would give p from {least:.1g} to {most:.1g}")
    if a.total != b.total:
        row = _with(row, f"{a.total} items against {b.total}: if one set holds the other, they are not independent")
    if orders == 1 or row.p is None:
        return row
    alike = f"p treats items as independent; by {orders} times fewer, as those of one fact may be answered alike, it is"
    return _with(row, f"{alike} {worst:.2g}, and the larger decides", finding=_finding(max(row.p, worst)))


def _with_floors(row: SystemContrast, floors: Mapping[str, float]) -> SystemContrast:
    """Where the two stand against the best policy that knows no arithmetic."""
    if not floors:
        return row
    policy, floor = max(floors.items(), key=lambda named: named[1])
    above = {row.a: row.value_a - floor, row.b: row.value_b - floor}
    at = [name for name, by in above.items() if abs(by) <= ROUND_OFF]
    under = [name for name, by in above.items() if by < -ROUND_OFF]
    notes = [
        f"{' and '.join(names)} {where} the highest floor, {floor:.3f} of {policy.replace('_', ' ')}"
        for names, where in ((under, "under"), (at, "at"))
        if names
    ]
    return _with(row, *(notes or [f"both above every floor, the highest {floor:.3f}"]), floors=floors)
