"""One record of a contrast: two arms on one outcome over their paired seeds. Nothing here gives a verdict."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tokentrial.statistics.paired import (
    EXACT_SEEDS,
    Floats,
    Values,
    crossed_interval,
    paired_differences,
    paired_t,
    sign_flip,
    t_interval,
    tost,
)
from tokentrial.statistics.power import mde


@dataclass(frozen=True, kw_only=True)
class Contrast:
    """Treatment minus control on one outcome. Its fields are the keys of the report's `contrasts`.

    None stands for what is undefined: an interval at s = 0, an equivalence test without a margin, a verdict that
    nothing gives. Intervals are [low, high], in the outcome's unit.
    """

    role: str  # primary, secondary, exploratory, or `again with budget.match=bytes`
    outcome: str
    treatment: str
    control: str
    seeds: list[int]  # those that count, with both arms
    differences: list[float]  # by seed
    treatment_mean: float
    treatment_sd: float | None
    control_mean: float
    control_sd: float | None
    difference: float
    interval: list[float] | None  # at 1 - alpha, for this contrast alone; at a look, the repeated one
    alpha: float  # two-sided, of this contrast alone; at a look, what the boundary comes to
    p: float | None  # of `test`, unadjusted
    p_adjusted: float | None = None  # Holm's, within the declared secondary family
    test: str  # paired_t; sign_flip at s = 0
    p_sign_flip: float
    sign_flip_is_exact: bool  # else signs were drawn
    margin: float | None  # the smallest difference that matters, in the outcome's unit
    p_equivalence: float | None  # of two one-sided tests, unadjusted; refused at floor or ceiling
    p_equivalence_adjusted: float | None = None  # Holm's, as `p_adjusted`
    equivalence_interval: list[float] | None  # at 1 - 2 alpha: tested alone, equivalent where it is within the margin
    detectable: float | None  # the difference that these seeds find with a chance of 80 %, in one test at `alpha`
    floor: float | None  # of policies that know nothing
    higher_is_better: bool
    facts_interval: list[float] | None  # over facts like these, seeds and facts both a sample; at 1 - the trial's alpha
    verdict: str | None = None
    note: str = ""


def contrast(
    treatment: Values,
    control: Values,
    *,
    alpha: float = 0.05,
    role: str = "exploratory",
    outcome: str = "",
    arms: tuple[str, str] = ("treatment", "control"),
    seeds: Sequence[int] | None = None,
    margin: float | None = None,
    equivalence_alpha: float | None = None,
    floor: float | None = None,
    ceiling: float | None = None,
    higher_is_better: bool = True,
    by_fact: Sequence[Sequence[float]] | Floats | None = None,
    rng: np.random.Generator | None = None,
) -> Contrast:
    """Compare two arms over their seeds, scores given seed by seed in the same order.

    The paired t decides: p < alpha, that is, the 1 - alpha interval leaves out 0. Where all seeds differ by the same
    amount (s = 0) the sign-flip test decides. At a look, `alpha` is what its boundary comes to for one test, and the
    interval is then the repeated one (Jennison & Turnbull 1989); `equivalence_alpha` stays the trial's.

    `margin` is the smallest effect that matters. Equivalence is refused where `bound_of_both` finds a bound.
    `by_fact`: the differences, (seeds, unordered facts), NaN where absent; its row means must be the seeds'
    differences. `rng` serves the sign-flip beyond 20 seeds.
    """
    d, a, b = paired_differences(treatment, control), np.asarray(treatment), np.asarray(control)
    if not 0 < alpha < 1:
        raise ValueError(f"alpha: found {alpha}, expected a number between 0 and 1")
    t, p_flip = paired_t(d), sign_flip(d, rng)
    error = t.sd / np.sqrt(t.n) if t.sd else None
    level = alpha if equivalence_alpha is None else equivalence_alpha
    notes, p_equivalence, facts_interval = [], None, None
    if t.n == 1:
        notes.append("one seed per arm: this compares two models, not two treatments")
    elif t.sd == 0:
        notes.append("every seed differs by the same amount: the sign-flip test decides")
    if margin is not None:
        bound = bound_of_both(a.mean(), b.mean(), floor, ceiling, margin)
        p_equivalence, reasons = _equivalence(d, margin, level, bound)
        p = p_flip if t.sd == 0 else t.p
        notes += reasons if p is None or p >= alpha else []  # else there is nothing to say of equivalence
    if by_fact is not None:
        facts_interval, reasons = _over_facts(by_fact, d, 1 - level)
        notes += reasons
    return Contrast(  # a field a line: what makes this function long
        role=role,
        outcome=outcome,
        treatment=arms[0],
        control=arms[1],
        seeds=list(range(len(d)) if seeds is None else seeds),
        differences=d.tolist(),
        treatment_mean=float(a.mean()),
        treatment_sd=float(a.std(ddof=1)) if t.n > 1 else None,
        control_mean=float(b.mean()),
        control_sd=float(b.std(ddof=1)) if t.n > 1 else None,
        difference=t.mean,
        interval=list(t_interval(t.mean, error, t.n - 1, 1 - alpha)) if error else None,
        alpha=alpha,
        p=p_flip if t.sd == 0 else t.p,
        test="sign_flip" if t.sd == 0 else "paired_t",
        p_sign_flip=p_flip,
        sign_flip_is_exact=t.n <= EXACT_SEEDS,
        margin=margin,
        p_equivalence=p_equivalence,
        equivalence_interval=list(t_interval(t.mean, error, t.n - 1, 1 - 2 * level)) if error and margin else None,
        detectable=mde(t.sd, t.n, alpha) if t.sd is not None else None,
        floor=floor,
        higher_is_better=higher_is_better,
        facts_interval=facts_interval,
        note="; ".join(notes),
    )


def bound_of_both(
    treatment_mean: float, control_mean: float, floor: float | None, ceiling: float | None, margin: float
) -> str | None:
    """`floor` or `ceiling` where both means lie within one margin of it, or beyond: there the scale leaves no room for
    a difference that matters."""
    if floor is not None and max(treatment_mean, control_mean) <= floor + margin:
        return "floor"
    return "ceiling" if ceiling is not None and min(treatment_mean, control_mean) >= ceiling - margin else None


def _equivalence(d: Floats, margin: float, alpha: float, bound: str | None) -> tuple[float | None, list[str]]:
    """p of the test of equivalence, None where it is refused; and why it is, or that no such seeds could show it."""
    p, in_reach = tost(d, margin, alpha)
    if len(d) < 2:
        return None, []
    if p is None or in_reach is None:
        return None, ["equivalence not tested: no spread between the seeds (s = 0)"]
    if bound:  # there arms look alike whatever they know
        return None, [f"equivalence not tested: both arms lie at the {bound}"]
    if margin >= in_reach or p < alpha:
        return p, []
    return p, [f"equivalence within {margin:g} is out of reach: at 80 % power these seeds show {in_reach:.2g} at best"]


def _over_facts(
    by_fact: Sequence[Sequence[float]] | Floats, d: Floats, level: float
) -> tuple[list[float] | None, list[str]]:
    means = np.nanmean(np.asarray(by_fact, dtype=np.float64), axis=1)
    if len(means) != len(d) or not np.allclose(means, d, rtol=0, atol=1e-6):
        raise ValueError(f"by_fact: found row means {means}, expected the seeds' differences {d}")
    crossed = crossed_interval(by_fact, level)
    return (list(crossed.interval), []) if crossed.interval else (None, [f"no interval over facts: {crossed.refusal}"])
