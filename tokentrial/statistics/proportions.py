"""Two models on items that are right or wrong: exact tests and score intervals.

All of it describes two models. Items of one model are no replicates of an arm: nothing here decides between arms.
There is no detectable effect of items, as there is of seeds: nobody adds items to a benchmark as one adds seeds, and
from the observed rates it would say no more than the interval does (Hoenig & Heisey 2001, Am. Stat. 55:19).
"""

from math import sqrt

from scipy import special, stats

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

    Items of one model are not replicates: pooled over seeds this gives up to 75 % false positives (docs/science.md).
    """
    return min(1.0, 2 * float(special.bdtr(min(only_a, only_b), only_a + only_b, 0.5)))


def mcnemar_bounds(a: int, b: int, total: int) -> Interval:
    """The smallest and largest exact McNemar p that two totals on the same `total` items allow, over every pairing.

    Equal where one total is 0 or all: the pairing is known then. At a fixed difference p grows with discordant items.
    """
    spread = min(a, b, total - a, total - b)  # of the further items, so many may be discordant in both directions
    more, less = max(a - b, 0), max(b - a, 0)
    return mcnemar_exact(more, less), mcnemar_exact(more + spread, less + spread)
