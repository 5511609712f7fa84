"""Our run folders: arms over seeds get a verdict, cells do not."""

import json

import numpy as np
import pytest
from scipy import stats

from tests.compare.conftest import HIGH, LOW, NEVER_ASKED, SEEDS
from tests.report.conftest import build_report, write_exposure
from tokentrial.run.run_folder import open_run


@pytest.fixture
def reported(two_arms_copy, undrawn):
    """A run of two arms with its report."""
    trial = open_run(two_arms_copy)
    write_exposure(trial)
    build_report(trial)
    return trial.folder


# two runs


def test_the_same_arm_of_two_runs_pairs_by_seed(low, high, by_outcome):
    contrasts = by_outcome(high, low)
    contrast, d = contrasts[NEVER_ASKED], (np.array(HIGH) - np.array(LOW)) / 12
    assert (contrast["unit"], contrast["n_seeds"], contrast["n_a"], contrast["test"]) == ("seeds", 6, 6, "paired_t")
    assert contrast["p"] == pytest.approx(stats.ttest_1samp(d, 0).pvalue)
    assert contrast["ci95"] == pytest.approx(list(stats.ttest_1samp(d, 0).confidence_interval(0.95)))
    assert contrast["verdict"] == "helps"
    assert "not declared before the runs: Holm over" in contrast["note"]
    assert contrast["p_holm"] > contrast["p"]
    for outcome, swapped in by_outcome(low, high).items():
        contrast = contrasts[outcome]
        assert swapped["difference"] == pytest.approx(-contrast["difference"])
        assert (swapped["p"], swapped["p_holm"]) == pytest.approx((contrast["p"], contrast["p_holm"]))
        if contrast["verdict"] == "helps":
            assert swapped["verdict"] == "hurts"


@pytest.mark.parametrize(
    ("counts", "note"),
    [
        ((4, 6, 5, 5, 5, 7), "not significant among"),  # p = 0.02, which one outcome of eleven has by chance
        ((5, 7, 6, 6, 5, 8), "Holm over"),
    ],
)
def test_what_does_not_survive_holm_is_no_difference_shown(run_folder, low, by_outcome, counts, note):
    contrast = by_outcome(low, run_folder("again", {"baseline": counts}))[NEVER_ASKED]
    assert contrast["p_holm"] >= 0.05
    assert contrast["verdict"] in ("no difference shown", "equivalent within 0.1")
    assert note in contrast["note"]


def test_seeds_of_their_own_are_not_paired(run_folder, low, by_outcome):
    """An A/A run on seeds + 999, which leave the same facts unasked."""
    second = run_folder("second", {"baseline": LOW[::-1]}, tuple(seed + 999 for seed in SEEDS))
    contrast = by_outcome(low, second)[NEVER_ASKED]
    welch = stats.ttest_ind(np.array(LOW) / 12, np.array(LOW[::-1]) / 12, equal_var=False)
    assert (contrast["test"], contrast["verdict"]) == ("welch_t", "no difference shown")
    assert contrast["p"] == pytest.approx(welch.pvalue)
    assert "no seeds in common: unpaired" in contrast["note"]


@pytest.mark.parametrize("table", ["mul_table", "add_table"])
def test_a_control_that_has_not_learnt_gets_no_other_verdict(run_folder, by_outcome, table):
    first, second = (
        run_folder(name, {"baseline": counts}) for name, counts in (("a", HIGH), ("b", (1, 2, 1, 0, 2, 1)))
    )
    for path in (path for folder in (first, second) for path in folder.rglob("samples.jsonl")):
        path.write_text(path.read_text().replace('"mul_table"', f'"{table}"'))
    contrast = by_outcome(first, second)[NEVER_ASKED.replace("mul_table", table)]
    assert contrast["verdict"] == "baseline has not learnt"
    assert "below 0.4" in contrast["note"]


def test_texts_that_differ_are_not_compared_by_bits(low, two_arms_copy, tokentrial):
    for path in two_arms_copy.rglob("heldout_text.json"):
        held_out = json.loads(path.read_text())
        held_out["documents"][0]["bytes"] = 99
        path.write_text(json.dumps(held_out))
    code, out, _ = tokentrial("compare", low, two_arms_copy / "baseline", "--json")
    assert code == 0
    assert not any("heldout" in contrast["outcome"] for contrast in json.loads(out)["contrasts"])
    assert any("held-out documents differ" in note for note in json.loads(out)["notes"])


