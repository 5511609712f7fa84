"""The ladder of sizes, from the reports of its rungs: trends and multipliers that were put in come out, and what is not
known is not said."""

import numpy as np
import pytest
from scipy import stats

from tokentrial.report.ladder import TEXT_BITS, ladder
from tokentrial.trial.declaration import Declared
from tokentrial.trial.sweep import variants

ACCURACY = "pretrain/mul_table/never_asked/accuracy"
SEEDS, SIZES = [1, 2, 3, 4], ["1x16", "2x32", "4x64"]
FLOPS = {"1x16": 1e12, "2x32": 1e13, "4x64": 1e14}
WORTH = 2.0  # of the treatment, in compute: what its bits per byte are made with


@pytest.fixture
def trial(tiny, tmp_path):
    sizes = "[{n_layer: 1, n_head: 1, n_embd: 16}, {n_layer: 2, n_head: 2, n_embd: 32}]"
    return tiny(
        tmp_path / "run",
        f"seeds={SEEDS}",
        "arms=[baseline,mul_append]",
        "pretrain.n_layer=4",
        "pretrain.n_head=2",
        "pretrain.n_embd=64",
        f"ladder={{sizes: {sizes}, tokens_per_parameter: 2}}",
        f"verdict.primary={{outcome: {ACCURACY}, contrast: mul_append - baseline}}",
        f"verdict.secondary=[{{outcome: {TEXT_BITS}, contrast: mul_append - baseline}}]",
    )


def a_report(size, differences, worth=WORTH):
    """A rung's report: the accuracy of the baseline is 0.3, bits per byte are a power law of compute."""
    noise = np.random.default_rng(int(FLOPS[size] % 997)).normal(0, 0.002, (2, len(SEEDS)))
    bits = {arm: 9.0 * (FLOPS[size] * of) ** -0.05 for arm, of in (("baseline", 1.0), ("mul_append", worth))}
    cell = {"flops": FLOPS[size], "parameters": 1000, "tokens": 10_000, "bytes": 20_000}
    points, steps = [{"step": 40, "asked": 0.7, "never_asked": 0.1}], {"never_asked": None}
    return {
        "seeds": SEEDS,
        "declared": {"seeds": SEEDS},
        "missing": [],
        "settings": {"pretrain": {"lr": 1e-3}},
        "declaration": {"departures": [], "withheld": {}},
        "consumed": {"baseline": cell, "mul_append": cell},
        "curves": {
            arm: {str(s): {"points": points, "steps_to_60": steps | {"asked": asked}} for s in SEEDS}
            for arm, asked in (("baseline", 40), ("mul_append", 10))
        },
        "outcomes": {
            ACCURACY: {"floor": 0.2, "per_seed": {"baseline": [0.3] * 4, "mul_append": [0.3 + d for d in differences]}},
            TEXT_BITS: {
                "floor": None,
                "per_seed": {arm: (of * np.exp(noise[0])).tolist() for arm, of in bits.items()},
            },
        },
    }


GROWING = {"1x16": [0.0, 0.02, -0.01, 0.01], "2x32": [0.2, 0.23, 0.18, 0.21], "4x64": [0.41, 0.4, 0.38, 0.43]}


def reports(trial, made, missing=()):
    found = [(variant, None if variant.name in missing else made[variant.name]) for variant in variants(trial)]
    declared = Declared(trial.arms, trial.seeds, trial.control, trial.verdict)
    return ladder(trial, declared, found, made["4x64"])


def test_every_size_is_a_trial_of_its_own_with_the_arms_and_seeds(trial):
    found = variants(trial)
    assert [variant.name for variant in found] == SIZES[:2]
    for variant in found:
        assert (variant.trial.arms, variant.trial.seeds, variant.trial.ladder) == (trial.arms, trial.seeds, None)
        assert variant.trial.folder == trial.folder / "ladder" / variant.name


