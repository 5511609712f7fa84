"""`tokentrial power`: seeds from a pilot's report, or from a standard deviation."""

import json
import math

import numpy as np
import pytest
from statsmodels.stats.power import TTestPower

from tokentrial.plan.power import plan_seeds
from tokentrial.statistics.power import mde, seeds_needed
from tokentrial.statistics.power import power as chance

OUTCOME = "pretrain/mul_table/never_asked/accuracy"
A, B = [0.1, 0.0, 0.2, 0.1, None], [0.5, 0.9, 0.6, 0.4, 0.7]


@pytest.fixture
def power(tokentrial):
    return lambda *words: tokentrial("power", *words)


@pytest.fixture
def pilot(tmp_path):
    report = {
        "primary": {"outcome": OUTCOME, "contrast": "x - y"},
        "declared": {"alpha": 0.05, "smallest_effect": 0.1},
        "outcomes": {
            OUTCOME: {"per_seed": {"x": A, "y": B, "z": [None] * 5}},
            "pretrain/heldout_text/untouched/bits_per_byte": {"per_seed": {"x": [2.0, 2.1], "y": [2.2, 2.2]}},
        },
    }
    (tmp_path / "comparison_report.json").write_text(json.dumps(report))
    return tmp_path


def test_the_noise_is_that_of_the_seeds_with_both_arms(power, pilot):
    code, out, err = power(pilot, "--json")
    made = json.loads(out)
    sd = np.std(np.subtract(A[:4], B[:4]), ddof=1)
    assert (code, err, made["n"]) == (0, "", 4)
    assert made["sd"] == pytest.approx(sd)
    assert [row["effect"] for row in made["effects"]] == [0.05, 0.1, 0.2]  # about the declared smallest effect
    assert made["effects"][1]["seeds"]["80"] == seeds_needed(0.1, 1.46 * sd)


def test_another_outcome_contrast_and_effect(power, pilot):
    words = ("--outcome", "pretrain/heldout_text/untouched/bits_per_byte", "--contrast", "y - x", "--effect", "0.02")
    made = json.loads(power(pilot, *words, "--json")[1])
    assert made["sd"] == pytest.approx(np.std([0.2, 0.1], ddof=1))
    assert [row["effect"] for row in made["effects"]] == [0.02]


def test_a_standard_deviation_and_effects_on_the_line(power):
    code, out, _ = power("--sd", "0.25", "--effect", "0.3", "0.1")
    assert code == 0
    rows = {words[0]: words[1:] for line in out.splitlines() if len(words := line.split()) == 6}
    for effect in ("0.3", "0.1"):
        planned = [seeds_needed(float(effect), 0.365, power=share) for share in (0.5, 0.8, 0.9, 0.95)]
        assert rows[effect] == [str(n) for n in (*planned, seeds_needed(float(effect), 0.25))]


def test_what_is_out_of_reach_or_without_noise_says_so(power):
    assert "over 1000" in power("--sd", "0.25", "--effect", "0.001")[1]
    assert "cannot be planned" in power("--sd", "0", "--effect", "0.1")[1]


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ((), "give one run folder with a report, or --sd"),
        (("absent",), "absent: no comparison_report.json there; run `tokentrial report absent` first, or give --sd"),
        (("absent", "--sd", "0.2"), "give one run folder"),
        (("--sd", "nan", "--effect", "0.1"), "found nan"),
        (("--sd", "-1", "--effect", "0.1"), "found -1"),
        (("--sd", "inf", "--effect", "0.1"), "found inf"),
        (("--sd", "0.2", "--effect", "nan"), "found [nan]"),
        (("--sd", "0.2", "--effect", "0"), "found [0.0]"),
        (("--sd", "0.2", "--outcome", "x"), "are of a run folder"),
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
        (("--contrast", "x - z"), "found 0 seeds with both arms"),
    ],
)
def test_what_the_report_has_not(power, pilot, words, found):
    code, _, err = power(pilot, *words)
    assert code in (1, 2)
    assert found in err
    for content in ("[", "[]", '{"primary": 3}'):
        (pilot / "comparison_report.json").write_text(content)
        code, _, err = power(pilot, *words)
        assert (code, err.count("\n")) == (1, 1)
        assert "comparison_report.json: " in err


# the plan itself


def test_seeds_are_the_fewest_that_reach_each_power_at_the_planning_sd():
    plan = plan_seeds("", 0.25, [-0.3, 0.1])
    assert plan.planning_sd == pytest.approx(1.46 * 0.25)
    for row in plan.effects:
        for percent, n in row.seeds.items():
            assert chance(row.effect, 0.365, n) >= float(percent) / 100 > chance(row.effect, 0.365, n - 1)
        solved = TTestPower().solve_power(abs(row.effect) / 0.365, alpha=0.05, power=0.8)  # statsmodels'
        assert row.seeds["80"] == math.ceil(solved)
    assert set(plan_seeds("", 0.0, [0.1]).effects[0].seeds.values()) == {None}


def test_what_so_many_seeds_detect_is_at_the_planning_sd_too():
    plan = plan_seeds("", 0.25, [0.1], n=6)
    assert plan.mde80["6"] == pytest.approx(mde(1.46 * 0.25, 6))
    assert plan.sd_ci95 == pytest.approx((0.62 * 0.25, 2.45 * 0.25), rel=0.01)
