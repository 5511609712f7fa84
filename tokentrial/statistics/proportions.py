"""Two models on items that are right or wrong: exact tests, score intervals, what so many items can show.

All of it describes two models. Items of one model are no replicates of an arm: nothing here decides between arms.
"""

from collections.abc import Callable
from math import sqrt

from scipy import special, stats
from scipy.optimize import brentq

from tokentrial.statistics.paired import Interval


def wilson(correct: int, total: int) -> Interval:
    """95 % score interval of one proportion (Wilson 1927)."""
    low, high = stats.binomtest(correct, total).proportion_ci(0.95, "wilson")
    return float(low), float(high)


def fisher_exact(a: int, n_a: int, b: int, n_b: int) -> float:
    """Two-sided p of Fisher's (1935) exact test: the chance, both totals given, of a table no likelier than this one.

    For totals whose items cannot be paired. Boschloo's (1970) unconditional test is somewhat more powerful, but walks
    a table of n_a x n_b outcomes (10^8 for HellaSwag) for every point of the unknown rate; and it assumes independent
    samples, while two models mostly answered the same items. Given the totals, Fisher's holds its level at any size.
    """
    return float(stats.fisher_exact([[a, n_a - a], [b, n_b - b]]).pvalue)


def newcombe_independent(a: int, n_a: int, b: int, n_b: int) -> Interval:
    """95 % interval of p_a - p_b for independent samples: Newcombe (1998, Stat. Med. 17:873), method 10."""
    return _hybrid((a, n_a), (b, n_b), 0.0)


def newcombe_paired(both: int, only_a: int, only_b: int, neither: int) -> Interval:
    """95 % interval of p_a - p_b on the same items: Newcombe (1998, Stat. Med. 17:2635), method 10.

    The hybrid score interval, with the correlation phi of the fourfold table, corrected for continuity where positive.
    """
    n = both + only_a + only_b + neither
    margins = float(both + only_a) * (only_b + neither) * (both + only_b) * (only_a + neither)
    excess = float(both) * neither - float(only_a) * only_b
    corrected = max(excess - n / 2, 0.0) if excess > 0 else excess
    phi = corrected / sqrt(margins) if margins else 0.0
    return _hybrid((both + only_a, n), (both + only_b, n), phi)


def _hybrid(a: tuple[int, int], b: tuple[int, int], phi: float) -> Interval:
    (low_a, high_a), (low_b, high_b) = wilson(*a), wilson(*b)
    p_a, p_b = a[0] / a[1], b[0] / b[1]

    def reach(x: float, y: float) -> float:
        return sqrt(max(x * x - 2 * phi * x * y + y * y, 0.0))

    difference = p_a - p_b
    return difference - reach(p_a - low_a, high_b - p_b), difference + reach(high_a - p_a, p_b - low_b)


def mcnemar_exact(only_a: int, only_b: int) -> float:
    """Exact two-sided McNemar p from the discordant items; describes two models, never decides between arms.

    Items of one model are not replicates: pooled over seeds this gives 14-38 % false positives.
    """
    return min(1.0, 2 * float(special.bdtr(min(only_a, only_b), only_a + only_b, 0.5)))


def mcnemar_bounds(a: int, b: int, total: int) -> Interval:
    """The smallest and largest exact McNemar p that two totals on the same `total` items allow, over every pairing.

    Equal where one total is 0 or all: the pairing is known then. At a fixed difference p grows with discordant items.
    """
    spread = min(a, b, total - a, total - b)  # of the further items, so many may be discordant in both directions
    more, less = max(a - b, 0), max(b - a, 0)
    return mcnemar_exact(more, less), mcnemar_exact(more + spread, less + spread)


def mde_independent(p: float, n_a: int, n_b: int, alpha: float = 0.05, power: float = 0.8) -> float | None:
    """The rise over `p` (the fall, where p > 1/2) that n_a and n_b items show with chance `power`; None if none does.

    Normal approximation with the pooled variance under no difference (Fleiss, Levin & Paik 2003, eq. 4.14).
    """
    if fisher_exact(n_a, n_a, 0, n_b) >= alpha:
        return None  # not even all against none
    base, z_alpha, z_power = min(p, 1 - p), float(special.ndtri(1 - alpha / 2)), float(special.ndtri(power))

    def short(effect: float) -> float:
        other = base + effect
        pooled = (n_a * other + n_b * base) / (n_a + n_b)
        alike = sqrt(pooled * (1 - pooled) * (1 / n_a + 1 / n_b))
        return z_alpha * alike + z_power * sqrt(other * (1 - other) / n_a + base * (1 - base) / n_b) - effect

    return _root(short, 1 - base)


def mde_paired(discordant: int, total: int, alpha: float = 0.05, power: float = 0.8) -> float | None:
    """The difference on `total` paired items that McNemar's test shows with chance `power`; None if none is.

    Connor (1987, Biometrics 43:207) at the observed share of discordant items, which is at least the difference.
    """
    if mcnemar_exact(total, 0) >= alpha:
        return None  # not even all against none
    z_alpha, z_power = float(special.ndtri(1 - alpha / 2)), float(special.ndtri(power))

    def short(effect: float) -> float:
        share = max(discordant / total, effect)
        return z_alpha * sqrt(share) + z_power * sqrt(max(share - effect**2, 0.0)) - effect * sqrt(total)

    return _root(short, 1.0)


def _root(short: Callable[[float], float], most: float) -> float | None:
    return None if short(most) > 0 else float(brentq(short, 1e-12, most))
