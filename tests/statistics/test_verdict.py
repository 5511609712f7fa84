"""What a trial may say, and when: the rules from scores to words."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from tokentrial.statistics.paired import crossed_interval, paired_t
from tokentrial.statistics.power import mde
from tokentrial.statistics.verdict import combine_budgets, contrast, decide, freeze, gate_failure

CONTROL = np.array([0.50, 0.57, 0.87, 0.61, 0.44, 0.70])
HIGHER = CONTROL + np.array([0.30, 0.25, 0.10, 0.28, 0.33, 0.21])
ALIKE = CONTROL + np.array([0.01, -0.02, 0.015, -0.01, 0.02, -0.012])
SCATTERED = CONTROL + np.array([0.30, -0.35, 0.10, -0.28, 0.33, -0.05])


def judged(treatment, control=CONTROL, **settings):
    return contrast(treatment, control, **{"margin": 0.1, "alpha": 0.05, "declared": True, **settings})


def with_p(p):
    """A contrast of six seeds whose paired t gives just this p."""
    d = np.array([-1.0, 1, -1, 1, -1, 1])
    t = stats.t.isf(p / 2, 5)
    return judged(0.5 + 0.01 * (d + t * d.std(ddof=1) / np.sqrt(6)), [0.5] * 6, margin=None)


# one contrast


def test_helps_and_hurts_follow_the_paired_t():
    up, down = judged(HIGHER), judged(CONTROL, HIGHER)
    assert (up.verdict, down.verdict) == ("helps", "hurts")
    assert (up.test, up.n_seeds) == ("paired_t", 6)
    assert up.p == pytest.approx(stats.ttest_rel(HIGHER, CONTROL).pvalue)
    assert up.difference == pytest.approx(0.245) == -down.difference
    assert up.mde80 == pytest.approx(mde(np.std(HIGHER - CONTROL, ddof=1), 6))
    assert up.correlation == pytest.approx(np.corrcoef(HIGHER, CONTROL)[0, 1])
    fallen = judged(CONTROL, HIGHER, higher_is_better=False)  # bits per byte help by falling
    assert (fallen.verdict, fallen.difference) == ("helps", down.difference)  # the difference keeps its sign
    exploratory = judged(HIGHER, declared=False)
    assert (exploratory.verdict, exploratory.p, exploratory.note) == (None, up.p, "exploratory")


def test_equivalent_names_its_margin():
    without = judged(ALIKE, margin=None)
    assert (without.verdict, without.p_tost, without.margin) == ("no difference shown", None, None)
    out_of_reach = judged(SCATTERED)
    assert out_of_reach.verdict == "no difference shown"
    assert "equivalence within 0.1 is out of reach" in out_of_reach.note
    assert judged(ALIKE).verdict == "equivalent within 0.1"
    assert judged(ALIKE, margin=0.05).verdict == "equivalent within 0.05"
    small = judged(CONTROL + np.array([0.02, 0.021, 0.018, 0.02, 0.022, 0.019]))
    assert (small.verdict, small.note) == ("helps", "smaller than the smallest effect that matters, 0.1")
    widest = max(map(abs, judged(ALIKE).ci90))
    assert judged(ALIKE, margin=widest * 1.01).verdict.startswith("equivalent within")
    assert judged(ALIKE, margin=widest * 0.99).verdict == "no difference shown"


@pytest.mark.parametrize("bound", [{"floor": 0.02}, {"ceiling": 0.11}])
def test_at_floor_or_ceiling_nothing_is_equivalent(bound):
    near, far = [0.05, 0.04, 0.06, 0.05, 0.03, 0.07], [0.06, 0.03, 0.05, 0.06, 0.04, 0.06]
    assert judged(near, far, margin=0.08).verdict == "equivalent within 0.08"
    result = judged(near, far, margin=0.08, **bound)
    assert (result.verdict, result.p_tost) == ("no difference shown", None)
    assert "equivalence not tested: both arms lie at the floor or ceiling" in result.note.split("; ")
    low, lifted = np.array([0.04, 0.05, 0.06, 0.05]), np.array([0.11, 0.13, 0.10, 0.14])
    assert judged(lifted, low, margin=0.1, floor=0.01).p_tost is not None  # 0.12 > floor + margin: room enough


def test_the_same_difference_at_every_seed_is_decided_by_the_sign_flip():
    six, five = judged(CONTROL + 0.1), judged(CONTROL[:5] + 0.1, CONTROL[:5])
    assert (six.test, six.p, six.verdict) == ("sign_flip", 0.03125, "helps")
    assert (five.test, five.p, five.verdict) == ("sign_flip", 0.0625, "no difference shown")
    assert six.ci95 is six.ci90 is six.mde80 is six.p_tost is None
    decides = "every seed differs by the same amount: the sign-flip test decides"
    assert six.note == decides
    assert five.note == f"{decides}; equivalence not tested: no spread between the seeds (s = 0)"


def test_round_off_is_no_difference():
    assert judged(np.full(6, 0.1 + 0.2), np.full(6, 0.3)).verdict == "no difference shown"
    assert judged(np.full(6, 0.3 + 3e-9), np.full(6, 0.3)).verdict == "helps"  # small, and more than round-off
    assert (judged(CONTROL).difference, judged(CONTROL).p) == (0, 1)


def test_one_seed_an_arm_gets_no_verdict():
    result = judged([0.9], [0.2])
    assert (result.verdict, result.p, result.ci95) == (None, None, None)
    assert result.note == "these two models differ; one seed each"
    assert judged([0.2], [0.2]).note == "one seed each"


@given(st.lists(st.floats(0, 1, allow_subnormal=False), min_size=6, max_size=6))
def test_a_verdict_of_a_difference_is_an_interval_without_zero(treatment):
    result = judged(treatment)
    if result.test == "paired_t" and abs(result.p - 0.05) > 1e-9:
        assert (result.verdict in ("helps", "hurts")) == (not result.ci95[0] <= 0 <= result.ci95[1])


def test_alpha_is_the_trials_own():
    assert with_p(0.03).verdict == "helps"
    t = paired_t(HIGHER - CONTROL)
    assert judged(HIGHER, alpha=t.p * 1.01).verdict == "helps"
    assert judged(HIGHER, alpha=t.p * 0.99).verdict == "no difference shown"
    assert judged(HIGHER, alpha=0.01).mde80 == mde(t.sd, 6, 0.01)


def test_beyond_20_seeds_the_sign_flip_draws_from_the_rng_it_is_given():
    result = judged(np.linspace(0.6, 0.9, 21), np.linspace(0.5, 0.85, 21), rng=np.random.default_rng(0))
    assert result.p_sign_flip == pytest.approx(1 / 100_001)


def test_the_interval_over_facts_stands_beside_the_one_over_seeds():
    by_fact = np.random.default_rng(0).normal(0.2, 0.3, (6, 12))
    result = judged(CONTROL + by_fact.mean(axis=1), by_fact=by_fact)
    assert result.facts_ci95 == pytest.approx(crossed_interval(by_fact).ci95)
    refused = judged(CONTROL + 0.1, by_fact=np.full((6, 12), 0.1))
    assert refused.facts_ci95 is None
    assert "no interval over facts: no spread" in refused.note


def test_facts_of_another_outcome_are_refused():
    with pytest.raises(ValueError, match="by_fact"):
        judged(HIGHER, by_fact=np.random.default_rng(0).normal(0.2, 0.3, (6, 12)))
    with pytest.raises(ValueError, match="by_fact"):
        judged(CONTROL + 0.1, by_fact=np.full((5, 12), 0.1))


@pytest.mark.parametrize(
    ("treatment", "settings", "found"),
    [
        (HIGHER[:5], {}, "5 of treatment, 6 of control"),
        *((HIGHER, {"alpha": alpha}, f"alpha: found {alpha}") for alpha in (0, 1, 1.5, 5)),
        (HIGHER, {"control": [0.1, 0.1, np.inf, 0.1, 0.1, 0.1]}, "^control: found inf at position 2"),
        ([0.1, np.nan, 0.1, 0.1, 0.1, 0.1], {}, "treatment: found nan at position 1"),
        (np.linspace(0, 1, 21), {"control": np.zeros(21)}, "21 seeds"),
    ],
)
def test_what_cannot_be_paired_is_refused(treatment, settings, found):
    with pytest.raises(ValueError, match=found):
        judged(treatment, **settings)


# the declared family


def test_secondary_outcomes_answer_to_holm_and_the_primary_does_not():
    primary, secondary = decide(with_p(0.04), [with_p(p) for p in (0.03, 0.001, 0.02)], alpha=0.05)
    assert (primary.verdict, primary.p_holm) == ("helps", None)
    assert [c.p_holm for c in secondary] == pytest.approx([0.04, 0.003, 0.04])
    assert [c.verdict for c in secondary] == ["helps"] * 3

    _, secondary = decide(with_p(0.04), [with_p(p) for p in (0.04, 0.001, 0.03)], alpha=0.05)
    assert [c.p_holm for c in secondary] == pytest.approx([0.06, 0.003, 0.06])
    assert [c.verdict for c in secondary] == ["no difference shown", "helps", "no difference shown"]
    assert "not significant among 3 secondary outcomes (Holm p = 0.06)" in secondary[0].note

    at = replace(with_p(0.025), p=0.025)  # a Holm p of alpha itself is not significant
    _, secondary = decide(with_p(0.04), [at, at], alpha=0.05)
    assert [(c.p_holm, c.verdict) for c in secondary] == [(0.05, "no difference shown")] * 2


def test_a_small_difference_lost_to_holm_may_still_be_equivalent():
    small = judged(CONTROL + np.array([0.02, 0.001, 0.022, 0.002, 0.021, 0.011]))
    assert small.verdict == "helps"
    assert 0.01 < small.p < 0.05
    _, (lost, *_) = decide(with_p(0.5), [small, *[with_p(0.9)] * 5], alpha=0.05)
    assert lost.verdict == "equivalent within 0.1"


def test_a_baseline_that_has_not_learnt_overrules_every_verdict():
    reason = gate_failure([0.3] * 6, [0.2] * 6)
    primary, secondary = decide(with_p(0.001), [with_p(0.001), judged(ALIKE)], alpha=0.05, not_learnt=reason)
    assert {c.verdict for c in (primary, *secondary)} == {"baseline has not learnt"}
    assert (primary.note, secondary[1].note) == (reason, f"{judged(ALIKE).note}; {reason}".removeprefix("; "))


# the gate


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


# two budgets


@pytest.mark.parametrize(
    ("tokens", "in_bytes", "together"),
    [
        ("helps", "helps", "helps"),
        ("helps", "hurts", "depends on the budget rule"),
        ("helps", "no difference shown", "faster"),
        ("helps", "equivalent within 0.1", "faster"),
        ("hurts", "no difference shown", "slower"),
        ("equivalent within 0.1", "equivalent within 0.1", "equivalent within 0.1"),
        ("equivalent within 0.1", "no difference shown", "no difference shown"),
        ("helps", "baseline has not learnt", "baseline has not learnt"),
    ],
)
def test_two_budgets_make_one_verdict_in_either_order(tokens, in_bytes, together):
    assert combine_budgets(tokens, in_bytes) == combine_budgets(in_bytes, tokens) == together


# what was declared

DECLARED = {
    "primary": {"outcome": "pretrain/mul_table/never_asked/accuracy", "contrast": "mul_tokens - baseline"},
    "secondary": ["asked", "choice_logprob"],
    "seeds": (1, 2, 3, 4, 5, 6),
    "alpha": 0.05,
    "smallest_effect": 0.10,
}


def test_a_declaration_freezes_as_it_stands_and_asks_again_in_peace():
    frozen, departures = freeze(DECLARED)
    assert (frozen["seeds"], departures) == ([1, 2, 3, 4, 5, 6], [])
    assert freeze(DECLARED, frozen) == (frozen, [])
    assert freeze({**DECLARED, "seeds": [6, 5, 4, 3, 2, 1]}, frozen) == (frozen, [])  # order says nothing


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"seeds": [1, 2, 3, 4, 5, 6, 7, 8]}, ["seeds: 7 added", "seeds: 8 added"]),
        ({"seeds": [1, 2, 3, 4, 5]}, ["seeds: 6 left out"]),
        ({"secondary": ["asked", "choice_logprob", "gsm8k"]}, ["secondary: gsm8k added"]),
        ({"alpha": 0.1}, ["alpha: 0.1 for 0.05"]),
        ({"primary": {"outcome": "asked"}}, ["primary: {'outcome': 'asked'} for"]),
        ({"test": "sign_flip"}, ["test: sign_flip for None"]),
    ],
)
def test_what_changes_after_a_look_is_exploratory_and_the_frozen_declaration_stands(change, named):
    frozen, _ = freeze(DECLARED)
    still, departures = freeze({**DECLARED, **change}, frozen)
    assert still == frozen
    assert len(departures) == len(named)
    for line, part in zip(departures, named, strict=True):
        assert line.startswith("extended after a look: exploratory")
        assert part in line
