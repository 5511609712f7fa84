"""From contrasts to verdicts: the one place where a verdict is given.

The primary contrast stands alone at alpha, the secondary family shares another alpha (Holm). Nothing is judged before
the primary, and only what was declared is judged.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from tokentrial.statistics.contrast import Contrast
from tokentrial.statistics.paired import Values, finite_vector, holm

HELPS = "helps"
HURTS = "hurts"
NO_DIFFERENCE = "no difference shown"
EQUIVALENT = "equivalent within"  # followed by the margin
NOT_LEARNT = "control has not learnt"
# with which `tokentrial verdict` ends; 1, 2 and 75 are errors and interruptions
EXIT_CODES, NO_VERDICT = {HELPS: 0, HURTS: 10, NO_DIFFERENCE: 11, EQUIVALENT: 12, NOT_LEARNT: 13}, 14
GAINS, LOSES, NO_TREND = "gains", "loses", "no trend shown"  # the treatment on its control, as compute grows


def decide(
    primary: Contrast | None,
    family: Sequence[Contrast | None],
    *,
    equivalence_alpha: float = 0.05,
    may_go_on: bool = False,
    not_learnt: str | None = None,
) -> tuple[Contrast | None, list[Contrast | None]]:
    """The declared contrasts with their verdicts, in the order given; None is one that was declared and not measured.

    A declared contrast that was not measured counts as p = 1 in Holm's family, so that what is left out cannot make
    the others significant. The family's tests of equivalence are corrected alike, else one of many would be called
    equivalent by chance. Without the primary there is no verdict at all. `may_go_on`: this is a look with another
    one to come; where the primary does not cross its boundary there is no verdict yet, of anything. Where it does the
    trial ends, without equivalence of anything: that is for the last look, for its 5 % are not spent over the looks.
    `not_learnt` is the reason from `gate_failure`: a control at its floor cannot show that a treatment makes no
    difference, so it withholds `no difference shown` and `equivalent` of outcomes that have a floor; a difference that
    was found in spite of it stands, with the reason beside it (assay sensitivity, ICH E10).
    """
    if primary is None or primary.p is None:
        return primary, [c and _noted(c, "no verdict: the primary contrast has none") for c in family]
    if may_go_on and primary.p >= primary.alpha:
        waiting = "no verdict at this look: the trial goes on to the next one"
        return _noted(primary, waiting), [c and _noted(c, waiting) for c in family]
    judge = partial(_judge, equivalence_alpha=0.0 if may_go_on else equivalence_alpha, not_learnt=not_learnt)
    tests = zip(family, _holm(family, "p"), _holm(family, "p_equivalence"), strict=True)
    return judge(primary, primary.p, primary.p_equivalence), [
        c and (c if c.p is None else judge(c, p, None if c.p_equivalence is None else tost, len(family)))
        for c, p, tost in tests
    ]


def _holm(family: Sequence[Contrast | None], field: str) -> list[float]:
    """A p-value of every contrast, corrected over all of them; what was not measured or tested counts as 1."""
    p_values = [None if c is None else getattr(c, field) for c in family]
    return holm([1.0 if p is None else p for p in p_values])


def _judge(
    c: Contrast,
    p: float,
    p_equivalence: float | None,
    family: int | None = None,
    *,
    equivalence_alpha: float,
    not_learnt: str | None,
) -> Contrast:
    """`p` and `p_equivalence` decide: the primary's own, and in the `family` of so many those corrected by Holm."""
    if family is not None:
        c = replace(c, p_adjusted=p, p_equivalence_adjusted=p_equivalence)
    assert c.p is not None
    # alone exactly where the interval at 1 - 2 alpha lies inside +-margin
    small = p_equivalence is not None and p_equivalence < equivalence_alpha
    if p < c.alpha:
        better = (c.difference > 0) == c.higher_is_better
        judged = _noted(c, f"smaller than the smallest effect that matters, {c.margin:g}" if small else "")
        if not_learnt and c.floor is not None:
            judged = _noted(judged, f"found although {not_learnt}")
        return replace(judged, verdict=HELPS if better else HURTS)
    if c.p < c.alpha:
        c = _noted(c, f"not significant among the {family} declared secondary contrasts (Holm p {p:.3g})")
    if not_learnt and c.floor is not None:
        return replace(_noted(c, not_learnt), verdict=NOT_LEARNT)
    if small:
        return replace(c, verdict=f"{EQUIVALENT} {c.margin:g}")
    if c.p_equivalence is not None and c.p_equivalence < equivalence_alpha:
        c = _noted(
            c,
            f"equivalence within {c.margin:g} not significant among the {family} declared secondary contrasts "
            f"(Holm p {p_equivalence:.3g})",
        )
    return replace(c, verdict=NO_DIFFERENCE)


def _noted(c: Contrast, note: str) -> Contrast:
    return replace(c, note="; ".join(filter(None, [c.note, note])))


def gate_failure(
    control_asked: Values, control_never_asked: Values | None, asked: float = 0.6, never_asked: float = 0.4
) -> str | None:
    """Why the control has not learnt, from its accuracy by seed; None where it has.

    Both means must reach their threshold. `control_never_asked` is None in a trial that asks every fact.
    """
    for name, values, least in (("asked", control_asked, asked), ("never-asked", control_never_asked, never_asked)):
        if values is not None:
            mean = float(finite_vector(values, f"the control's accuracy on {name} facts").mean())
            if mean < least - 1e-9:  # round-off: six times 0.6 averages to just under 0.6
                return f"the control's mean accuracy on {name} facts is {mean:.3f}, below {least:g}"
    return None


def decide_trends(trends: Sequence[dict[str, Any]], alpha: float) -> list[dict[str, Any]]:
    """Trends of declared contrasts over sizes, the primary first, each with a verdict: as compute grows, the treatment
    `gains` on its control or `loses`, or no trend is shown. The primary slope is tested at alpha; the others share
    another alpha (Holm; one that was not tested, or not as it was declared, counts as p = 1). Without the primary there
    is no verdict at all."""
    judged = [dict(trend) for trend in trends]
    tested = [trend["p"] if trend["as_declared"] else None for trend in judged]
    corrected = holm([1.0 if p is None else p for p in tested[1:]])
    for trend, p, adjusted in zip(judged, tested, [tested[0], *corrected], strict=True):
        trend |= {"p_adjusted": None if p is None else adjusted, "verdict": None}
        if tested[0] is not None and p is not None and adjusted is not None:
            gains = (trend["slope"] > 0) == trend["higher_is_better"]
            trend["verdict"] = NO_TREND if adjusted >= alpha else GAINS if gains else LOSES
    return judged
