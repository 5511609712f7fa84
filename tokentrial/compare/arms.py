"""Arms over their seeds on one outcome: the only contrasts that give a verdict on an arm."""

from collections.abc import Sequence

import numpy as np

from tokentrial.compare.models import ALPHA
from tokentrial.compare.runs import Report
from tokentrial.compare.system import Items, Line, System
from tokentrial.report.outcomes import METRICS, Metric, mean_of
from tokentrial.statistics.paired import Floats
from tokentrial.statistics.unpaired import UnpairedT, one_against_arm, welch
from tokentrial.statistics.verdict import HELPS, HURTS, NO_DIFFERENCE, contrast

_SWAPPED = {HELPS: HURTS, HURTS: HELPS}


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
    if min(len(x), len(y)) == 1:
        return _single(outcome, a, b, x, y)
    shared = sorted(of_a.keys() & of_b.keys())
    if len(shared) >= 2:
        return _paired(outcome, a, b, shared, metric, margin, declared)
    made, verdict = welch(x, y), None
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
    ends = None if made.ci95 is None else (made.ci95[0], made.ci95[1])
    as_t = UnpairedT(made.difference, made.p, ends, made.mde80)
    return _line(outcome, a, b, x, y, as_t, made.test, made.verdict, notes)


def _single(outcome: str, a: System, b: System, x: list[float], y: list[float]) -> Line:
    """One model against an arm over its seeds: said of the model, never of its arm."""
    if len(x) == 1:
        made, model, arm = one_against_arm(x[0], y), a, b
    else:
        turned = one_against_arm(y[0], x)
        ends = turned.ci95 and (-turned.ci95[1], -turned.ci95[0])
        made, model, arm = UnpairedT(-turned.difference, turned.p, ends, turned.mde80), b, a
    said = "no spread between the seeds"
    if made.p is not None:
        where = "outside" if made.p < ALPHA else "within"
        said = f"{model.name} lies {where} what the seeds of {arm.name} give"
    notes = [f"no verdict on the arm: {model.name} is one seed"]
    return _line(outcome, a, b, x, y, made, "one_against_seeds_t", f"{said}; one seed against {len(arm.models)}", notes)


def _line(
    outcome: str,
    a: System,
    b: System,
    x: Sequence[float],
    y: Sequence[float],
    made: UnpairedT,
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
