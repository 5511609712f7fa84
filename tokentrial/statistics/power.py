"""Power of the paired t test over seeds: what n seeds can show, and how many are needed.

Effects and `sd` (of the paired differences, ddof 1) share the unit of the outcome. The test is two-sided.
Under a true effect, t follows the noncentral t with n - 1 degrees of freedom and noncentrality
effect * sqrt(n) / sd (Cohen 1988; Johnson, Kotz & Balakrishnan 1995, ch. 31).
"""

from bisect import bisect_left
from functools import cache
from math import sqrt

from scipy.optimize import brentq
from scipy.stats import chi2, nct, t

_FAR = 1e6  # a noncentrality past which the power is 1 and scipy soon returns NaN


def power(effect: float, sd: float, n: int, alpha: float = 0.05) -> float | None:
    """Chance that n seeds give p < alpha when the true difference is `effect`; None for sd = 0 or n < 2."""
    _check(sd, alpha)
    if sd == 0 or n < 2:
        return None
    return _chance(abs(effect) / sd * sqrt(n), n - 1, alpha)


def mde(sd: float, n: int, alpha: float = 0.05, power: float = 0.8) -> float | None:
    """Minimum detectable effect, found with chance `power`; None ("n/a") for sd = 0 or n < 2."""
    _check(sd, alpha, power)
    return None if sd == 0 or n < 2 else mde_of_error(sd / sqrt(n), n - 1, alpha, power)


def mde_of_error(error: float, df: float, alpha: float = 0.05, power: float = 0.8) -> float:
    """The same for any t test whose difference has this standard error and these degrees of freedom."""
    return error * _noncentrality(df, alpha, power)


def seeds_needed(effect: float, sd: float, alpha: float = 0.05, power: float = 0.8, most: int = 1000) -> int | None:
    """The fewest seeds (2 or more) that find `effect` with chance `power`; None at sd = 0 or above `most`."""
    _check(sd, alpha, power)
    if sd == 0:
        return None
    n = 2 + bisect_left(range(2, most + 1), power, key=lambda n: _chance(abs(effect) / sd * sqrt(n), n - 1, alpha))
    return n if n <= most else None


def sd_interval(sd: float, n: int, level: float = 0.95) -> tuple[float, float] | None:
    """Interval of the true sd given the sd of n seeds, s * sqrt((n - 1) / chi2): x .62 to x 2.45 at n = 6."""
    _check(sd, 1 - level)
    if n < 2:
        return None
    low, high = (sd * sqrt((n - 1) / chi2.ppf((1 + sign * level) / 2, n - 1)) for sign in (1, -1))
    return low, high


def planning_sd(sd: float, n: int | None) -> float:
    """The sd to plan with, given that of n seeds: its upper 80 % bound, s sqrt((n - 1) / chi2_.2(n - 1)), 1.46 s at
    n = 6 (Browne 1995, Stat. Med. 14:1933). A pilot's own sd is too small more often than not, and a trial planned with
    it has too few seeds. Of an sd that is known, n is None, and it stands."""
    _check(sd, 0.05)
    return sd if n is None or n < 2 else sd * sqrt((n - 1) / chi2.ppf(0.2, n - 1))


def _chance(noncentrality: float, df: float, alpha: float) -> float:
    critical, shift = t.isf(alpha / 2, df), min(noncentrality, _FAR)
    # The lower tail as the upper tail of the mirrored t: nct.cdf returns NaN where nct.sf does not.
    return float(nct.sf(critical, df, shift) + nct.sf(critical, df, -shift))


@cache  # one trial asks for the same n, alpha and power in every contrast
def _noncentrality(df: float, alpha: float, power: float) -> float:
    high = 1.0
    while _chance(high, df, alpha) < power:
        high *= 2
    return float(brentq(lambda shift: _chance(shift, df, alpha) - power, 0, high, xtol=1e-10))


def _check(sd: float, alpha: float, power: float = 0.8) -> None:
    if not 0 <= sd < float("inf"):
        raise ValueError(f"sd: found {sd}, expected a finite number, 0 or more")
    if not 0 < alpha < power < 1:
        raise ValueError(f"alpha and power: found {alpha} and {power}, expected 0 < alpha < power < 1")
