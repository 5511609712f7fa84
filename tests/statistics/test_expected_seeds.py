"""Power and number of seeds of a plan with looks, against simulations that are made another way."""

import numpy as np
import pytest
from scipy import stats

from tokentrial.statistics.power import power
from tokentrial.statistics.sequential import current_look, expected


def test_one_look_at_all_seeds_has_the_power_of_the_t_test():
    for effect in (0.3, 0.8):
        found = expected(8, [8], "pocock", 0.05, effect, 1.0)
        assert found.mean_seeds == 8
        assert found.power == pytest.approx(power(effect, 1.0, 8), abs=0.012)


@pytest.mark.parametrize(
    ("spending", "boundaries"), [("obrien_fleming", {6: 4.65, 12: 2.243}), ("pocock", {6: 2.97, 12: 2.58})]
)  # of 4 million draws
def test_looks_stop_at_the_first_that_crosses(spending, boundaries):
    d = np.random.default_rng(5).normal(0.5, 0.4, (20_000, 12))
    crossed = {n: np.abs(stats.ttest_1samp(d[:, :n], 0, axis=1).statistic) > edge for n, edge in boundaries.items()}
    found = expected(12, [6, 12], spending, 0.05, 0.5, 0.4)
    assert found.power == pytest.approx(np.mean(crossed[6] | crossed[12]), abs=0.015)
    assert found.mean_seeds == pytest.approx(12 - 6 * np.mean(crossed[6]), abs=0.1)


@pytest.mark.parametrize(("most", "sd"), [(14, 0.45), (14, 0.28), (5, 0.3)])  # all of 14, 9 to 14, all of 5
def test_a_blinded_number_of_seeds_is_the_one_that_a_run_would_take(most, sd):
    ends, effect = [], 0.5
    for d in np.random.default_rng(6).normal(effect, sd, (600, most)):
        look = current_look(list(d), most, "blinded", "pocock", 0.05, effect)
        ends.append((look.seeds, stats.ttest_1samp(d[: look.seeds], 0).pvalue < 0.05))
    seeds, won = np.mean(ends, axis=0)
    found = expected(most, "blinded", "pocock", 0.05, effect, sd)
    assert found.mean_seeds == pytest.approx(seeds, abs=0.2)
    assert found.power == pytest.approx(won, abs=0.05)


@pytest.mark.parametrize("looks", [[6, 12], "blinded"])
def test_an_effect_far_beyond_the_noise_is_found_at_once(looks):
    assert expected(12, looks, "obrien_fleming", 0.05, 1.0, 1e-12).power == 1
