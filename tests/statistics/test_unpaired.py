"""Seeds that do not pair: Welch's t is scipy's, the single case is that of Crawford and Howell."""

import numpy as np
import pytest
from scipy import stats

from tokentrial.statistics.power import mde
from tokentrial.statistics.unpaired import unpaired_t

A, B = [0.74, 0.35, 0.13, 0.04, 0.26], [0.96, 0.87, 1.00, 0.87]


def test_welch_is_scipys():
    ours, theirs = unpaired_t(A, B), stats.ttest_ind(A, B, equal_var=False)
    assert ours.p == pytest.approx(theirs.pvalue)
    assert ours.ci95 == pytest.approx(tuple(theirs.confidence_interval(0.95)))
    assert ours.difference == pytest.approx(np.mean(A) - np.mean(B))


def test_swapping_the_arms_negates_the_difference_and_keeps_p():
    one, other = unpaired_t(A, B), unpaired_t(B, A)
    assert (one.p, one.mde80) == pytest.approx((other.p, other.mde80))
    assert one.difference == -other.difference
    assert one.ci95 == pytest.approx((-other.ci95[1], -other.ci95[0]))


def test_a_single_model_is_one_more_draw_from_the_arm():
    """t = (x - mean) / (s sqrt(1 + 1/n)) with n - 1 degrees of freedom."""
    made = unpaired_t([0.95], A)
    t = (0.95 - np.mean(A)) / (np.std(A, ddof=1) * np.sqrt(1 + 1 / 5))
    assert made.p == pytest.approx(2 * stats.t.sf(abs(t), 4))
    assert made.difference == pytest.approx(0.95 - np.mean(A))
    assert (made.p < 0.05) == (not made.ci95[0] <= 0 <= made.ci95[1])


def test_the_detectable_effect_is_that_of_the_noncentral_t():
    """Six against one: as of one sample whose sd is s sqrt(1 + 1/6) sqrt(6)."""
    x = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]
    as_paired = np.std(x, ddof=1) * np.sqrt(1 + 1 / 6) * np.sqrt(6)
    assert unpaired_t([0.0], x).mde80 == pytest.approx(mde(as_paired, 6))


def test_without_spread_there_is_a_difference_and_no_test():
    assert (unpaired_t([0.5, 0.5], [0.2, 0.2]).p, unpaired_t([0.5], [0.2, 0.2]).p) == (None, None)
    assert unpaired_t([0.5, 0.5], [0.2, 0.2]).difference == pytest.approx(0.3)


def test_what_is_no_sample_is_refused():
    with pytest.raises(ValueError, match=r"^seeds: found one on each side, expected two or more"):
        unpaired_t([0.1], [0.2])
    with pytest.raises(ValueError, match=r"^a: found nan"):
        unpaired_t([0.1, float("nan")], [0.2, 0.3])
    with pytest.raises(ValueError, match=r"^b: found inf"):
        unpaired_t([0.1, 0.2], [0.2, float("inf")])
