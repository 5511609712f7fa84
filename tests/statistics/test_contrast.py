"""One contrast: the paired t and its interval, equivalence, what is undefined, what is refused."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from tokentrial.statistics.contrast import contrast
from tokentrial.statistics.paired import crossed_interval
from tokentrial.statistics.power import mde

CONTROL = np.array([0.50, 0.57, 0.87, 0.61, 0.44, 0.70])
HIGHER = CONTROL + np.array([0.30, 0.25, 0.10, 0.28, 0.33, 0.21])
ALIKE = CONTROL + np.array([0.01, -0.02, 0.015, -0.01, 0.02, -0.012])

scores = st.lists(st.floats(0, 1, allow_subnormal=False), min_size=6, max_size=6)
levels = st.floats(0.0005, 0.4)


def test_the_record_is_scipys_paired_t_by_seed():
    result, theirs = contrast(HIGHER, CONTROL, seeds=range(1, 7)), stats.ttest_rel(HIGHER, CONTROL)
    assert (result.test, result.seeds, result.verdict) == ("paired_t", [1, 2, 3, 4, 5, 6], None)
    assert result.p == pytest.approx(theirs.pvalue)
    assert result.interval == pytest.approx(list(theirs.confidence_interval(0.95)))
    assert result.differences == pytest.approx(list(HIGHER - CONTROL))
    assert (result.treatment_mean, result.control_sd) == pytest.approx((HIGHER.mean(), np.std(CONTROL, ddof=1)))
    assert result.detectable == pytest.approx(mde(np.std(HIGHER - CONTROL, ddof=1), 6))
    assert (result.p_sign_flip, result.sign_flip_is_exact) == (0.03125, True)


@given(scores, levels)
def test_the_interval_leaves_out_zero_exactly_where_p_is_below_alpha(treatment, alpha):
    result = contrast(treatment, CONTROL, alpha=alpha)
    if result.test == "paired_t" and abs(result.p - alpha) > 1e-9:
        assert (result.p < alpha) == (not result.interval[0] <= 0 <= result.interval[1])


@given(scores, levels, st.floats(0.01, 1))
def test_equivalence_is_the_interval_at_1_minus_2_alpha_within_the_margin(treatment, alpha, margin):
    result = contrast(treatment, CONTROL, alpha=0.001, margin=margin, equivalence_alpha=alpha)
    if result.p_equivalence is not None and abs(result.p_equivalence - alpha) > 1e-9:
        assert (result.p_equivalence < alpha) == (max(map(abs, result.equivalence_interval)) < margin)
        assert result.equivalence_interval == pytest.approx(
            list(stats.ttest_rel(treatment, CONTROL).confidence_interval(1 - 2 * alpha))
        )


def test_a_margin_that_these_seeds_cannot_show_is_noted_unless_it_was_shown():
    """Six seeds whose differences have sd 0.1 show 0.143 with 80 % power (1.43 sd, docs/science.md)."""
    d = np.array([1, -1, 1, -1, 1, -1]) * 0.1 / np.sqrt(1.2)
    at = {margin: contrast(CONTROL + d, CONTROL, margin=margin) for margin in (0.05, 0.14, 0.15)}
    assert [bool(result.note) for result in at.values()] == [True, False, False]
    assert (at[0.05].p_equivalence < 0.05, at[0.14].p_equivalence < 0.05) == (False, True)  # 0.14 by luck


def test_the_detectable_difference_is_that_of_this_alpha():
    sd = np.std(HIGHER - CONTROL, ddof=1)
    assert contrast(HIGHER, CONTROL, alpha=0.01).detectable == pytest.approx(mde(sd, 6, 0.01))


@pytest.mark.parametrize("bound", [{"floor": 0.02}, {"ceiling": 0.11}])
def test_equivalence_is_refused_where_both_arms_lie_at_floor_or_ceiling(bound):
    near, far = [0.05, 0.04, 0.06, 0.05, 0.03, 0.07], [0.06, 0.03, 0.05, 0.06, 0.04, 0.06]
    assert contrast(near, far, margin=0.08).p_equivalence < 0.05
    assert contrast(near, far, margin=0.08, **bound).p_equivalence is None
    low, lifted = [0.04, 0.05, 0.06, 0.05], [0.11, 0.13, 0.10, 0.14]
    assert contrast(lifted, low, margin=0.1, floor=0.01).p_equivalence is not None  # 0.12 > floor + margin


def test_where_every_seed_differs_by_the_same_the_sign_flip_decides():
    six, five = (contrast(CONTROL[:n] + 0.1, CONTROL[:n], margin=0.1) for n in (6, 5))
    assert (six.test, six.p) == ("sign_flip", 0.03125)
    assert (five.test, five.p) == ("sign_flip", 0.0625)
    assert six.interval is six.equivalence_interval is six.detectable is six.p_equivalence is None


def test_round_off_is_no_difference():
    assert contrast(np.full(6, 0.1 + 0.2), np.full(6, 0.3)).p == 1
    assert contrast(np.full(6, 0.3 + 3e-9), np.full(6, 0.3)).p == 0.03125  # small, and more than round-off


def test_one_seed_has_no_p_and_no_interval():
    result = contrast([0.9], [0.2], margin=0.1)
    assert (result.p, result.interval, result.p_equivalence, result.treatment_sd) == (None, None, None, None)


def test_two_seeds_have_a_spread():
    result = contrast([0.9, 0.8], [0.2, 0.4])
    assert (result.treatment_sd, result.control_sd) == pytest.approx((0.1 / np.sqrt(2), 0.2 / np.sqrt(2)))


def test_beyond_20_seeds_signs_are_drawn_and_the_record_says_so():
    result = contrast(np.linspace(0.6, 0.9, 21), np.linspace(0.5, 0.85, 21), rng=np.random.default_rng(0))
    assert (result.p_sign_flip, result.sign_flip_is_exact) == (pytest.approx(1 / 100_001), False)


def test_the_interval_over_facts_stands_beside_the_one_over_seeds():
    by_fact = np.random.default_rng(0).normal(0.2, 0.3, (6, 12))
    result = contrast(CONTROL + by_fact.mean(axis=1), CONTROL, by_fact=by_fact)
    assert result.facts_interval == pytest.approx(list(crossed_interval(by_fact).interval))
    assert contrast(CONTROL + 0.1, CONTROL, by_fact=np.full((6, 12), 0.1)).facts_interval is None  # no spread


@pytest.mark.parametrize(
    ("treatment", "control", "settings", "found"),
    [
        (HIGHER[:5], CONTROL, {}, "5 of treatment, 6 of control"),
        *((HIGHER, CONTROL, {"alpha": alpha}, f"alpha: found {alpha}") for alpha in (0, 1, 5)),
        (HIGHER, [0.1, 0.1, np.inf, 0.1, 0.1, 0.1], {}, "^control: found inf at position 2"),
        ([0.1, np.nan, 0.1, 0.1, 0.1, 0.1], CONTROL, {}, "treatment: found nan at position 1"),
        (np.linspace(0, 1, 21), np.zeros(21), {}, "21 seeds"),
        (HIGHER, CONTROL, {"by_fact": np.full((6, 12), 0.1)}, "by_fact"),  # of another outcome
        (CONTROL + 0.1, CONTROL, {"by_fact": np.full((5, 12), 0.1)}, "by_fact"),
    ],
)
def test_what_cannot_be_compared_is_refused(treatment, control, settings, found):
    with pytest.raises(ValueError, match=found):
        contrast(treatment, control, **settings)
