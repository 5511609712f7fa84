"""`tokentrial power`: seeds from a run's table of results and its declaration, or from a standard deviation."""

import json
import math

import numpy as np
import pytest
from scipy.stats import chi2, ttest_rel
from statsmodels.stats.power import TTestPower

from tokentrial.plan.power import plan_seeds
from tokentrial.report.results import RESULTS, CellResults, ResultsTable
from tokentrial.statistics.power import mde, seeds_needed
from tokentrial.statistics.power import power as chance

OUTCOME, LOGPROB = "pretrain/mul_table/never_asked/accuracy", "pretrain/mul_table/never_asked/choice_logprob"
TEXT = "pretrain/heldout_text/untouched/bits_per_byte"
SCORES = {  # by arm, then by seed; z has seeds of its own
    "x": {OUTCOME: [0.1, 0.0, 0.2, 0.1], LOGPROB: [-1.0, -2.0, -2.5, -2.0], TEXT: [2.0, 2.1]},
    "y": {OUTCOME: [0.5, 0.9, 0.6, 0.4, 0.7], LOGPROB: [-0.5, -0.5, -0.5, -0.5], TEXT: [2.2, 2.2]},
    "z": {OUTCOME: [None] * 8 + [0.3]},
}
VERDICT = {
    "primary": {"outcome": OUTCOME, "contrast": "x - y"},
    "secondary": [{"outcome": TEXT, "contrast": "x - y", "smallest_effect": 0.02}],
    "smallest_effect": 0.1,
    "alpha": 0.01,
}
OLD = VERDICT | {"seeds": [1, 2, 3, 4], "control": "y"} | {"secondary": [{"outcome": TEXT, "contrast": "x - y"}]}


def bound(sd, n):
    """The true sd is below it with a confidence of 80 %."""
    return sd * math.sqrt((n - 1) / chi2.ppf(0.2, n - 1))


@pytest.fixture
def power(tokentrial):
    return lambda *words: tokentrial("power", *words)


@pytest.fixture
def pilot(tmp_path):
    table = ResultsTable(tmp_path)
    for arm, outcomes in SCORES.items():
        for seed in range(1, 10):
            values = {name: of[seed - 1] for name, of in outcomes.items() if of[seed - 1 : seed] not in ([], [None])}
            table.add(arm, seed, "pretrain", CellResults(values), [])
    table.close()
    (tmp_path / "declared.json").write_text(json.dumps({"declaration": {"verdict": VERDICT}}))
    return tmp_path


@pytest.mark.parametrize("declared", [{"declaration": {"verdict": VERDICT}}, OLD], ids=["now", "of release 0.1"])
def test_the_noise_is_that_of_the_seeds_with_both_arms_planned_with_its_upper_bound(power, pilot, declared):
    (pilot / "declared.json").write_text(json.dumps(declared))
    code, out, err = power(pilot, "--json")
    made = json.loads(out)
    sd = np.std(np.subtract(SCORES["x"][OUTCOME], SCORES["y"][OUTCOME][:4]), ddof=1)
    assert (code, err, made["n"], made["alpha"]) == (0, "", 4, 0.01)
    assert made["sd"] == pytest.approx(sd)
    assert made["planning_sd"] == pytest.approx(bound(sd, 4))
    assert [row["effect"] for row in made["effects"]] == [0.05, 0.1, 0.2]  # about the declared smallest effect
    assert made["effects"][1]["seeds"]["80"] == seeds_needed(0.1, bound(sd, 4), 0.01)


def test_another_outcome_contrast_and_effect(power, pilot):
    made = json.loads(power(pilot, "--outcome", TEXT, "--contrast", "y - x", "--effect", "0.05", "--json")[1])
    assert made["sd"] == pytest.approx(np.std([0.2, 0.1], ddof=1))
    assert made["planning_sd"] == pytest.approx(bound(made["sd"], 2))
    assert [row["effect"] for row in made["effects"]] == [0.05]


def test_the_smallest_effect_of_accuracy_is_not_that_of_another_metric(power, pilot):
    """Each metric has its own unit: one that declares no smallest effect is planned in sds."""
    own, none = (json.loads(power(pilot, "--outcome", name, "--json")[1]) for name in (TEXT, LOGPROB))
    assert [row["effect"] for row in own["effects"]] == [0.01, 0.02, 0.04]
    assert [row["effect"] for row in none["effects"]] == [times * none["sd"] for times in (0.5, 1, 2)]


def test_every_outcome_has_its_signal_to_noise_the_clearest_first(power, pilot):
    """Student's t of the paired differences is sqrt(n) times it (scipy's)."""
    signals = json.loads(power(pilot, "--json")[1])["signals"]
    assert {signal["outcome"] for signal in signals} == {OUTCOME, LOGPROB, TEXT}
    ratios = [signal["signal_to_noise"] for signal in signals]
    assert ratios == sorted(ratios, reverse=True)
    for signal in signals:
        x, y = SCORES["x"][signal["outcome"]], SCORES["y"][signal["outcome"]]
        x, y = x[: len(y)], y[: len(x)]
        assert signal["difference"] == pytest.approx(np.mean(np.subtract(x, y)))
        assert abs(ttest_rel(x, y).statistic) == pytest.approx(math.sqrt(len(x)) * signal["signal_to_noise"])
        least = {OUTCOME: 0.1, TEXT: 0.02}.get(signal["outcome"])
        planned = least and seeds_needed(least, bound(signal["sd"], len(x)), 0.01)
        assert (signal["smallest_effect"], signal["seeds"]) == (least, planned)
    shown = power(pilot)[1]
    assert all(name in shown for name in (OUTCOME, LOGPROB, TEXT))


