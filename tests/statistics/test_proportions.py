"""Exact tests and score intervals of two models agree with scipy, statsmodels and the printed examples."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.proportion import confint_proportions_2indep, proportion_confint

from tokentrial.statistics.proportions import (
    fisher_exact,
    mcnemar_bounds,
    mcnemar_exact,
    mde_independent,
    mde_paired,
    newcombe_independent,
    newcombe_paired,
    wilson,
)

totals = st.integers(1, 200)
fourfold = st.tuples(*[st.integers(0, 60)] * 4).filter(any)


@st.composite
def two_counts(draw):
    n_a, n_b = draw(totals), draw(totals)
    return draw(st.integers(0, n_a)), n_a, draw(st.integers(0, n_b)), n_b


@given(two_counts())
def test_wilson_is_statsmodels(counts):
    a, n_a, _, _ = counts
    assert wilson(a, n_a) == pytest.approx(proportion_confint(a, n_a, method="wilson"), abs=1e-9)


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


@given(two_counts())
def test_newcombe_is_statsmodels(counts):
    theirs = confint_proportions_2indep(*counts, method="newcomb", compare="diff")
    assert newcombe_independent(*counts) == pytest.approx(theirs, abs=1e-9)


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


def test_five_of_81_against_none_is_not_significant():
    assert mcnemar_exact(5, 0) == 0.0625


def test_newcombes_paired_interval_by_hand():
    """36 both, 12 and 2 one alone, none neither: Newcombe's (1998) method 10 step by step."""
    z = stats.norm.isf(0.025)

    def score(x, n=50):
        centre, half = 2 * x + z**2, z * np.sqrt(z**2 + 4 * x * (1 - x / n))
        return (centre - half) / (2 * (n + z**2)), (centre + half) / (2 * (n + z**2))

    (low_a, high_a), (low_b, high_b) = score(48), score(38)
    phi = (36 * 0 - 12 * 2) / np.sqrt(48 * 2 * 38 * 12)  # negative: no continuity correction
    down, up = (0.96 - low_a, high_b - 0.76), (high_a - 0.96, 0.76 - low_b)
    expected = (
        0.20 - np.sqrt(down[0] ** 2 - 2 * phi * down[0] * down[1] + down[1] ** 2),
        0.20 + np.sqrt(up[0] ** 2 - 2 * phi * up[0] * up[1] + up[1] ** 2),
    )
    assert newcombe_paired(36, 12, 2, 0) == pytest.approx(expected)


def test_pairs_that_go_together_make_the_interval_narrower():
    (low, high), (low_free, high_free) = newcombe_paired(40, 10, 5, 45), newcombe_independent(50, 100, 45, 100)
    assert low_free < low < 0.05 < high < high_free


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


@given(st.integers(1, 25).flatmap(lambda n: st.tuples(st.integers(0, n), st.integers(0, n), st.just(n))))
def test_the_bounds_hold_every_pairing(counts):
    a, b, total = counts
    pairings = [  # by how many items both have right
        mcnemar_exact(a - both, b - both) for both in range(max(0, a + b - total), min(a, b) + 1)
    ]
    assert mcnemar_bounds(a, b, total) == pytest.approx((min(pairings), max(pairings)))


# what so many items can show


@pytest.mark.parametrize(("p", "n"), [(0.1, 200), (0.5, 1319)])
def test_the_difference_of_totals_is_found_in_about_80_percent(p, n):
    """By simulation of the score test whose power the formula is."""
    rng, effect = np.random.default_rng(1), mde_independent(p, n, n)
    a, b = rng.binomial(n, p + effect, 20_000), rng.binomial(n, p, 20_000)
    pooled = (a + b) / (2 * n)
    z = (a - b) / np.sqrt(2 * n * pooled * (1 - pooled) + 1e-12)
    assert np.mean(np.abs(z) > 1.96) == pytest.approx(0.80, abs=0.05)


def test_over_none_right_the_difference_is_found_by_fishers_test_itself():
    least = next(k for k in range(82) if fisher_exact(k, 81, 0, 81) < 0.05)
    assert least == 6
    assert stats.binom.sf(least - 1, 81, mde_independent(0.0, 81, 81)) == pytest.approx(0.80, abs=0.05)


@pytest.mark.parametrize(("discordant", "n"), [(60, 300), (200, 1319)])
def test_the_difference_of_paired_items_is_found_in_about_80_percent(discordant, n):
    rng, effect = np.random.default_rng(2), mde_paired(discordant, n)
    share = discordant / n
    only = rng.multinomial(n, [(share + effect) / 2, (share - effect) / 2, 1 - share], 20_000)
    z = (only[:, 0] - only[:, 1]) / np.sqrt(only[:, 0] + only[:, 1])
    assert np.mean(np.abs(z) > 1.96) == pytest.approx(0.80, abs=0.03)


def test_a_fall_is_found_like_the_rise_of_the_wrong_ones():
    assert mde_independent(0.9, 81, 81) == mde_independent(0.1, 81, 81)


def test_connors_formula_at_the_effect_that_is_found():
    """z.975 sqrt(share) + z.80 sqrt(share - effect^2) = effect sqrt(n)."""
    effect, share, n = mde_paired(20, 100), 0.2, 100
    assert 1.959964 * share**0.5 + 0.841621 * (share - effect**2) ** 0.5 == pytest.approx(effect * n**0.5, rel=1e-5)


def test_the_smallest_tables_that_can_show_anything():
    assert mcnemar_exact(6, 0) < 0.05 < mcnemar_exact(6, 1)
    assert mde_paired(0, 6) is not None
    assert fisher_exact(4, 4, 0, 4) < 0.05 < fisher_exact(4, 4, 1, 4)
    assert mde_independent(0.0, 4, 4) is not None


def test_six_discordant_items_on_one_side_are_the_least_that_mcnemar_shows():
    assert mcnemar_exact(5, 0) > 0.05 > mcnemar_exact(6, 0)
    assert mde_paired(0, 81) * 81 > 6
    assert mde_paired(0, 5) is None
    assert mde_independent(0.5, 2, 2) is None


def test_where_even_all_right_would_be_missed_too_often_nothing_is_detectable():
    """Four against four at 2 in 4: all right is 0.5 above, and the normal formula asks 0.8 of it."""
    assert fisher_exact(4, 4, 0, 4) < 0.05
    assert mde_independent(0.5, 4, 4) is None
