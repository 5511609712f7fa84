"""From paired scores to a verdict: gate, contrast, Holm's family, two budgets, and what was declared.

The order of use: `freeze` the declaration at the first evaluation, ask `gate_failure` whether the baseline has
learnt, make one `contrast` an outcome on the frozen seeds, and let `decide` judge the declared ones.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from tokentrial.statistics.paired import (
    Floats,
    Values,
    correlation,
    crossed_interval,
    finite_vector,
    holm,
    paired_t,
    sign_flip,
    tost,
)
from tokentrial.statistics.power import mde

HELPS = "helps"
HURTS = "hurts"
NO_DIFFERENCE = "no difference shown"
EQUIVALENT = "equivalent within"  # followed by the margin
NOT_LEARNT = "baseline has not learnt"
FASTER = "faster"
SLOWER = "slower"
DEPENDS = "depends on the budget rule"
EXTENDED = "extended after a look: exploratory"


@dataclass(frozen=True)
class Contrast:
    """One outcome, treatment minus control, over paired seeds. Its fields are the keys of the report's JSON.

    None stands for what is undefined (an interval at s = 0, an equivalence test without a margin) and, as the
    verdict, for none given: an exploratory outcome, or one seed an arm. Lists are [low, high].
    """

    difference: float
    ci95: list[float] | None
    ci90: list[float] | None
    p: float | None  # of `test`, which decides
    test: str  # paired_t; sign_flip at s = 0
    p_sign_flip: float
    p_holm: float | None
    p_tost: float | None
    margin: float | None
    mde80: float | None
    n_seeds: int
    verdict: str | None
    note: str
    facts_ci95: list[float] | None  # "facts like these": over seeds and facts
    correlation: float | None


def contrast(
    treatment: Values,
    control: Values,
    *,
    margin: float | None,
    alpha: float,
    declared: bool,
    floor: float | None = None,
    ceiling: float | None = None,
    higher_is_better: bool = True,
    by_fact: Sequence[Sequence[float]] | Floats | None = None,
    rng: np.random.Generator | None = None,
) -> Contrast:
    """Compare two arms over their seeds, scores given seed by seed in the same order.

    The paired t decides: p < alpha, that is, the 1 - alpha interval leaves out 0. Where all seeds differ by
    the same amount (s = 0) the sign-flip test decides. Only a `declared` outcome gets a verdict; without a
    difference that is `equivalent within M` if the 90 % interval lies inside +-margin.

    `margin` is the smallest effect that matters. Equivalence is refused where both arms' means lie within one
    margin of the `floor` (or below), or of the `ceiling` (or above): there the scale leaves no room for a
    difference that matters. `by_fact`: the differences, seeds x unordered facts, NaN where absent; its row
    means must be the seeds' differences. `rng` serves the sign-flip beyond 20 seeds.
    """
    a, b = finite_vector(treatment, "treatment"), finite_vector(control, "control")
    if len(a) != len(b):
        raise ValueError(f"seeds: found {len(a)} of treatment, {len(b)} of control, expected the same seeds")
    if not 0 < alpha < 1:
        raise ValueError(f"alpha: found {alpha}, expected a number between 0 and 1")
    d = a - b
    d[np.isclose(a, b, rtol=1e-12, atol=0)] = 0  # round-off alone must not look like six seeds that agree
    t, p_flip = paired_t(d), sign_flip(d, rng)
    no_spread = t.sd == 0
    p = p_flip if no_spread else t.p
    notes = [] if declared else ["exploratory"]
    if t.n == 1:
        notes.append("these two models differ; one seed each" if d[0] else "one seed each")
    elif no_spread:
        notes.append("every seed differs by the same amount: the sign-flip test decides")

    p_tost, verdict, facts_ci95 = None, None, None
    if margin is not None:
        at_floor = floor is not None and max(a.mean(), b.mean()) <= floor + margin
        at_ceiling = ceiling is not None and min(a.mean(), b.mean()) >= ceiling - margin
        p_tost, reasons = _equivalence(d, margin, bool(at_floor or at_ceiling))
        if p is None or p >= alpha:  # else there is nothing to say of equivalence
            notes += reasons
    if by_fact is not None:
        facts_ci95, reasons = _over_facts(by_fact, d)
        notes += reasons
    if declared and p is not None:
        verdict = _without_difference(margin, p_tost)
        if p < alpha:
            if verdict != NO_DIFFERENCE:
                notes.append(f"smaller than the smallest effect that matters, {margin:g}")
            verdict = HELPS if (t.mean > 0) == higher_is_better else HURTS
    return Contrast(  # a field a line: what makes this function long
        difference=t.mean,
        ci95=list(t.ci95) if t.ci95 else None,
        ci90=list(t.ci90) if t.ci90 else None,
        p=p,
        test="sign_flip" if no_spread else "paired_t",
        p_sign_flip=p_flip,
        p_holm=None,
        p_tost=p_tost,
        margin=margin,
        mde80=mde(t.sd, t.n, alpha) if t.sd is not None else None,
        n_seeds=t.n,
        verdict=verdict,
        note="; ".join(notes),
        facts_ci95=facts_ci95,
        correlation=correlation(a, b),
    )


def _equivalence(d: Floats, margin: float, at_bound: bool) -> tuple[float | None, list[str]]:
    """p of the test of equivalence, None where it is refused; and why it is, or that no such seeds could show it."""
    p, in_reach = tost(d, margin)
    if len(d) < 2:
        return None, []
    if p is None or in_reach is None:
        return None, ["equivalence not tested: no spread between the seeds (s = 0)"]
    if at_bound:  # there arms look alike whatever they know
        return None, ["equivalence not tested: both arms lie at the floor or ceiling"]
    if margin >= in_reach or p < 0.05:
        return p, []
    return p, [f"equivalence within {margin:g} is out of reach: at 80 % power these seeds show {in_reach:.2g}"]


def _without_difference(margin: float | None, p_tost: float | None) -> str:
    # p_tost < 0.05 exactly where the 90 % interval lies inside +-margin.
    return NO_DIFFERENCE if p_tost is None or p_tost >= 0.05 else f"{EQUIVALENT} {margin:g}"


def _over_facts(by_fact: Sequence[Sequence[float]] | Floats, d: Floats) -> tuple[list[float] | None, list[str]]:
    means = np.nanmean(np.asarray(by_fact, dtype=np.float64), axis=1)
    if len(means) != len(d) or not np.allclose(means, d, rtol=0, atol=1e-6):
        raise ValueError(f"by_fact: found row means {means}, expected the seeds' differences {d}")
    crossed = crossed_interval(by_fact)
    return (list(crossed.ci95), []) if crossed.ci95 else (None, [f"no interval over facts: {crossed.refusal}"])


def decide(
    primary: Contrast, secondary: Sequence[Contrast], *, alpha: float, not_learnt: str | None = None
) -> tuple[Contrast, list[Contrast]]:
    """The declared contrasts with their final verdicts, in the order given.

    The primary stands alone at alpha. The secondary family is Holm-adjusted over each test's own p; a
    difference that does not survive falls back to `equivalent within M` or `no difference shown` (equivalence
    itself is read off the 90 % interval, unadjusted). `not_learnt`, the reason from `gate_failure`, overrules all.
    """
    family = []
    for c, p_holm in zip(secondary, holm([c.p for c in secondary]), strict=True):
        adjusted = replace(c, p_holm=p_holm)
        if c.verdict in (HELPS, HURTS) and p_holm is not None and p_holm >= alpha:
            reason = f"not significant among {len(secondary)} secondary outcomes (Holm p = {p_holm:.3g})"
            adjusted = _overrule(adjusted, _without_difference(c.margin, c.p_tost), reason)
        family.append(adjusted)
    if not_learnt is not None:
        primary, *family = (_overrule(c, NOT_LEARNT, not_learnt) for c in (primary, *family))
    return primary, family


def _overrule(c: Contrast, verdict: str, reason: str) -> Contrast:
    return replace(c, verdict=verdict, note="; ".join(filter(None, [c.note, reason])))


def gate_failure(
    control_asked: Values,
    control_never_asked: Values | None,
    asked: float = 0.6,
    never_asked: float = 0.4,
) -> str | None:
    """Why the baseline has not learnt, from its accuracy by seed; None where it has.

    Both means must reach their threshold. `control_never_asked` is None in a trial that asks every fact.
    """
    for name, values, least in (("asked", control_asked, asked), ("never-asked", control_never_asked, never_asked)):
        if values is not None:
            mean = float(finite_vector(values, f"the baseline's accuracy on {name} facts").mean())
            if mean < least - 1e-9:  # round-off: six times 0.6 averages to just under 0.6
                return f"the baseline's mean accuracy on {name} facts is {mean:.3f}, below {least:g}"
    return None


def combine_budgets(one: str, other: str) -> str:
    """One verdict from the same contrast under two budgets, the same tokens and the same bytes in every arm.

    Equal verdicts stand; helps against hurts `depends on the budget rule`; a difference that only one budget shows is
    read as one of speed, `faster` or `slower`.
    """
    pair = {one, other}
    if NOT_LEARNT in pair:
        return NOT_LEARNT
    if pair == {HELPS, HURTS}:
        return DEPENDS
    if len(pair) == 1:
        return one
    return FASTER if HELPS in pair else SLOWER if HURTS in pair else NO_DIFFERENCE


def freeze(declared: Mapping[str, Any], frozen: Mapping[str, Any] | None = None) -> tuple[dict[str, Any], list[str]]:
    """The declaration that counts, and a line to print for each departure from it after a look.

    `declared` holds, as JSON values, what is decided before the run: primary, secondary, seeds, alpha,
    smallest effect. At the first evaluation (`frozen` None) it freezes as it stands. Later the frozen one is
    returned unchanged: only its seeds and outcomes enter a verdict, and whatever differs is exploratory.
    """
    now = json.loads(json.dumps(declared))  # a copy, as the run folder will give it back: tuples are lists
    if frozen is None:
        return now, []
    changes = []
    for key in {**frozen, **now}:
        old, new = frozen.get(key), now.get(key)
        if isinstance(old, list) and isinstance(new, list):
            changes += [f"{key}: {item} added" for item in new if item not in old]
            changes += [f"{key}: {item} left out" for item in old if item not in new]
        elif old != new:
            changes.append(f"{key}: {new} for {old}")
    return dict(frozen), [f"{EXTENDED} ({change})" for change in changes]