def test_a_trend_that_was_put_in_comes_out_as_scipys_regression_by_seed(trial):
    found = reports(trial, {size: a_report(size, GROWING[size]) for size in SIZES})
    primary, bits = found["trends"]
    slopes = [stats.linregress([12, 13, 14], [GROWING[size][k] for size in SIZES]).slope for k in range(4)]
    assert primary["slope"] == pytest.approx(np.mean(slopes))
    assert primary["p"] == pytest.approx(stats.ttest_1samp(slopes, 0).pvalue)
    assert primary["verdict"] == "gains"
    assert [size["mean"] for size in primary["by_size"]] == pytest.approx([np.mean(GROWING[s]) for s in SIZES])
    assert bits["p_adjusted"] == bits["p"]  # a family of one


def test_the_treatment_loses_where_fewer_bits_are_better_and_their_difference_rises(trial):
    made = {size: a_report(size, GROWING[size]) for size in SIZES}
    for size, difference in zip(SIZES, (-0.3, -0.2, -0.1), strict=True):
        values = made[size]["outcomes"][TEXT_BITS]["per_seed"]
        values["mul_append"] = [v + difference * (1 + 0.05 * k) for k, v in enumerate(values["baseline"])]
    bits = reports(trial, made)["trends"][1]
    assert bits["slope"] > 0
    assert bits["verdict"] == "loses"


def test_what_an_arm_is_worth_comes_out_and_nothing_is_extrapolated(trial):
    found = reports(trial, {size: a_report(size, GROWING[size]) for size in SIZES})["multipliers"]
    bits = {each["size"]: each for each in found if each["outcome"] == TEXT_BITS}
    assert bits["2x32"]["mean"] == pytest.approx(WORTH, rel=0.2)
    assert bits["4x64"]["mean"] is None  # twice the largest compute was not run
    assert bits["4x64"]["by_seed"] == [None] * 4
    steps = {(each["outcome"], each["size"]): each for each in found if "steps_to_60" in each["outcome"]}
    assert steps["pretrain/steps_to_60/asked", "1x16"]["by_seed"] == [4.0] * 4
    assert steps["pretrain/steps_to_60/never_asked", "1x16"]["mean"] is None
    assert ACCURACY not in [each["outcome"] for each in found]


def test_without_a_size_there_is_no_trend(trial):
    found = reports(trial, {size: a_report(size, GROWING[size]) for size in SIZES}, missing=["1x16"])
    assert found["missing"] == ["1x16"]
    assert [(trend["p"], trend["p_adjusted"], trend["verdict"]) for trend in found["trends"]] == [(None,) * 3] * 2


def test_an_unfinished_size_of_the_trial_itself_leaves_the_others_whole(trial):
    made = {size: a_report(size, GROWING[size]) for size in SIZES}
    made["4x64"] |= {"missing": ["baseline/seed4 pretrain"], "consumed": {}}  # no cell of the control yet
    found = reports(trial, made)
    assert (found["missing"], [size["name"] for size in found["sizes"]]) == (["4x64"], SIZES[:2])
    assert [trend["p"] for trend in found["trends"]] == [None, None]
    assert {len(record["by_seed"]) for record in found["multipliers"]} == {len(SEEDS)}


def test_a_size_that_was_run_without_the_declared_control_is_not_complete(trial):
    made = {size: a_report(size, GROWING[size]) for size in SIZES}
    del made["4x64"]["consumed"]["baseline"]
    assert reports(trial, made)["missing"] == ["4x64"]


def test_a_trend_is_exploratory_where_a_size_or_the_list_of_sizes_is_not_as_declared(trial):
    made = {size: a_report(size, GROWING[size]) for size in SIZES}
    made["2x32"]["declaration"] = {
        "departures": ["verdict.smallest_effect: ...; what was declared counts"],
        "withheld": {},
    }
    assert None not in [trend["verdict"] for trend in reports(trial, made)["trends"]]
    for declaration in (
        {"departures": ["pretrain.lr: ...; exploratory"], "withheld": {"pretrain": "pretrain.lr: ..."}},
        {"departures": ["ladder.sizes: ... added; what was declared counts"], "withheld": {}},
    ):
        made["4x64"]["declaration"] = declaration
        found = reports(trial, made)
        assert [trend["verdict"] for trend in found["trends"]] == [None, None]
        assert [*found["departures"]] == ["pretrain"]