# arms of one run


def test_arms_of_one_run_get_what_its_report_says_either_way_round(reported, by_outcome):
    report = json.loads((reported / "comparison_report.json").read_text())["outcomes"]
    contrasts = by_outcome(reported)
    for outcome, contrast in contrasts.items():
        stated = report[outcome]["contrasts"]["mul_tokens - baseline"]
        for key in ("difference", "ci95", "p", "p_holm", "verdict", "mde80", "test"):
            assert contrast[key] == stated[key]
        assert contrast["a"] == "copy/mul_tokens"
        assert contrast["floors"] == report[outcome]["floors"]
    forward, backward = contrasts[NEVER_ASKED], by_outcome(reported / "baseline", reported / "mul_tokens")[NEVER_ASKED]
    assert (forward["verdict"], backward["verdict"]) == ("helps", "hurts")
    assert backward["ci95"] == [-end for end in reversed(forward["ci95"])]


def test_the_table_shows_what_was_declared_and_counts_the_rest(reported, compared, tokentrial):
    verdicts = [contrast["verdict"] for contrast in compared(reported) if contrast["p"] is not None]
    _, out, _ = tokentrial("compare", reported)
    assert f"{verdicts.count(None)} exploratory contrasts get no verdict" in out
    exploratory = "pretrain/mul_table/all/accuracy"
    assert NEVER_ASKED in "".join(out.split())
    assert exploratory not in "".join(out.split())
    assert exploratory in "".join(tokentrial("compare", reported, "--outcome", exploratory)[1].split())


def test_without_a_report_nothing_was_declared_and_there_is_no_verdict(two_arms, compared):
    contrasts = compared(two_arms)
    assert {contrast["verdict"] for contrast in contrasts} == {None}
    assert all("exploratory" in contrast["note"] for contrast in contrasts)


# cells


def test_two_cells_are_two_models(two_arms, by_outcome):
    contrasts = by_outcome(two_arms / "mul_tokens" / "seed1", two_arms / "baseline" / "seed1")
    contrast = contrasts[NEVER_ASKED]
    assert (contrast["unit"], contrast["n_seeds"], contrast["test"]) == ("items", 1, "mcnemar_exact")
    assert "no verdict on the arm" in contrast["note"]
    assert "items ask 12 facts" in contrast["note"]  # of the squares there is one order only
    assert contrast["p"] < contrast["p_by_fact"]
    assert contrasts["pretrain/heldout_text/untouched/bits_per_byte"]["p"] is None


def test_a_stage_of_a_cell_pairs_with_the_references_files(low, by_outcome, shared_data):
    cell = low / "baseline" / "seed1" / "eval_pretrain"
    reference = shared_data / "original_results" / "outputs" / "eval_sft_gsm8k_baseline" / "arithmetic_results.json"
    contrast = by_outcome(cell, reference)["mul_table/all/accuracy"]
    assert (contrast["n_items"], contrast["test"]) == (81, "mcnemar_exact")
    assert contrast["value_b"] == pytest.approx(55 / 81)


def test_one_model_against_an_arm_over_seeds(two_arms, by_outcome):
    model, arm = two_arms / "mul_tokens" / "seed2", two_arms / "baseline"
    contrast, backward = by_outcome(model, arm)[NEVER_ASKED], by_outcome(arm, model)[NEVER_ASKED]
    x, y = 1.0, np.array(LOW) / 12
    t = (x - y.mean()) / (y.std(ddof=1) * np.sqrt(7 / 6))
    assert contrast["p"] == pytest.approx(2 * stats.t.sf(abs(t), 5))
    assert (contrast["n_a"], contrast["n_b"], contrast["n_seeds"]) == (1, 6, 1)
    outside = "mul_tokens/seed2 lies outside what the seeds of two_arms/baseline give; one seed against 6"
    assert contrast["verdict"] == outside
    assert (backward["difference"], backward["p"]) == pytest.approx((-contrast["difference"], contrast["p"]))


def test_what_cannot_be_compared_says_what_there_is(run_folder, two_arms, refused):
    empty = run_folder("empty", {})
    assert str(empty) in refused(empty, empty)
    missing = refused(two_arms, "--outcome", "nothing")
    assert "--outcome nothing: no outcome that both sides have; there are" in missing
