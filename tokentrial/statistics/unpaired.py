"""Seeds that do not pair: two arms on other seeds, or one model of others beside an arm over its seeds."""

from typing import NamedTuple

import numpy as np

from tokentrial.statistics.paired import ROUND_OFF, Interval, Values, finite_vector, t_interval, t_p
from tokentrial.statistics.power import mde_of_error


class UnpairedT(NamedTuple):
    """A t test of a - b; None where neither side has spread."""

    difference: float
    p: float | None  # two-sided
    ci95: Interval | None
    mde80: float | None


def unpaired_t(a: Values, b: Values) -> UnpairedT:
    """Welch's (1947) t test for two arms with seeds of their own; where one side is one model, whether it is one that
    the other's seeds give: the t test for a single case (Crawford & Howell 1998), error s sqrt(1 + 1/n), n - 1 degrees
    of freedom."""
    x, y = finite_vector(a, "a"), finite_vector(b, "b")
    arms = [side for side in (x, y) if len(side) > 1]
    if not arms:
        raise ValueError("seeds: found one on each side, expected two or more on one of them")
    if len(arms) == 1:
        [arm] = arms
        error, df = float(arm.std(ddof=1) * np.sqrt(1 + 1 / len(arm))), float(len(arm) - 1)
    else:
        squares = [float(side.var(ddof=1) / len(side)) for side in arms]
        error = float(np.sqrt(sum(squares)))
        df = error**4 / (squares[0] ** 2 / (len(x) - 1) + squares[1] ** 2 / (len(y) - 1)) if error else 0.0
    difference = float(x.mean() - y.mean())
    if error <= ROUND_OFF * max(np.abs(arm).max() for arm in arms):
        return UnpairedT(difference, None, None, None)
    ends = t_interval(difference, error, df, 0.95)
    return UnpairedT(difference, t_p(difference, error, df), ends, mde_of_error(error, df))