def test_seeds_that_were_added_enter_no_trend(trial):
    made = {size: a_report(size, GROWING[size]) for size in SIZES}
    expected = reports(trial, made)
    for report in made.values():
        report["seeds"] = [*SEEDS, 5]
        for outcome in report["outcomes"].values():
            outcome["per_seed"] = {arm: [*values, 0.9] for arm, values in outcome["per_seed"].items()}
    assert reports(trial, made) == expected


def test_a_size_at_which_both_arms_lie_at_an_end_of_the_scale_says_so(trial):
    made = {size: a_report(size, GROWING[size]) for size in SIZES}
    made["1x16"]["outcomes"][ACCURACY]["per_seed"] = {"baseline": [0.1] * 4, "mul_append": [0.25] * 4}
    made["4x64"]["outcomes"][ACCURACY]["per_seed"] = {"baseline": [0.95] * 4, "mul_append": [1.0] * 4}
    accuracy, bits = reports(trial, made)["trends"]
    assert [size["bound"] for size in accuracy["by_size"]] == ["floor", None, "ceiling"]  # smallest effect 0.1
    assert [size["bound"] for size in bits["by_size"]] == [None] * 3


def test_where_every_seed_has_the_same_slope_signs_decide(trial):
    """Of four seeds the smallest p of the sign-flip test is 2 / 2^4."""
    steady = {size: [0.1 * k] * 4 for k, size in enumerate(SIZES)}
    primary = reports(trial, {size: a_report(size, steady[size]) for size in SIZES})["trends"][0]
    assert primary["p"] == pytest.approx(0.125)
    assert primary["verdict"] == "no trend shown"


def test_facts_that_no_run_asks_have_no_steps_to_60(trial):
    made = {size: a_report(size, GROWING[size]) for size in SIZES}
    for report in made.values():
        for curves in report["curves"].values():
            for curve in curves.values():
                curve["points"] = [{"step": 40, "asked": 0.7}]  # holdout_folds: 0
    found = {record["outcome"] for record in reports(trial, made)["multipliers"]}
    assert found == {TEXT_BITS, "pretrain/steps_to_60/asked"}


def test_a_trend_over_other_seeds_than_the_declared_ones_has_no_verdict(trial):
    """A size may be declared with the first seeds alone; whoever leaves one out later has seen it."""
    made = {size: a_report(size, GROWING[size]) for size in SIZES}
    made["1x16"]["seeds"] = made["1x16"]["declared"]["seeds"] = [1, 2, 3]
    for outcome in made["1x16"]["outcomes"].values():
        outcome["per_seed"] = {arm: values[:3] for arm, values in outcome["per_seed"].items()}
    left_out = reports(trial, made)["trends"]
    assert [(trend["verdict"], trend["seeds"], trend["lacks"]) for trend in left_out] == [(None, [1, 2, 3], [4])] * 2
    smallest, other = trial.ladder.sizes
    smaller = trial.ladder.model_copy(update={"sizes": [smallest.model_copy(update={"seeds": 3}), other]})
    primary, bits = reports(trial.model_copy(update={"ladder": smaller}), made)["trends"]
    assert (primary["seeds"], primary["lacks"]) == ([1, 2, 3], [])
    assert None not in (primary["verdict"], bits["verdict"])
    assert [size["n"] for size in primary["by_size"]] == [3, 4, 4]


def test_arms_that_were_asked_at_other_points_of_training_are_not_compared_by_steps(trial):
    made = {size: a_report(size, GROWING[size]) for size in SIZES}
    curve = made["1x16"]["curves"]["mul_append"]["1"]
    curve["points"] = 2 * curve["points"]
    found = {r["size"]: r["by_seed"] for r in reports(trial, made)["multipliers"] if r["outcome"].endswith("/asked")}
    assert found["1x16"] == [None, 4.0, 4.0, 4.0]
    assert found["2x32"] == [4.0] * 4
