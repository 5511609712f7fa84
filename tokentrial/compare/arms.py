"""Arms over their seeds on one outcome: the only contrasts that give a verdict on an arm."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from tokentrial.compare.files import Fields, checked, json_file
from tokentrial.compare.line import Line
from tokentrial.compare.models import ALPHA
from tokentrial.compare.system import Model, System
from tokentrial.report.comparison import REPORT
from tokentrial.report.outcomes import METRICS, Metric
from tokentrial.statistics.paired import Floats
from tokentrial.statistics.unpaired import UnpairedT, one_against_arm, welch
from tokentrial.statistics.verdict import HELPS, HURTS, NO_DIFFERENCE, contrast

_SWAPPED = {HELPS: HURTS, HURTS: HELPS}


class Made(Fields):
    """A contrast of a run's own report."""

    difference: float
    ci95: list[float] | None
    p: float | None
    p_holm: float | None
    test: str
    mde80: float | None
    n_seeds: int
    verdict: str | None
    note: str


class Outcome(Fields):
    floors: dict[str, float]
    per_seed: dict[str, list[float | None]]
    contrasts: dict[str, Made]


class Report(Fields):
    outcomes: dict[str, Outcome]


def reported(run: Path) -> Report | None:
    """A run's own report, whose verdicts stand where two of its arms are compared."""
    path = run / REPORT
    return checked(path, Report, json_file(path)) if path.exists() else None


def from_report(report: Report, outcome: str, a: System, b: System) -> Line | None:
    """The report's contrast of these arms, in either order; None where it makes none."""
    of = report.outcomes.get(outcome)
    if of is None or a.arm not in of.per_seed or b.arm not in of.per_seed:
        return None
    made, sign = of.contrasts.get(f"{a.arm} - {b.arm}"), 1
    if made is None:
        made, sign = of.contrasts.get(f"{b.arm} - {a.arm}"), -1
    if made is None:
        return None
    ci95 = None if made.ci95 is None else sorted(sign * end for end in made.ci95)
    of_a, of_b = ([value for value in of.per_seed[arm] if value is not None] for arm in (a.arm, b.arm))
    if not of_a or not of_b:
        return None
    verdict = made.verdict if sign > 0 else _SWAPPED.get(made.verdict or "", made.verdict)
    return Line(
        outcome=outcome,
        a=a.name,
        b=b.name,
        unit="seeds",
        n_a=made.n_seeds,
        n_b=made.n_seeds,
        n_seeds=made.n_seeds,
        n_items=_n_items(outcome, a, b),
        value_a=_mean(of_a),
        value_b=_mean(of_b),
        difference=sign * made.difference,
        ci95=ci95,
        p=made.p,
        p_holm=made.p_holm,
        test=made.test,
        mde80=made.mde80,
        verdict=verdict,
        note="; ".join(filter(None, ["as the run's own report says", made.note])),
        floors=of.floors,
    )


