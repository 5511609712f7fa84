"""Looks: boundaries against simulated trials, and which look counts as seeds come in."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from tokentrial.statistics.power import seeds_needed
from tokentrial.statistics.sequential import boundaries, current_look, level

OBF, POCOCK = "obrien_fleming", "pocock"
CROSSES = [1.0, 1.1, 0.9, 1.0, 1.1, 0.9]  # t 27 at six seeds
SCATTERS = [1.0, -1.1, 0.9, -1.0, 1.1, -0.9]


def spending(kind, share, alpha=0.05):
    """Lan & DeMets 1983."""
    if kind == POCOCK:
        return alpha * np.log(1 + (np.e - 1) * share)
    return 2 * stats.norm.sf(stats.norm.isf(alpha / 2) / np.sqrt(share))


# boundaries


@pytest.mark.parametrize(
    ("kind", "looks", "simulated"),
    [  # by four million trials of another program; the first is a quantile of t
        (OBF, (6, 12), (4.65, 2.243)),
        (OBF, (6, 9, 12), (4.64, 2.89, 2.36)),
        (OBF, (4, 8, 12), (14.6, 3.17, 2.31)),
        (OBF, (8, 16), (3.96, 2.17)),
        (OBF, (6, 12, 20), (8.62, 3.046, 2.152)),
        (POCOCK, (6, 12), (2.97, 2.58)),
    ],
)
def test_boundaries_are_those_of_simulated_trials(kind, looks, simulated):
    found = boundaries(looks, kind, 0.05)
    assert found[0] == pytest.approx(stats.t.isf(spending(kind, looks[0] / looks[-1]) / 2, looks[0] - 1), rel=1e-6)
    assert found[0] == pytest.approx(simulated[0], rel=0.01)  # so rare that few of the draws lie beyond it
    assert found[1:] == pytest.approx(simulated[1:], abs=0.006)


@pytest.mark.parametrize(
    ("kind", "looks"),
    [(OBF, (6, 12)), (POCOCK, (3, 4, 6)), (OBF, (4, 8, 12)), (OBF, (6, 12, 20)), (POCOCK, (2, 3, 4, 5))],
)
def test_each_look_stops_as_many_trials_as_it_may_spend(kind, looks):
    trials = 200_000
    d = np.random.default_rng(3).standard_normal((trials, looks[-1]))
    stopped, spent = np.zeros(trials, bool), []
    for n, boundary in zip(looks, boundaries(looks, kind, 0.05), strict=True):
        t = d[:, :n].mean(1) / d[:, :n].std(1, ddof=1) * np.sqrt(n)
        stopped |= np.abs(t) >= boundary
        spent.append(stopped.mean())
    may_spend = [spending(kind, n / looks[-1]) for n in looks]
    assert may_spend[-1] == pytest.approx(0.05)
    for share, promised in zip(spent, may_spend, strict=True):
        assert share == pytest.approx(promised, abs=4 * np.sqrt(promised / trials))


@settings(max_examples=20)
@given(st.sets(st.integers(3, 14), min_size=1, max_size=3), st.sampled_from([OBF, POCOCK]), st.floats(0.01, 0.2))
def test_every_look_has_a_share_of_alpha_and_costs_the_last_one_power(looks, kind, alpha):
    looks = tuple(sorted(looks))
    found = boundaries(looks, kind, alpha)
    reached = [level(b, n) for b, n in zip(found, looks, strict=True)]
    assert all(0 < x < alpha + 1e-6 for x in reached)
    assert found[-1] >= stats.t.isf(alpha / 2, looks[-1] - 1) - 1e-6
    assert sum(reached) >= alpha * (1 - 1e-3)  # as exact as boundaries are: what is spent is at most the sum over looks


@pytest.mark.parametrize(("looks", "spent"), [((2, 12), 1.58e-6), ((2, 20), 0), ((3, 50), 0)])
def test_a_first_look_at_very_few_seeds_of_many_stops_all_but_nothing(looks, spent):
    found = boundaries(looks, OBF, 0.05)
    assert level(found[0], looks[0]) == pytest.approx(spent, rel=0.01, abs=1e-6)
    assert found[1] == pytest.approx(stats.t.isf(0.025, looks[1] - 1), abs=2e-3)


def test_a_single_look_is_the_t_test():
    assert boundaries((12,), OBF, 0.05) == pytest.approx([stats.t.isf(0.025, 11)])


@pytest.mark.parametrize("looks", [(12, 6), (6, 6), (1, 6)])
def test_looks_that_do_not_ascend_from_two_seeds_are_refused(looks):
    with pytest.raises(ValueError, match="looks"):
        boundaries(looks, OBF, 0.05)


# which look counts


def at(differences, looks=(6, 9, 12), most=12, margin=0.5, kind=OBF):
    return current_look(differences, most, looks, kind, 0.05, margin)


def test_without_looks_all_seeds_are_looked_at_once():
    assert [(look.seeds, look.alpha, look.may_go_on) for look in (at([], None), at(CROSSES, None))] == [
        (12, 0.05, False)
    ] * 2


def test_the_trial_stops_at_the_first_look_that_decides_and_later_seeds_never_count():
    for later in ([], [-9.0], [-9.0] * 6):
        look = at(CROSSES + later)
        assert (look.number, look.seeds, look.wanted) == (1, 6, 6)
        assert look.boundary == pytest.approx(boundaries((6, 9, 12), OBF, 0.05)[0])


def test_an_undecided_look_waits_until_the_next_one_is_whole():
    whole = SCATTERS * 2
    for n, number, seeds in ((6, 1, 6), (8, 1, 6), (9, 2, 9), (11, 2, 9), (12, 3, 12)):
        look = at(whole[:n])
        assert (look.number, look.of, look.seeds, look.may_go_on) == (number, 3, seeds, number < 3), n


def test_before_the_first_look_its_seeds_are_wanted():
    look = at(CROSSES[:4])
    assert (look.number, look.seeds, look.wanted, look.may_go_on) == (1, 6, 6, True)


def test_seeds_that_all_differ_by_the_same_amount_are_held_to_the_sign_flip():
    """p = 2^-5 is above the first look's level by O'Brien & Fleming, 2^-11 below the last one's."""
    assert at([0.1] * 6).may_go_on
    assert at([0.1] * 12, (6, 12)).seeds == 12
    assert at([0.0] * 12, (6, 12)).number == 2


# blinded


spreads = st.lists(st.floats(-1, 1, allow_subnormal=False), min_size=6, max_size=12)


@given(spreads, st.lists(st.sampled_from([-1, 1]), min_size=12, max_size=12))
def test_no_sign_enters_the_blinded_number_of_seeds(d, signs):
    flipped = [x * sign for x, sign in zip(d, signs, strict=False)]
    assert at(d, "blinded") == at(flipped, "blinded")
    assert at(d, "blinded") == at(d[:6], "blinded")  # nor do later seeds


@given(spreads)
def test_the_blinded_number_finds_the_margin_by_the_spread_about_zero_from_half_to_all(d):
    look = at(d, "blinded")
    spread = np.sqrt(np.mean(np.square(d[:6])))
    needed = seeds_needed(0.5, spread, most=1000) if spread else 2
    assert (look.wanted, look.may_go_on, look.alpha) == (min(12, max(6, needed or 12)), False, 0.05)


def test_before_half_of_the_seeds_the_number_is_not_settled():
    look = at([0.1] * 5, "blinded", most=11)
    assert (look.wanted, look.may_go_on) == (6, True)
