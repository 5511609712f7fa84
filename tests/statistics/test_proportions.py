"""Exact tests and score intervals of two models agree with scipy, statsmodels and the printed examples."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.proportion import confint_proportions_2indep

from tokentrial.statistics.proportions import (
    fisher_exact,
    mcnemar_bounds,
    mcnemar_exact,
    newcombe_independent,
    newcombe_paired,
)

totals = st.integers(1, 200)
fourfold = st.tuples(*[st.integers(0, 60)] * 4).filter(any)


@st.composite
def two_counts(draw):
    n_a, n_b = draw(totals), draw(totals)
    return draw(st.integers(0, n_a)), n_a, draw(st.integers(0, n_b)), n_b


# independent totals


def test_fishers_p_is_the_sum_over_tables_no_likelier():
    """5 of 81 against none: by hand 2 C(81, 5) / C(162, 5)."""
    ways = [stats.hypergeom(162, 81, 5).pmf(k) for k in range(6)]
    assert fisher_exact(5, 81, 0, 81) == pytest.approx(ways[0] + ways[5])
    assert fisher_exact(5, 81, 0, 81) == pytest.approx(0.0587, abs=5e-5)
    assert fisher_exact(55, 81, 30, 81) == pytest.approx(1.43e-4, rel=5e-3)


@pytest.mark.parametrize(
    ("counts", "printed"), [((56, 70, 48, 80), (0.0524, 0.3339)), ((9, 10, 3, 10), (0.1705, 0.8090))]
)
def test_newcombes_printed_intervals_of_independent_proportions(counts, printed):
    """Newcombe (1998), Stat. Med. 17:873, table II, method 10, contrasts (a) and (b)."""
    assert newcombe_independent(*counts) == pytest.approx(printed, abs=5e-5)


@settings(max_examples=40)
@given(two_counts())
def test_newcombe_is_statsmodels(counts):
    theirs = confint_proportions_2indep(*counts, method="newcomb", compare="diff")
    assert newcombe_independent(*counts) == pytest.approx(theirs, abs=1e-9)


@settings(max_examples=40)
@given(two_counts())
def test_swapping_independent_sides_negates_the_interval_and_keeps_p(counts):
    a, n_a, b, n_b = counts
    low, high = newcombe_independent(a, n_a, b, n_b)
    assert newcombe_independent(b, n_b, a, n_a) == pytest.approx((-high, -low))
    assert fisher_exact(a, n_a, b, n_b) == pytest.approx(fisher_exact(b, n_b, a, n_a))
    assert -1 <= low <= a / n_a - b / n_b <= high <= 1


# paired items


@pytest.mark.parametrize(("only_a", "only_b"), [(5, 0), (3, 9), (4, 4), (0, 0), (40, 61)])
def test_mcnemar_is_statsmodels(only_a, only_b):
    theirs = mcnemar([[7, only_a], [only_b, 9]], exact=True).pvalue if only_a + only_b else 1.0
    assert mcnemar_exact(only_a, only_b) == pytest.approx(theirs)


def test_a_correlation_smaller_than_its_continuity_correction_counts_as_none():
    # 26 * 26 - 25 * 25 = 51 is n / 2 and leaves nothing
    assert newcombe_paired(26, 25, 25, 26) == pytest.approx(newcombe_independent(51, 102, 51, 102))
    assert newcombe_paired(1, 0, 0, 1) == pytest.approx(newcombe_independent(1, 2, 1, 2))
    assert newcombe_paired(9, 0, 0, 0) == pytest.approx(newcombe_independent(9, 9, 9, 9))  # no margins, no correlation
    # one side has all of them right: no margin, and the sides are as independent ones
    assert newcombe_paired(10, 5, 0, 0) == pytest.approx(newcombe_independent(15, 15, 10, 15))
    # 26 * 26 - 24 * 24 = 100 leaves 50 of itself, and phi is 50 over the root of the margins, 50 * 50
    widths = np.diff([newcombe_paired(26, 24, 24, 26), newcombe_independent(50, 100, 50, 100)])[:, 0]
    assert (widths[0] / widths[1]) ** 2 == pytest.approx(1 - 50 / 2500)


@settings(max_examples=40)
@given(fourfold)
def test_swapping_paired_sides_negates_the_interval_and_keeps_p(cells):
    both, only_a, only_b, neither = cells
    low, high = newcombe_paired(both, only_a, only_b, neither)
    assert newcombe_paired(both, only_b, only_a, neither) == pytest.approx((-high, -low))
    assert mcnemar_exact(only_a, only_b) == mcnemar_exact(only_b, only_a)
    assert -1 - 1e-12 <= low <= (only_a - only_b) / sum(cells) <= high <= 1 + 1e-12


def test_one_side_without_a_right_answer_tells_the_pairing():
    assert mcnemar_bounds(5, 0, 81) == (0.0625, 0.0625)
    assert mcnemar_bounds(81, 76, 81) == (0.0625, 0.0625)


@settings(max_examples=40)
@given(st.integers(1, 25).flatmap(lambda n: st.tuples(st.integers(0, n), st.integers(0, n), st.just(n))))
def test_the_bounds_hold_every_pairing(counts):
    a, b, total = counts
    pairings = [  # by how many items both have right
        mcnemar_exact(a - both, b - both) for both in range(max(0, a + b - total), min(a, b) + 1)
    ]
    assert mcnemar_bounds(a, b, total) == pytest.approx((min(pairings), max(pairings)))