def compare_arms(outcome: str, a: System, b: System, margin: float | None, declared: bool) -> Line:
    """Two systems of which at least one has several seeds: paired where they share seeds, else unpaired."""
    metric = METRICS.get(outcome.rsplit("/", 1)[1], Metric(True, None))
    of_a = {seed: model.value(outcome) for seed, model in a.models.items()}
    of_b = {seed: model.value(outcome) for seed, model in b.models.items()}
    shared = sorted(of_a.keys() & of_b.keys())
    if min(len(of_a), len(of_b)) < 2:
        return _single(outcome, a, b, [*of_a.values()], [*of_b.values()])
    if len(shared) < 2:
        made = welch([*of_a.values()], [*of_b.values()])
        verdict = None if made.p is None or not declared else _worded(made, metric)
        notes = [f"{len(shared) or 'no'} seeds in common: unpaired", *([] if made.p else ["no spread between seeds"])]
        return _line(outcome, a, b, [*of_a.values()], [*of_b.values()], made, "welch_t", verdict, notes)
    x, y = [of_a[seed] for seed in shared], [of_b[seed] for seed in shared]
    floors = [floor for s in (a, b) for model in s.models.values() for floor in _floors(outcome, model).values()]
    paired = contrast(
        x,
        y,
        margin=margin if metric.ceiling == 1 else None,
        alpha=ALPHA,
        declared=declared,
        floor=max(floors, default=None),
        ceiling=metric.ceiling,
        higher_is_better=metric.higher_is_better,
        by_fact=_by_fact(outcome, a, b, shared),
        rng=np.random.default_rng(0),
    )
    notes = [paired.note] if paired.note else []
    left = sorted(of_a.keys() ^ of_b.keys())
    notes += [f"seeds {left} of one side only are left out"] if left else []
    if paired.facts_ci95:
        low, high = paired.facts_ci95
        notes.append(f"over facts like these too: [{low:+.3f}, {high:+.3f}]")
    if any(_questions(outcome, a, seed) != _questions(outcome, b, seed) for seed in shared):
        notes.append("the two sides were asked other items")
    as_t = UnpairedT(paired.difference, paired.p, _pair(paired.ci95), paired.mde80)
    return _line(outcome, a, b, x, y, as_t, paired.test, paired.verdict, notes)


def _single(outcome: str, a: System, b: System, x: list[float], y: list[float]) -> Line:
    """One model against an arm over its seeds: said of the model, never of its arm."""
    if len(x) == 1:
        made, model, arm = one_against_arm(x[0], y), a, b
    else:
        turned = one_against_arm(y[0], x)
        ends = None if turned.ci95 is None else (-turned.ci95[1], -turned.ci95[0])
        made, model, arm = UnpairedT(-turned.difference, turned.p, ends, turned.mde80), b, a
    where = "no spread between the seeds" if made.p is None else "outside" if made.p < ALPHA else "within"
    said = where if made.p is None else f"{model.name} lies {where} what the seeds of {arm.name} give"
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
        value_a=_mean(x),
        value_b=_mean(y),
        difference=made.difference,
        ci95=list(made.ci95) if made.ci95 else None,
        p=made.p,
        test=test,
        mde80=made.mde80,
        verdict=verdict,
        note="; ".join(notes),
        floors=_floors(outcome, next(iter(b.models.values()))),
    )


def _worded(made: UnpairedT, metric: Metric) -> str:
    if made.p is None or made.p >= ALPHA:
        return NO_DIFFERENCE
    return HELPS if (made.difference > 0) == metric.higher_is_better else HURTS


def _by_fact(outcome: str, a: System, b: System, shared: Sequence[int]) -> Floats | None:
    """Differences, seeds x unordered facts, NaN where a seed has not that fact; None where facts do not match."""
    tables = [(a.models[seed].by_fact.get(outcome, {}), b.models[seed].by_fact.get(outcome, {})) for seed in shared]
    if any(not of_a or of_a.keys() != of_b.keys() for of_a, of_b in tables):
        return None
    columns = sorted({fact for of_a, _ in tables for fact in of_a})
    rows = [[of_a[f] - of_b[f] if f in of_a else np.nan for f in columns] for of_a, of_b in tables]
    return np.array(rows)


def _questions(outcome: str, system: System, seed: int) -> set[str]:
    items = system.models[seed].items.get(outcome)
    return set(items.right) if items else set()


def _floors(outcome: str, model: Model) -> Mapping[str, float]:
    return model.items[outcome].floors if outcome in model.items else {}


def _n_items(outcome: str, a: System, b: System) -> int | None:
    totals = [
        model.items[outcome].total for system in (a, b) for model in system.models.values() if outcome in model.items
    ]
    return min(totals, default=None)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _pair(ends: Sequence[float] | None) -> tuple[float, float] | None:
    return None if ends is None else (ends[0], ends[1])
