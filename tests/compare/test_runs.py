"""Our run folders: arms over seeds get a verdict, cells do not."""

import json

import numpy as np
import pytest
from scipy import stats

from tests.report.conftest import compare as report_of
from tests.report.conftest import known, write_cell, write_exposure
from tokentrial.run.run_folder import open_run

NEVER = "pretrain/mul_table/never_asked/accuracy"
LOW, HIGH = (5, 6, 7, 5, 6, 8), (10, 12, 11, 11, 12, 12)
SEEDS = (1, 2, 3, 4, 5, 6)


@pytest.fixture
def reported(run_folder, undrawn):
    """A run of two arms with its report."""
    counts = {"baseline": LOW, "mul_tokens": HIGH}
    trial = open_run(run_folder("reported", counts))
    write_exposure(trial)
    for arm, of_arm in counts.items():
        for seed, count in zip(SEEDS, of_arm, strict=True):
            write_cell(trial, arm, seed, known(arm, seed, count))
    report_of(trial)
    return trial.folder


# two runs


def test_the_same_arm_of_two_runs_pairs_by_seed(run_folder, compared):
    first, second = run_folder("first", {"baseline": HIGH}), run_folder("second", {"baseline": LOW})
    made = {line["outcome"]: line for line in compared(first, second)}
    line, d = made[NEVER], (np.array(HIGH) - np.array(LOW)) / 12
    assert (line["unit"], line["n_seeds"], line["n_a"], line["test"]) == ("seeds", 6, 6, "paired_t")
    assert line["p"] == pytest.approx(stats.ttest_1samp(d, 0).pvalue)
    assert line["ci95"] == pytest.approx(list(stats.ttest_1samp(d, 0).confidence_interval(0.95)))
    assert line["verdict"] == "helps"
    assert "not declared before the runs: Holm over" in line["note"]
    assert line["p_holm"] > line["p"]


def test_of_two_runs_with_several_arms_those_of_one_name_are_compared(run_folder, compared):
    both = {"baseline": LOW, "mul_tokens": HIGH}
    pairs = {(line["a"], line["b"]) for line in compared(run_folder("one", both), run_folder("two", both))}
    assert pairs == {(f"one/{arm}", f"two/{arm}") for arm in both}


def test_a_run_against_itself_again_shows_no_difference(run_folder, compared):
    again = (5, 7, 6, 6, 5, 8)
    made = {
        line["outcome"]: line
        for line in compared(run_folder("one", {"baseline": LOW}), run_folder("two", {"baseline": again}))
    }
    assert made[NEVER]["verdict"] in ("no difference shown", "equivalent within 0.1")


def test_a_difference_lost_to_holm_is_no_difference_shown(run_folder, compared):
    """One of eleven outcomes at p = 0.02 is what chance gives."""
    made = compared(run_folder("one", {"baseline": LOW}), run_folder("two", {"baseline": (4, 6, 5, 5, 5, 7)}))
    line = next(line for line in made if line["outcome"] == NEVER)
    assert line["p"] < 0.05 <= line["p_holm"]
    assert line["verdict"] == "no difference shown"
    assert "not significant among" in line["note"]


def test_seeds_of_their_own_are_not_paired(run_folder, compared):
    """An A/A run on seeds + 999, which leave the same facts unasked."""
    first = run_folder("first", {"baseline": LOW})
    second = run_folder("second", {"baseline": LOW[::-1]}, tuple(seed + 999 for seed in SEEDS))
    line = next(line for line in compared(first, second) if line["outcome"] == NEVER)
    theirs = stats.ttest_ind(np.array(LOW) / 12, np.array(LOW[::-1]) / 12, equal_var=False)
    assert (line["test"], line["verdict"]) == ("welch_t", "no difference shown")
    assert line["p"] == pytest.approx(theirs.pvalue)
    assert "no seeds in common: unpaired" in line["note"]


def test_a_control_that_has_not_learnt_gets_no_other_verdict(run_folder, compared):
    first, second = run_folder("first", {"baseline": HIGH}), run_folder("second", {"baseline": (1, 2, 1, 0, 2, 1)})
    line = next(line for line in compared(first, second) if line["outcome"] == NEVER)
    assert line["verdict"] == "baseline has not learnt"
    assert "below 0.4" in line["note"]


def test_the_gate_holds_for_a_table_of_other_facts(run_folder, compared):
    first, second = run_folder("first", {"baseline": HIGH}), run_folder("second", {"baseline": (1, 2, 1, 0, 2, 1)})
    for path in (file for folder in (first, second) for file in folder.rglob("samples.jsonl")):
        path.write_text(path.read_text().replace('"mul_table"', '"add_table"'))
    made = {line["outcome"]: line["verdict"] for line in compared(first, second)}
    assert made["pretrain/add_table/never_asked/accuracy"] == "baseline has not learnt"


def test_swapping_two_runs_negates_the_difference_and_keeps_p(run_folder, compared):
    first, second = run_folder("first", {"baseline": HIGH}), run_folder("second", {"baseline": LOW})
    for one, other in zip(compared(first, second), compared(second, first), strict=True):
        assert one["outcome"] == other["outcome"]
        assert one["difference"] == pytest.approx(-other["difference"])
        assert (one["p"], one["p_holm"]) == pytest.approx((other["p"], other["p_holm"]))
        swapped = {"helps": "hurts", "hurts": "helps"}
        assert one["verdict"] == swapped.get(other["verdict"], other["verdict"])


