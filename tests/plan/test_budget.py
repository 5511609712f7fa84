"""What a budget buys: whole seeds in order, more with more, never more than it holds."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokentrial.devices import group
from tokentrial.plan import plan as plans
from tokentrial.plan.budget import Part, affordable, budget_order, shares
from tokentrial.plan.plan import costs
from tokentrial.plan.power import ASSUMED
from tokentrial.trial.load import load

COSTS = st.one_of(st.just(0.0), st.floats(0.01, 10))
SEEDS = st.dictionaries(st.integers(1, 99), st.lists(COSTS, min_size=1, max_size=3), max_size=5)
PARTS = st.lists(st.builds(Part, st.just("part"), SEEDS, st.integers(1, 4), st.floats(0, 3)), max_size=4)
BUDGET = st.floats(0, 100)


def pending(part):
    return [seed for seed, cells in part.seeds.items() if any(cells)]


@given(PARTS, BUDGET)
def test_never_more_than_the_budget_holds_and_never_less(parts, budget):
    found, spent = affordable(parts, budget)
    assert spent == pytest.approx(sum(part.cost(seeds) for part, seeds in zip(parts, found, strict=True)))
    assert spent <= budget
    for number, (part, seeds) in enumerate(zip(parts, found, strict=True)):
        left = [seed for seed in pending(part) if seed not in seeds]
        if left:  # the first that is left would have been too much
            before = sum(other.cost(bought) for other, bought in zip(parts[:number], found[:number], strict=True))
            upto = [seed for seed in part.seeds if seed in seeds or seed == left[0]]
            assert before + part.cost(upto) > budget - 1e-9
            break


@given(PARTS, BUDGET)
def test_seeds_are_bought_in_order_and_what_is_done_is_never_left(parts, budget):
    bought = []
    for part, share in zip(parts, shares(parts, affordable(parts, budget)[0]), strict=True):
        assert [*share.bought, *share.left] == pending(part)
        bought += [True] * len(share.bought) + [False] * len(share.left)
    assert bought == sorted(bought, reverse=True)  # nothing behind the first that is left


@given(PARTS, BUDGET, BUDGET)
def test_a_larger_budget_buys_the_same_and_more(parts, one, other):
    less, more = (affordable(parts, budget)[0] for budget in sorted((one, other)))
    assert all({*few} <= {*many} for few, many in zip(less, more, strict=True))


@given(st.integers(1, 6), st.integers(1, 5), st.integers(1, 4), st.floats(0.1, 9))
def test_equal_cells_take_as_many_turns_as_workers_leave(seeds, arms, workers, cell):
    part = Part("part", {seed: [cell] * arms for seed in range(seeds)}, workers, 2.0)
    assert part.cost([*range(seeds)]) == pytest.approx(2.0 + math.ceil(seeds * arms / workers) * cell)


# of a ladder


def test_a_ladder_is_climbed_from_its_least_compute_and_other_variants_come_after():
    trial = load("ladder", ["robustness_reruns=[budget.match=bytes]"])
    names = [name for name, _ in budget_order(trial)]
    assert names == [*(f"ladder {size}" for size in ("2x64", "2x128", "4x192", "6x256")), "also budget.match=bytes"]
    assert [name for name, _ in budget_order(load("pilot", ["sweep={pretrain.n_layer: [1, 3]}"]))] == [
        "pilot",
        "sweep pretrain.n_layer=1",
        "sweep pretrain.n_layer=3",
    ]


def test_the_plan_of_a_ladder_says_which_sizes_and_seeds_the_money_buys():
    trial, where = load("ladder"), group("H100", {})
    prices = [costs(of, where)["dollars"] for _, of in budget_order(trial)]
    assert prices == sorted(prices)
    enough = plans.bought(trial, 300, [where])
    assert [(row["bought"], row["left"]) for row in enough] == [(trial.seeds, [])] * 4
    two = plans.bought(trial, 1.001 * sum(prices[:2]), [where])
    assert [row["bought"] for row in two] == [trial.seeds, trial.seeds, [], []]
    assert [row["left"] for row in two] == [[], [], trial.seeds, trial.seeds]
    rows = [row for row in plans.budget(trial, 300, [where], ASSUMED) if len(row["arms"]) == 4]
    assert [row["size"] for row in rows] == ["up to 2x64", "up to 2x128", "up to 4x192", "up to 6x256"]
    for number, row in enumerate(rows):
        declared = sum(prices[: number + 1])
        assert row["dollars_corpus"] + len(trial.seeds) * row["dollars_a_seed"] == pytest.approx(declared)
        assert row["dollars_corpus"] + row["seeds"] * row["dollars_a_seed"] <= 300


def test_what_is_no_size_of_a_ladder_is_not_listed_as_one():
    trial, where = load("ladder", ["robustness_reruns=[budget.match=bytes]"]), group("H100", {})
    rows = [row for row in plans.budget(trial, 300, [where], ASSUMED) if len(row["arms"]) == 4]
    assert [row["size"] for row in rows] == ["up to 2x64", "up to 2x128", "up to 4x192", "up to 6x256"]


def test_the_disks_reserve_is_counted_once():
    trial, where = load("ladder"), group("H100", {})
    variants = plans.variants(trial, [where])
    without = plans.variants(trial.model_copy(update={"disk_reserve_gb": 0.0}), [where])
    assert [row["disk_gb"] for row in variants] == [row["disk_gb"] for row in without]


def test_the_table_of_the_plan_has_them(tokentrial):
    code, out, _ = tokentrial("plan", "ladder", "--budget", "1.3", "--device", "H100")
    assert code == 0
    words = [line.split() for line in out.splitlines()]
    assert ["H100", "ladder", "4x192", "201,", "202,", "203", "204,", "205"] in words
    assert any(line[:4] == ["H100", "up", "to", "6x256"] for line in words)