def test_seeds_that_differ_by_round_off_alone_have_no_noise_and_come_last(power, tmp_path):
    """5/12 - 4/12 and 8/12 - 7/12 are one twelfth, and differ in the last bit."""
    x, y = [5 / 12, 8 / 12], [4 / 12, 7 / 12]
    assert x[0] - y[0] != x[1] - y[1]
    table = ResultsTable(tmp_path)
    for seed in (1, 2):
        for arm, scores, bits in (("x", x, [1.0, 1.2]), ("y", y, [1.1, 1.1])):
            table.add(arm, seed, "pretrain", CellResults({OUTCOME: scores[seed - 1], TEXT: bits[seed - 1]}), [])
    table.close()
    (tmp_path / "declared.json").write_text(json.dumps({"declaration": {"verdict": VERDICT}}))
    _, last = json.loads(power(tmp_path, "--json")[1])["signals"]
    assert (last["outcome"], last["sd"], last["signal_to_noise"]) == (OUTCOME, 0.0, None)


def test_a_standard_deviation_that_is_given_stands(power):
    code, out, _ = power("--sd", "0.25", "--effect", "0.3", "0.1")
    assert code == 0
    rows = {words[0]: words[1:] for line in out.splitlines() if len(words := line.split()) == 5}
    for effect in ("0.3", "0.1"):
        assert rows[effect] == [str(seeds_needed(float(effect), 0.25, power=share)) for share in (0.5, 0.8, 0.9, 0.95)]


def test_what_is_out_of_reach_or_without_noise_says_so(power):
    assert "over 1000" in power("--sd", "0.25", "--effect", "0.001")[1]
    assert "cannot be planned" in power("--sd", "0", "--effect", "0.1")[1]


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ((), "give one run folder with a report, or --sd"),
        (("absent", "--sd", "0.2"), "give one run folder"),
        (("--sd", "nan", "--effect", "0.1"), "found nan"),
        (("--sd", "-1", "--effect", "0.1"), "found -1"),
        (("--sd", "inf", "--effect", "0.1"), "found inf"),
        (("--sd", "0.2", "--effect", "nan"), "found [nan]"),
        (("--sd", "0.2", "--effect", "0"), "found [0.0]"),
        (("--sd", "0.2", "--outcome", "x"), "need a run folder"),
    ],
)
def test_bad_usage(power, words, found):
    code, out, err = power(*words)
    assert (code, out) == (2, "")
    assert found in err


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (("--outcome", "x"), f"it has no outcome x; there are {OUTCOME}"),
        (("--contrast", "x-y"), "found no 'x-y', expected 'a - b' of the arms x, y, z"),
        (("--contrast", "x - x"), "found no 'x - x', expected 'a - b' of the arms x, y, z"),
        (("--contrast", "x - z"), "found 0 seeds with both arms"),
    ],
)
def test_what_the_run_has_not(power, pilot, words, found):
    code, _, err = power(pilot, *words)
    assert code in (1, 2)
    assert found in err


def test_a_run_without_a_table_of_results_is_told_how_to_make_one(power, pilot):
    (pilot / RESULTS).unlink()
    code, _, err = power(pilot)
    assert (code, err.count("\n")) == (1, 1)
    assert f"run `tokentrial report {pilot}`" in err


@pytest.mark.parametrize("content", ["[", "[]", '{"primary": 3}', '{"declaration": 3}', '{"declaration": {}}'])
def test_a_broken_declaration_is_named(power, pilot, content):
    (pilot / "declared.json").write_text(content)
    code, out, err = power(pilot)
    assert (code in (1, 2), out) == (True, "")
    assert "declared.json: " in err.replace(":\n", ": ")


# the plan itself


def test_seeds_are_the_fewest_that_reach_each_power_at_the_planning_sd():
    plan = plan_seeds("", 0.25, [-0.3, 0.1], n=6)
    for row in plan.effects:
        for percent, n in row.seeds.items():
            assert chance(row.effect, 0.365, n) >= float(percent) / 100 > chance(row.effect, 0.366, n - 1)
        solved = TTestPower().solve_power(abs(row.effect) / bound(0.25, 6), alpha=0.05, power=0.8)  # statsmodels'
        assert row.seeds["80"] == math.ceil(solved)
    assert set(plan_seeds("", 0.0, [0.1]).effects[0].seeds.values()) == {None}


def test_what_so_many_seeds_detect_is_at_the_planning_sd_too():
    plan = plan_seeds("", 0.25, [0.1], n=6)
    assert plan.mde80["6"] == pytest.approx(mde(bound(0.25, 6), 6))
    assert plan.sd_ci95 == pytest.approx((0.62 * 0.25, 2.45 * 0.25), rel=0.01)


def test_a_control_that_has_not_learnt_is_a_caution(power, pilot):
    _, before, _ = power(pilot, "--effect", "0.1")
    (pilot / "comparison_report.json").write_text(json.dumps({"gate": {"failed": "its accuracy is 0.083"}}))
    _, after, _ = power(pilot, "--effect", "0.1")
    assert "Caution: its accuracy is 0.083" in after
    assert "Caution" not in before
    assert json.loads(power(pilot, "--json")[1])["not_learnt"] == "its accuracy is 0.083"
