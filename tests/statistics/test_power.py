"""Planning figures agree with the printed table, with statsmodels, and with each other."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from statsmodels.stats.power import TTestPower

from tokentrial.statistics.power import mde, planning_sd, power, sd_interval, seeds_needed


@pytest.mark.parametrize(
    ("n", "printed", "places"),
    [(3, 3.26, 2), (4, 2.13, 2), (5, 1.68, 2), (6, 1.435, 3), (8, 1.156, 3), (10, 0.996, 3), (20, 0.660, 3)],
)
def test_the_printed_table_of_minimum_detectable_effects(n, printed, places):
    assert round(mde(1.0, n), places) == printed
    assert mde(0.25, n) == pytest.approx(0.25 * mde(1.0, n))


@pytest.mark.parametrize("n", [2, 3, 4, 6, 10, 30])
@pytest.mark.parametrize("alpha", [0.05, 0.01])
def test_the_mde_is_the_effect_found_with_the_power_asked(n, alpha):
    for wanted in (0.5, 0.8, 0.95):
        assert power(mde(0.2, n, alpha, wanted), 0.2, n, alpha) == pytest.approx(wanted, abs=1e-8)


@pytest.mark.parametrize(("effect", "n"), [(0.5, 6), (1.435, 6), (1.0, 20), (-0.8, 12)])
def test_power_is_statsmodels(effect, n):
    assert power(effect, 1.0, n) == pytest.approx(TTestPower().power(effect, n, 0.05), abs=1e-9)


@given(st.floats(-1e9, 1e9), st.integers(2, 40))
def test_power_is_a_chance_at_every_effect(effect, n):
    chance = power(effect, 1.0, n)
    assert 0.05 - 1e-9 <= chance <= 1 + 1e-9  # false of NaN, which nct.cdf gives far out


@pytest.mark.parametrize(("sd", "n"), [(0.0, 6), (0.3, 1)])
def test_what_has_no_spread_or_no_second_seed_has_no_power(sd, n):
    assert mde(sd, n) is None
    assert power(0.1, sd, n) is None


@pytest.mark.parametrize("effect", [0.1, 0.25, 0.6, 2.0])
def test_seeds_needed_are_the_fewest(effect):
    n = seeds_needed(effect, 0.25)
    assert power(effect, 0.25, n) >= 0.8
    assert n == 2 or power(effect, 0.25, n - 1) < 0.8


def test_seeds_needed_may_be_out_of_reach():
    assert seeds_needed(0.001, 0.25) is None
    assert seeds_needed(0.0, 0.25) is None
    assert seeds_needed(0.1, 0.0) is None
    assert seeds_needed(0.1, 0.25, most=seeds_needed(0.1, 0.25)) is not None
    assert seeds_needed(0.1, 0.25, most=seeds_needed(0.1, 0.25) - 1) is None


def test_the_sd_of_six_seeds_is_known_from_x_062_to_x_245():
    assert tuple(round(x, 2) for x in sd_interval(1.0, 6)) == (0.62, 2.45)
    assert sd_interval(0.3, 1) is None
    # of two seeds chi2 is a normal deviate squared: its 2.5 % points are 0.0313 and 2.2414 squared
    assert sd_interval(1.0, 2) == pytest.approx((1 / 2.2414, 1 / 0.03134), rel=1e-3)


@pytest.mark.parametrize("n", [2, 3, 6, 20])
def test_the_planning_sd_is_above_the_true_one_in_four_pilots_of_five(n):
    """Of however many seeds: 1.46 times the sd is so at six seeds alone."""
    pilots = np.random.default_rng(n).normal(0, 0.3, (20_000, n)).std(axis=1, ddof=1)
    factor = planning_sd(1.0, n)
    assert np.mean(factor * pilots >= 0.3) == pytest.approx(0.8, abs=0.01)
    assert planning_sd(0.3, n) == pytest.approx(0.3 * factor)


def test_an_sd_that_is_known_stands():
    assert planning_sd(0.3, None) == 0.3


@pytest.mark.parametrize(
    ("call", "found"),
    [
        (lambda: mde(-0.1, 6), "-0.1"),
        (lambda: power(0.1, float("nan"), 6), "nan"),
        (lambda: mde(0.1, 6, alpha=0), "0 and 0.8"),
        (lambda: mde(0.1, 6, power=1), "0.05 and 1"),
        (lambda: mde(0.1, 6, power=0.05), "0.05 and 0.05"),
        (lambda: seeds_needed(0.1, 0.2, power=80), "80"),
        (lambda: sd_interval(0.1, 6, level=95), "-94"),
    ],
)
def test_settings_out_of_range_are_refused(call, found):
    with pytest.raises(ValueError, match=found):
        call()
