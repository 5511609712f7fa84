"""Seeds that do not pair: two arms on other seeds, or one model of others beside an arm over its seeds."""

from dataclasses import dataclass

import numpy as np
from scipy import special

from tokentrial.statistics.paired import ROUND_OFF, Interval, Values, finite
from tokentrial.statistics.power import mde_of_error


@dataclass(frozen=True)
class UnpairedT:
    """A t test of a - b; None where neither side has spread."""

    difference: float
    p: float | None  # two-sided
    ci95: Interval | None
    mde80: float | None


def welch(a: Values, b: Values) -> UnpairedT:
    """Welch's (1947) t test for two arms with seeds of their own, two or more each."""
    x, y = finite(a, "a"), finite(b, "b")
    if min(len(x), len(y)) < 2:
        raise ValueError(f"seeds: found {len(x)} and {len(y)}, expected two or more on each side")
    of_a, of_b = x.var(ddof=1) / len(x), y.var(ddof=1) / len(y)
    error = float(np.sqrt(of_a + of_b))
    scale = float(max(np.abs(x).max(), np.abs(y).max()))
    if error <= ROUND_OFF * scale:
        return UnpairedT(float(x.mean() - y.mean()), None, None, None)
    df = error**4 / float(of_a**2 / (len(x) - 1) + of_b**2 / (len(y) - 1))
    return _tested(float(x.mean() - y.mean()), error, df)


def one_against_arm(model: float, arm: Values) -> UnpairedT:
    """One model against an arm's seeds, model minus arm: is it one that such seeds give?

    The t test for a single case (Crawford & Howell 1998): error s sqrt(1 + 1/n), n - 1 degrees of freedom.
    """
    x = finite(arm, "arm")
    if len(x) < 2:
        raise ValueError(f"seeds: found {len(x)}, expected two or more")
    difference, error = model - float(x.mean()), float(x.std(ddof=1) * np.sqrt(1 + 1 / len(x)))
    if error <= ROUND_OFF * float(np.abs(x).max()):
        return UnpairedT(difference, None, None, None)
    return _tested(difference, error, len(x) - 1)


def _tested(difference: float, error: float, df: float) -> UnpairedT:
    half = error * float(special.stdtrit(df, 0.975))
    p = 2 * float(special.stdtr(df, -abs(difference) / error))
    return UnpairedT(difference, p, (difference - half, difference + half), mde_of_error(error, df))
