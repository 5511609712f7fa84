"""Seeds that do not pair: two arms on other seeds, or one model of others beside an arm over its seeds."""

from typing import NamedTuple

import numpy as np

from tokentrial.statistics.paired import ROUND_OFF, Interval, Values, finite, t_interval, t_p
from tokentrial.statistics.power import mde_of_error


class UnpairedT(NamedTuple):
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
    error, difference = float(np.sqrt(of_a + of_b)), float(x.mean() - y.mean())
    if error <= ROUND_OFF * max(np.abs(x).max(), np.abs(y).max()):
        return UnpairedT(difference, None, None, None)
    return _tested(difference, error, error**4 / float(of_a**2 / (len(x) - 1) + of_b**2 / (len(y) - 1)))


def one_against_arm(model: float, arm: Values) -> UnpairedT:
    """One model against an arm's seeds, model minus arm: is it one that such seeds give?

    The t test for a single case (Crawford & Howell 1998): error s sqrt(1 + 1/n), n - 1 degrees of freedom.
    """
    x = finite(arm, "arm")
    if len(x) < 2:
        raise ValueError(f"seeds: found {len(x)}, expected two or more")
    difference, error = model - float(x.mean()), float(x.std(ddof=1) * np.sqrt(1 + 1 / len(x)))
    if error <= ROUND_OFF * np.abs(x).max():
        return UnpairedT(difference, None, None, None)
    return _tested(difference, error, len(x) - 1)


def _tested(difference: float, error: float, df: float) -> UnpairedT:
    ends = t_interval(difference, error, df, 0.95)
    return UnpairedT(difference, t_p(difference, error, df), ends, mde_of_error(error, df))
