"""When a contrast gets a verdict, and which: the primary alone, the declared family by Holm, the gate beside both."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.multitest import multipletests

from tests.statistics.test_contrast import ALIKE, CONTROL, HIGHER
from tokentrial.statistics.contrast import contrast
from tokentrial.statistics.decision import decide, decide_trends, gate_failure

REASON = "the control's mean accuracy is 0.083"


def with_p(p, **settings):
    """A contrast of six seeds whose paired t gives just this p."""
    d = np.array([-1.0, 1, -1, 1, -1, 1])
    t = stats.t.isf(p / 2, 5)
    return contrast(0.5 + 0.01 * (d + t * d.std(ddof=1) / np.sqrt(6)), [0.5] * 6, **settings)


def verdict(result, **settings):
    return decide(result, [], **settings)[0].verdict


# the primary


def test_helps_and_hurts_follow_the_sign_that_is_better():
    assert verdict(contrast(HIGHER, CONTROL)) == "helps"
    assert verdict(contrast(CONTROL, HIGHER)) == "hurts"
    assert verdict(contrast(CONTROL, HIGHER, higher_is_better=False)) == "helps"  # bits per byte


@given(st.floats(0.001, 0.4), st.floats(0.001, 0.4))
def test_a_difference_is_found_where_p_is_below_the_contrasts_own_alpha(p, alpha):
    result = with_p(p, alpha=alpha)
    assert (verdict(result) == "helps") == (result.p < alpha)


def test_equivalent_only_where_it_was_reached_and_named_by_its_margin():
    widest = max(map(abs, contrast(ALIKE, CONTROL, margin=0.1).equivalence_interval))
    within, beyond = (contrast(ALIKE, CONTROL, margin=widest * k) for k in (1.01, 0.99))
    assert verdict(within) == f"equivalent within {widest * 1.01:g}"
    assert verdict(beyond) == verdict(contrast(ALIKE, CONTROL)) == "no difference shown"
    assert verdict(within, equivalence_alpha=0.01) == "no difference shown"  # tested at the trial's alpha


def test_a_difference_below_the_margin_is_found_and_noted_as_small():
    small = contrast(CONTROL + np.array([0.02, 0.021, 0.018, 0.02, 0.022, 0.019]), CONTROL, margin=0.1)
    found, _ = decide(small, [])
    assert found.verdict == "helps"
    assert "0.1" in found.note


@pytest.mark.parametrize("primary", [None, contrast([0.9], [0.2])])
def test_nothing_is_judged_before_the_primary(primary):
    judged, family = decide(primary, [with_p(1e-6), None])
    assert judged is primary
    assert (family[0].verdict, family[0].p_adjusted, family[1]) == (None, None, None)
    assert family[0].note


# the declared family


@settings(max_examples=25)
@given(st.lists(st.floats(1e-5, 0.3), min_size=1, max_size=8), st.integers(0, 4))
def test_the_family_answers_to_holm_with_what_was_not_measured_as_1(p_values, unmeasured):
    family = [with_p(p) for p in p_values]
    _, judged = decide(with_p(0.5), [*family, *[None] * unmeasured])
    peers = multipletests([*(c.p for c in family), *[1.0] * unmeasured], method="holm")[1]
    assert judged[len(family) :] == [None] * unmeasured
    for c, p in zip(judged[: len(family)], peers[: len(family)], strict=True):
        assert c.p_adjusted == pytest.approx(p)
        assert (c.verdict == "helps") == (c.p_adjusted < 0.05)


def test_ten_declared_and_one_measured_multiplies_its_p_by_ten():
    one = with_p(0.01)
    _, (judged, *_) = decide(with_p(0.5), [one, *[None] * 9])
    assert judged.p_adjusted == pytest.approx(10 * one.p)
    assert judged.verdict == "no difference shown"
    _, (seed_alone, *_) = decide(with_p(0.5), [contrast([0.9], [0.2]), with_p(0.03)])
    assert (seed_alone.verdict, seed_alone.p_adjusted) == (None, None)  # counted, not judged


def test_the_primary_stands_alone_and_a_holm_p_of_alpha_is_not_significant():
    at = replace(with_p(0.025), p=0.025)
    primary, family = decide(with_p(0.04), [at, at])
    assert (primary.verdict, primary.p_adjusted) == ("helps", None)
    assert [(c.p_adjusted, c.verdict) for c in family] == [(0.05, "no difference shown")] * 2


def test_a_small_difference_lost_to_holm_may_still_be_equivalent():
    small = contrast(CONTROL + np.array([0.02, 0.001, 0.022, 0.002, 0.021, 0.011]), CONTROL, margin=0.1)
    assert 0.01 < small.p < 0.05
    _, (lost, *_) = decide(with_p(0.5), [small, *[with_p(0.9)] * 5])
    assert lost.verdict == "equivalent within 0.1"


def test_equivalence_is_corrected_over_the_family_as_declared():
    """Eight seeds of the study, mean 0, sum of squares 36/24^2: t = 2.993, p = 0.01007 one-sided; 5 times that is over
    5 %, 4 times is not."""
    alike = contrast(0.5 + np.array([3, -3, 3, -3, 0, 0, 0, 0]) / 24, [0.5] * 8, margin=0.1)
    assert alike.p_equivalence == pytest.approx(stats.t.sf(0.1 / math.sqrt(36 / 24**2 / 7 / 8), 7))
    assert verdict(alike) == "equivalent within 0.1"  # alone
    untested = contrast(HIGHER, CONTROL)
    for others, expected in (([None, untested, None], "equivalent within 0.1"), ([None] * 4, "no difference shown")):
        primary, (judged, *_) = decide(alike, [alike, *others])
        assert judged.verdict == expected
        assert judged.p_equivalence_adjusted == pytest.approx((1 + len(others)) * alike.p_equivalence)
        assert ("not significant" in judged.note) == (expected == "no difference shown")
        assert (primary.verdict, primary.p_equivalence_adjusted) == ("equivalent within 0.1", None)


@given(st.lists(st.floats(0.03, 0.2), min_size=1, max_size=6), st.integers(0, 3))
def test_equivalence_steps_down_as_holm_does(margins, unmeasured):
    family = [contrast(ALIKE, CONTROL, margin=margin) for margin in margins]
    _, judged = decide(with_p(0.5), [*family, *[None] * unmeasured])
    peers = multipletests([*(c.p_equivalence for c in family), *[1.0] * unmeasured], method="holm")[1]
    for c, p in zip(judged[: len(family)], peers, strict=False):
        assert c.p_equivalence_adjusted == pytest.approx(p)
        assert c.verdict == (f"equivalent within {c.margin:g}" if p < 0.05 else "no difference shown")


# looks


def test_a_look_that_does_not_decide_gives_no_verdict_to_anything():
    primary, family = decide(with_p(0.03, alpha=0.0056), [with_p(1e-6, alpha=0.0056), None], may_go_on=True)
    assert (primary.verdict, family[0].verdict, family[1]) == (None, None, None)
    assert primary.note == family[0].note != ""


def test_an_early_stop_judges_the_family_at_the_looks_level_and_shows_no_equivalence():
    alike = contrast(ALIKE, CONTROL, margin=0.1, alpha=0.0056, equivalence_alpha=0.05)
    declared = with_p(0.005, alpha=0.0056), [with_p(0.001, alpha=0.0056), with_p(0.02, alpha=0.0056), alike]
    primary, family = decide(*declared, may_go_on=True)
    assert [c.verdict for c in (primary, *family)] == ["helps", "helps", *["no difference shown"] * 2]
    assert decide(*declared)[1][2].verdict == "equivalent within 0.1"  # the last look


# the gate


def test_a_control_at_its_floor_withholds_no_difference_and_equivalence_alone():
    """Baseline 1/12 and treatment 12/12: p 2e-6 is found, whatever the baseline knows."""
    floor = 1 / 12
    control = np.array([1, 1, 2, 1, 0, 1]) / 12
    found = contrast(np.ones(6), control, floor=floor, margin=0.1)
    assert found.p == pytest.approx(stats.ttest_rel(np.ones(6), control).pvalue)
    assert found.p < 2e-6
    alike = contrast(ALIKE, CONTROL, margin=0.1, floor=floor)
    unclear = replace(with_p(0.5), floor=floor)
    primary, family = decide(found, [alike, unclear, contrast(ALIKE, CONTROL, margin=0.1)], not_learnt=REASON)
    assert primary.verdict == "helps"
    assert REASON in primary.note
    assert [c.verdict for c in family] == [*["control has not learnt"] * 2, "equivalent within 0.1"]
    assert REASON not in family[2].note  # bits per byte have no floor


def test_the_gate_wants_the_mean_of_both_accuracies():
    assert gate_failure([1.0, 0.2, 0.6], [0.9, 0.0, 0.3]) is None
    assert gate_failure([0.6] * 6, [0.4] * 6) is None  # at least, whatever the round-off
    assert "asked facts is 0.590, below 0.6" in gate_failure([0.59] * 6, [0.9] * 6)
    assert "never-asked facts is 0.390, below 0.4" in gate_failure([0.9] * 6, [0.39] * 6)
    assert gate_failure([0.9], [0.39], never_asked=0.3) is None
    assert gate_failure([0.7] * 3, None) is None  # a trial that asks every fact has one threshold
    assert gate_failure([0.5] * 3, None) is not None
    with pytest.raises(ValueError, match="never-asked"):
        gate_failure([0.9], [])


# the trend over sizes


def of_trend(slope, p, higher_is_better=True, as_declared=True):
    return {"slope": slope, "p": p, "higher_is_better": higher_is_better, "as_declared": as_declared}


def trend_verdicts(*trends, alpha=0.05):
    return [trend["verdict"] for trend in decide_trends(trends, alpha)]


@pytest.mark.parametrize(("slope", "p", "higher_is_better", "expected"), [
    (0.2, 0.01, True, "gains"),
    (-0.2, 0.01, True, "loses"),
    (0.2, 0.01, False, "loses"),  # bits per byte: more of them
    (-0.2, 0.01, False, "gains"),
    (0.2, 0.05, True, "no trend shown"),
    (-0.2, 0.3, False, "no trend shown"),
])  # fmt: skip
def test_a_treatment_gains_or_loses_by_the_sign_that_is_better(slope, p, higher_is_better, expected):
    assert trend_verdicts(of_trend(slope, p, higher_is_better)) == [expected]


def test_other_trends_answer_to_holm_with_what_was_not_measured_as_1():
    untested = [of_trend(1, None), of_trend(1, 0.001, as_declared=False)]
    primary, *family = decide_trends([of_trend(1, 0.04), of_trend(1, 0.02), *untested, of_trend(1, 0.01)], 0.05)
    assert (primary["p_adjusted"], primary["verdict"]) == (0.04, "gains")
    assert [trend["p_adjusted"] for trend in family] == [pytest.approx(0.06), None, None, pytest.approx(0.04)]
    assert [trend["verdict"] for trend in family] == ["no trend shown", None, None, "gains"]
    assert trend_verdicts(of_trend(1, 0.04), of_trend(1, 0.03), of_trend(1, 0.03))[1:] == ["no trend shown"] * 2


def test_no_trend_has_a_verdict_where_the_primary_has_none():
    for primary in (of_trend(1, None), of_trend(1, 0.001, as_declared=False)):
        assert trend_verdicts(primary, of_trend(1, 0.001)) == [None, None]
