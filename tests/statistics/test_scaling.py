"""Trend and compute multiplier: against scipy, against known laws, and by coverage."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from tokentrial.statistics.scaling import multiplier, slopes, summarise

COMPUTE = [1e12, 1e13, 4e13, 2e14]


def test_slopes_are_scipys_regression_by_seed():
    rows = np.random.default_rng(0).normal(size=(5, 4)).cumsum(axis=1)
    expected = [stats.linregress(np.log10(COMPUTE), row).slope for row in rows]
    assert slopes(rows, COMPUTE) == pytest.approx(expected)


@given(st.floats(0.2, 5), st.floats(-0.9, -0.05), st.integers(1, 2), st.integers(2, 6))
def test_of_power_laws_the_multiplier_is_the_known_one(known, exponent, size, number_of_seeds):
    """The arm's outcome is the control's at `known` times the compute; levels differ by seed."""
    levels = np.linspace(1, 3, number_of_seeds)
    compute = np.array([1e12, 1e13, 1e14, 1e15])
    control = levels[:, None] * compute**exponent
    found = multiplier(control, compute, levels * (known * compute[size]) ** exponent, compute[size])
    assert found.by_seed == pytest.approx([known] * number_of_seeds)
    assert found.mean == pytest.approx(known)


def test_the_order_of_the_sizes_does_not_count():
    control, shuffled = np.array([[3.0, 2.0, 1.5, 1.4]]), [2, 0, 3, 1]
    expected = multiplier(control, COMPUTE, [1.7], 1e13)
    found = multiplier(control[:, shuffled], np.array(COMPUTE)[shuffled], [1.7], 1e13)
    assert found == expected


@pytest.mark.parametrize(
    ("line", "outcome"),
    [
        ([3.0, 2.0, 1.5, 1.4], 3.1),  # worse than the smallest size
        ([3.0, 2.0, 1.5, 1.4], 1.3),  # better than the largest
        ([3.0, 2.0, 2.5, 1.4], 2.2),  # passed three times
        ([2.0, 2.0, 2.0, 2.0], 2.0),  # everywhere
        ([3.0, 2.0, 1.5, 0.0], 1.7),  # a loss of 0 has no logarithm
    ],
)
def test_nothing_is_extrapolated_and_no_crossing_is_chosen(line, outcome):
    found = multiplier([line, [3.0, 2.0, 1.5, 1.4]], COMPUTE, [outcome, 1.7], 1e13)
    assert found.by_seed[0] is None
    assert found.by_seed[1] is not None
    assert (found.mean, found.ci95) == (None, None)


@pytest.mark.parametrize(("outcome", "at"), [(3.0, 1e12), (2.0, 1e13), (1.4, 2e14)])
def test_a_size_itself_is_passed_once(outcome, at):
    assert multiplier([[3.0, 2.0, 1.5, 1.4]], COMPUTE, [outcome], 1e13).by_seed == pytest.approx([at / 1e13])


@pytest.mark.parametrize("known", [0.5, 1.0, 2.0])
def test_its_interval_covers_a_known_multiplier(known):
    """1,000 ladders of six seeds: noise of the level by seed, shared by both arms, and of each cell."""
    rng, compute, exponent, trials = np.random.default_rng(7), np.array([1e12, 1e13, 1e14, 1e15]), -0.1, 1000
    covered = 0
    for _ in range(trials):
        level = np.exp(rng.normal(0, 0.05, (6, 1)))
        control = level * compute**exponent * np.exp(rng.normal(0, 0.005, (6, 4)))
        treatment = (level[:, 0] * (known * compute[2]) ** exponent) * np.exp(rng.normal(0, 0.005, 6))
        low, high = multiplier(control, compute, treatment, compute[2]).ci95
        covered += low <= known <= high
    assert 0.93 <= covered / trials <= 0.97


@pytest.mark.parametrize("difference", [-1.0, 0.1, 1 / 3])
def test_a_difference_that_is_the_same_at_every_size_has_no_slope(difference):
    assert slopes([[difference] * 4, [difference + 1e-16] * 4], [1.3e12, 2.1e13, 1.7e14, 1.1e15]) == [0.0, 0.0]


def test_ratios_are_summarised_on_their_logarithm():
    assert summarise([0.5, 2.0]).mean == pytest.approx(1.0)
    assert summarise([2.0, None]).ci95 is None
    assert summarise([2.0]) == ([2.0], pytest.approx(2.0), None)


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (([[0.1]], [1e12]), "two sizes"),
        (([[0.1, 0.2]], [1e12, 1e12]), "two sizes"),
        (([[0.1, 0.2], [0.1]], [1e12, 1e13]), "by seed"),
        (([[0.1, 0.2]], [0, 1e13]), "above 0"),
    ],
)
def test_what_has_no_trend_is_refused(arguments, what):
    with pytest.raises(ValueError, match=what):
        slopes(*arguments)
