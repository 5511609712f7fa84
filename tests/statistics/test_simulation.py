"""The rules hold what they promise when a trial is run thousands of times on arms of known truth. How often rules that
are not ours would fail, such as McNemar over the items of all seeds, is simulated in `benchmarks/simulations.py`.

A simulated trial has 6 seeds and 36 items; an arm's seed answers an item with a chance whose logit is the
item's plus the seed's own noise, of some sd, either shared by both arms (same weights) or drawn for each.
"""

import numpy as np
import pytest
from scipy.special import expit

from tokentrial.statistics.contrast import contrast
from tokentrial.statistics.paired import crossed_interval, holm, paired_t, tost
from tokentrial.statistics.power import mde

SEEDS, ITEMS, TRIALS = 6, 36, 2000
NOISE = [(0.0, True), (0.6, False)]


def scores(rng, sd, shared, effect=0.0, trials=TRIALS):
    """Right or wrong, and its chance, each of shape (2 arms, trials, seeds, items)."""
    noise = np.broadcast_to(rng.normal(0, sd, (1 if shared else 2, trials, SEEDS, 1)), (2, trials, SEEDS, 1))
    logits = rng.normal(0, 1, (1, trials, 1, ITEMS)) + noise + np.array([effect, 0.0]).reshape(2, 1, 1, 1)
    chance = expit(logits)
    return rng.random(chance.shape) < chance, chance


def share_found(treatment, control):
    """How often a contrast is significant; arrays of shape (trials, seeds)."""
    return np.mean([contrast(a, b).p < 0.05 for a, b in zip(treatment, control, strict=True)])


@pytest.mark.parametrize(("sd", "shared"), NOISE)
def test_equal_arms_are_told_apart_in_about_5_percent_of_trials(sd, shared):
    right, _ = scores(np.random.default_rng(1), sd, shared)
    assert 0.03 <= share_found(*right.mean(axis=-1)) <= 0.07


@pytest.mark.parametrize("learnt", [0.5, 0.95])
def test_equal_arms_whose_seeds_learn_or_not_are_told_apart_in_at_most_7_percent(learnt):
    rng = np.random.default_rng(2)
    accuracy = np.where(rng.random((2, TRIALS, SEEDS)) < learnt, 0.95, 0.10)
    assert share_found(*rng.binomial(ITEMS, accuracy) / ITEMS) <= 0.07


@pytest.mark.parametrize(("sd", "shared"), NOISE)
def test_the_interval_of_t_holds_the_true_difference(sd, shared):
    rng = np.random.default_rng(4)
    items = rng.normal(0, 1, ITEMS)
    # The truth of the trial's 36 items: the mean over all seeds there could be.
    truth = np.diff(expit(items + rng.normal(0, sd, (20_000, 1)) + np.array([0.0, 0.8])[:, None, None]).mean((1, 2)))
    noise = rng.normal(0, sd, (1 if shared else 2, TRIALS, SEEDS, 1))
    chance = expit(items + noise + np.array([0.8, 0.0]).reshape(2, 1, 1, 1))
    treatment, control = (rng.random((2, TRIALS, SEEDS, ITEMS)) < chance).mean(axis=-1)
    intervals = [paired_t(d).ci95 for d in treatment - control]
    assert 0.93 <= np.mean([low <= truth <= high for low, high in intervals]) <= 0.97


def test_the_minimum_detectable_effect_is_detected_in_80_percent_of_trials():
    trials = np.random.default_rng(7).normal(mde(0.2, SEEDS), 0.2, (TRIALS, SEEDS))
    assert np.mean([paired_t(d).p < 0.05 for d in trials]) == pytest.approx(0.80, abs=0.025)


def test_equivalence_is_false_in_at_most_5_percent_and_found_in_80_at_the_margin_in_reach():
    rng, margin = np.random.default_rng(8), 0.1
    at_the_margin = rng.normal(margin, 0.02, (TRIALS, SEEDS))
    assert np.mean([tost(d, margin).p < 0.05 for d in at_the_margin]) == pytest.approx(0.05, abs=0.015)
    alike = rng.normal(0, 1, (TRIALS, SEEDS))
    assert np.mean([tost(d, 1.43).p < 0.05 for d in alike]) == pytest.approx(0.80, abs=0.05)


def test_holm_keeps_the_false_alarms_of_the_whole_family_at_5_percent():
    trials = np.random.default_rng(9).normal(0, 0.1, (1000, 6, SEEDS))  # trials, secondary outcomes, seeds
    alarms = [min(holm([paired_t(d).p for d in family])) < 0.05 for family in trials]
    assert 0.03 <= np.mean(alarms) <= 0.065
    # Uncorrected, six independent outcomes would raise an alarm in 1 - 0.95^6 = 26 % of trials.


@pytest.mark.parametrize("sds", [(0.3, 0.3, 0.3), (0.0, 0.3, 0.3), (0, 0, 0.3)])
@pytest.mark.parametrize(
    ("n", "facts", "folds"),
    [
        (6, 12, False),
        (8, 18, True),
        pytest.param(6, 36, True, marks=pytest.mark.slow),
        pytest.param(10, 15, False, marks=pytest.mark.slow),
    ],
)
def test_the_interval_over_seeds_and_facts_holds_the_true_mean(n, facts, folds, sds):
    rng, trials = np.random.default_rng(10), 500
    sd_seed, sd_fact, sd_residual = sds
    cells = sd_seed * rng.standard_normal((trials, n, 1)) + sd_fact * rng.standard_normal((trials, 1, facts))
    cells = cells + sd_residual * rng.standard_normal((trials, n, facts))
    if folds:
        cells[:, np.arange(n)[:, None] % 3 != np.arange(facts) % 3] = np.nan
    intervals = np.array([crossed_interval(matrix).interval for matrix in cells])
    covered = np.mean((intervals[:, 0] < 0) & (intervals[:, 1] > 0))
    assert 0.91 <= covered <= 0.99  # 94-97 %, widened by three standard errors of 500 trials
