"""The seeds a trial needs follow from 1.46 times its pilot's noise."""

import math

import pytest
from statsmodels.stats.power import TTestPower

from tokentrial.statistics.planning import plan_seeds
from tokentrial.statistics.power import mde, power


def test_seeds_are_the_fewest_that_reach_each_power_at_the_planning_sd():
    plan = plan_seeds(0.25, [0.3, 0.1])
    assert plan.planning_sd == pytest.approx(0.365)
    for row in plan.effects:
        for percent, n in row.seeds.items():
            assert power(row.effect, 0.365, n) >= float(percent) / 100 > power(row.effect, 0.365, n - 1)


@pytest.mark.parametrize("effect", [0.3, 0.1])
def test_seeds_are_those_that_statsmodels_solves_for(effect):
    solved = TTestPower().solve_power(effect / (1.46 * 0.25), alpha=0.05, power=0.8)
    assert plan_seeds(0.25, [effect]).effects[0].seeds["80"] == math.ceil(solved)


def test_what_so_many_seeds_detect_is_at_the_planning_sd_too():
    plan = plan_seeds(0.25, [0.1], n=6)
    assert plan.mde80["6"] == pytest.approx(mde(1.46 * 0.25, 6))
    assert plan.sd_ci95 == pytest.approx((0.62 * 0.25, 2.45 * 0.25), rel=0.01)


def test_the_sign_of_an_effect_does_not_matter_and_no_noise_plans_nothing():
    assert plan_seeds(0.25, [-0.1]).effects == plan_seeds(0.25, [0.1]).effects
    assert set(plan_seeds(0.0, [0.1]).effects[0].seeds.values()) == {None}


@pytest.mark.parametrize(("sd", "effects"), [(0.2, [0.0]), (0.2, [float("nan")]), (-0.2, [0.1]), (float("inf"), [0.1])])
def test_what_cannot_be_planned_is_refused(sd, effects):
    with pytest.raises(ValueError, match="found"):
        plan_seeds(sd, effects)