# arms of one run


def test_the_table_shows_what_was_declared_and_counts_the_rest(reported, compared, tokentrial):
    verdicts = [line["verdict"] for line in compared(reported) if line["p"] is not None]
    code, out, _ = tokentrial("compare", reported)
    assert code == 0
    assert f"{verdicts.count(None)} exploratory contrasts get no verdict" in out
    assert NEVER in "".join(out.split())
    exploratory = "pretrain/mul_table/all/accuracy"
    assert exploratory not in "".join(out.split())
    assert exploratory in "".join(tokentrial("compare", reported, "--outcome", exploratory)[1].split())


def test_arms_of_one_run_get_what_its_report_says(reported, compared):
    report = json.loads((reported / "comparison_report.json").read_text())["outcomes"]
    for line in compared(reported):
        theirs = report[line["outcome"]]["contrasts"]["mul_tokens - baseline"]
        for key in ("difference", "ci95", "p", "p_holm", "verdict", "mde80", "test"):
            assert line[key] == theirs[key]
        assert line["a"] == "reported/mul_tokens"
        assert line["floors"] == report[line["outcome"]]["floors"]


def test_the_other_way_round_help_is_hurt(reported, compared):
    line = next(line for line in compared(reported / "baseline", reported / "mul_tokens") if line["outcome"] == NEVER)
    assert line["verdict"] == "hurts"
    assert line["difference"] < 0
    assert line["ci95"][0] < line["difference"] < line["ci95"][1] < 0


def test_without_a_report_nothing_was_declared_and_there_is_no_verdict(run_folder, compared):
    folder = run_folder("bare", {"baseline": LOW, "mul_tokens": HIGH})
    made = compared(folder)
    assert {line["verdict"] for line in made} == {None}
    assert all("exploratory" in line["note"] for line in made)


# cells


def test_two_cells_are_two_models(run_folder, compared):
    folder = run_folder("run", {"baseline": LOW, "mul_tokens": HIGH})
    made = {line["outcome"]: line for line in compared(folder / "mul_tokens" / "seed1", folder / "baseline" / "seed1")}
    line = made[NEVER]
    assert (line["unit"], line["n_seeds"], line["test"]) == ("items", 1, "mcnemar_exact")
    assert "no verdict on the arm" in line["note"]
    assert "items ask 12 facts" in line["note"]  # of the squares there is one order only
    assert line["p"] < line["p_by_fact"]
    assert made["pretrain/heldout_text/untouched/bits_per_byte"]["p"] is None


def test_a_stage_of_a_cell_stands_beside_the_references_files(run_folder, compared, shared_data):
    cell = run_folder("run", {"baseline": LOW}) / "baseline" / "seed1" / "eval_pretrain"
    theirs = shared_data / "original_results" / "outputs" / "eval_sft_gsm8k_baseline" / "arithmetic_results.json"
    line = next(line for line in compared(cell, theirs) if line["outcome"] == "mul_table/all/accuracy")
    assert (line["n_items"], line["test"]) == (81, "mcnemar_exact")
    assert line["value_b"] == pytest.approx(55 / 81)


def test_one_model_against_an_arm_over_seeds(run_folder, compared):
    folder = run_folder("run", {"baseline": LOW, "mul_tokens": HIGH})
    made = compared(folder / "mul_tokens" / "seed2", folder / "baseline", "--outcome", NEVER)
    [line] = made
    x, y = 1.0, np.array(LOW) / 12
    t = (x - y.mean()) / (y.std(ddof=1) * np.sqrt(7 / 6))
    assert line["p"] == pytest.approx(2 * stats.t.sf(abs(t), 5))
    assert (line["n_a"], line["n_b"], line["n_seeds"]) == (1, 6, 1)
    assert line["verdict"] == "mul_tokens/seed2 lies outside what the seeds of run/baseline give; one seed against 6"
    [turned] = compared(folder / "baseline", folder / "mul_tokens" / "seed2", "--outcome", NEVER)
    assert (turned["difference"], turned["p"]) == pytest.approx((-line["difference"], line["p"]))


def test_texts_that_differ_are_not_compared_by_bits(run_folder, tokentrial):
    first, second = run_folder("first", {"baseline": LOW}), run_folder("second", {"baseline": LOW})
    for path in second.rglob("heldout_text.json"):
        held = json.loads(path.read_text())
        held["documents"][0]["bytes"] = 99
        path.write_text(json.dumps(held))
    code, out, _ = tokentrial("compare", first, second, "--json")
    made = json.loads(out)
    assert code == 0
    assert not any("heldout" in line["outcome"] for line in made["contrasts"])
    assert any("held-out documents differ" in note for note in made["notes"])


def test_a_run_without_results_says_what_to_do(run_folder, tokentrial):
    folder = run_folder("empty", {})
    code, _, err = tokentrial("compare", folder, folder)
    assert code == 2
    assert str(folder) in err


def test_no_outcome_in_common_names_what_there_is(run_folder, tokentrial):
    folder = run_folder("run", {"baseline": LOW, "mul_tokens": HIGH})
    code, _, err = tokentrial("compare", folder, "--outcome", "nothing")
    assert code == 2
    assert "--outcome nothing: no outcome that both sides have; there are" in err
