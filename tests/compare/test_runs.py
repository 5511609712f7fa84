"""Our run folders: a verdict stands where a run's own report gives one, everything else is exploratory."""

import json
import shutil

import numpy as np
import pytest
from scipy import stats

from tests.compare.conftest import BITS, HIGH, LOW, NEVER_ASKED, SEEDS, reported, write_report
from tests.report.conftest import write_cell
from tokentrial.facts.families import TIMES_TABLE
from tokentrial.trial.load import load

ASKED = "pretrain/mul_table/asked/accuracy"
LOGPROB = "pretrain/mul_table/never_asked/choice_logprob"

# two runs


def test_the_same_arm_of_two_runs_pairs_by_seed_and_gets_no_verdict(low, high, by_outcome):
    contrast, d = by_outcome(high, low)[NEVER_ASKED], (np.array(HIGH) - np.array(LOW)) / 12
    assert (contrast["unit"], contrast["n_a"], contrast["n_b"], contrast["test"]) == ("seeds", 6, 6, "paired_t")
    assert contrast["p"] == pytest.approx(stats.ttest_1samp(d, 0).pvalue)
    assert contrast["interval"] == pytest.approx(list(stats.ttest_1samp(d, 0).confidence_interval(0.95)))
    assert contrast["p"] < 0.001
    assert (contrast["verdict"], contrast["finding"], contrast["p_adjusted"]) == (None, None, None)


def test_which_outcomes_are_shown_changes_none_of_them(low, high, by_outcome):
    """It once decided over how many contrasts p was corrected, and so a verdict."""
    contrasts = by_outcome(high, low)
    assert len(contrasts) > 5
    for outcome in (NEVER_ASKED, ASKED):
        assert by_outcome(high, low, "--outcome", outcome) == {outcome: contrasts[outcome]}


@pytest.mark.parametrize("counts", [HIGH, (1, 2, 1, 0, 2, 1)])
def test_the_order_of_the_arguments_changes_signs_alone(run_folder, low, by_outcome, counts):
    """Also where one of the two controls has not learnt: a gate once asked the later one only."""
    other = run_folder("other", {"baseline": counts})
    forward, backward = by_outcome(low, other), by_outcome(other, low)
    for outcome, contrast in forward.items():
        swapped = backward[outcome]
        assert swapped["difference"] == pytest.approx(-contrast["difference"])
        for key in ("p", "verdict", "finding", "test", "note", "detectable"):
            assert swapped[key] == pytest.approx(contrast[key])


def test_seeds_of_their_own_are_not_paired(run_folder, low, by_outcome):
    """An A/A run on seeds + 999, which leave the same facts unasked."""
    second = run_folder("second", {"baseline": LOW[::-1]}, tuple(seed + 999 for seed in SEEDS))
    contrast = by_outcome(low, second)[NEVER_ASKED]
    welch = stats.ttest_ind(np.array(LOW) / 12, np.array(LOW[::-1]) / 12, equal_var=False)
    assert (contrast["test"], contrast["verdict"]) == ("welch_t", None)
    assert contrast["p"] == pytest.approx(welch.pvalue)


def test_text_that_an_arm_of_either_run_rewrites_is_left_out_of_untouched_text(low, two_arms, by_outcome):
    """Whichever arms are compared: of three documents mul_tokens rewrites the second, of 50 bytes."""
    contrast = by_outcome(low, two_arms / "baseline")[BITS]
    assert contrast["value_a"] == contrast["value_b"] == pytest.approx(np.mean([700 + s for s in SEEDS]) / 400)


def test_an_evaluation_that_has_not_taken_its_place_is_none(two_arms_copy, by_outcome):
    """A kill while it was linked: the text is there, the samples are not."""
    cell = two_arms_copy / "baseline" / "seed1"
    expected = by_outcome(two_arms_copy / "baseline", two_arms_copy / "mul_tokens")
    (cell / "eval_sft.partial").mkdir()
    shutil.copy(cell / "eval_pretrain" / "heldout_text.json", cell / "eval_sft.partial")
    assert by_outcome(two_arms_copy / "baseline", two_arms_copy / "mul_tokens") == expected


def test_texts_that_differ_are_not_compared_by_bits(low, two_arms_copy, tokentrial):
    for path in two_arms_copy.rglob("heldout_text.json"):
        held_out = json.loads(path.read_text())
        held_out["documents"][0]["bytes"] = 99
        path.write_text(json.dumps(held_out))
    code, out, _ = tokentrial("compare", low, two_arms_copy / "baseline", "--json")
    assert code == 0
    assert not any("heldout" in contrast["outcome"] for contrast in json.loads(out)["contrasts"])
    assert any("held-out documents differ" in note for note in json.loads(out)["notes"])


def test_two_runs_are_said_to_differ_in_their_settings(low, high, run_folder, tokentrial):
    """And only the outcomes that one of them declares are listed, the others counted."""
    second = run_folder("longer", {"baseline": LOW}, tuple(seed + 3 for seed in SEEDS))
    given = (second / "trial.yaml").read_text()
    changed = given.replace("lr: 0.008", "lr: 0.004").replace("from_checkpoint: null", "from_checkpoint: a/b")
    (second / "trial.yaml").write_text(changed)
    notes = json.loads(tokentrial("compare", low, second, "--json")[1])["notes"]
    assert notes == ["settings that differ between low and longer: seeds, pretrain.lr, pretrain.from_checkpoint"]
    same = json.loads(tokentrial("compare", low, high, "--json")[1])["notes"]
    assert [note.partition(": ")[2] for note in same] == ["none, of files their names compared"]
    _, table, _ = tokentrial("compare", low, high)
    assert NEVER_ASKED in table
    assert LOGPROB not in table


# arms of one run


def test_what_a_run_s_own_report_judged_is_cited_either_way_round(two_arms_copy, by_outcome):
    judged = reported("primary", NEVER_ASKED, verdict="helps", p_adjusted=0.03)
    rerun = reported("again with budget.match=bytes", NEVER_ASKED, difference=-0.9)
    absent = dict.fromkeys(judged) | {"role": "secondary", "outcome": ASKED, "note": "not measured"}
    run = write_report(two_arms_copy, judged, rerun, absent, reported("exploratory", BITS, verdict="helps"))
    for words in ((run,), (run / "baseline", run / "mul_tokens")):
        contrasts = by_outcome(*words)
        contrast = contrasts[NEVER_ASKED]
        for key in ("difference", "interval", "p", "p_adjusted", "test", "detectable", "verdict", "alpha"):
            assert contrast[key] == judged[key]
        assert (contrast["a"], contrast["b"], contrast["n_a"]) == ("copy/mul_tokens", "copy/baseline", 3)
        assert (contrast["value_a"], contrast["value_b"]) == (judged["treatment_mean"], judged["control_mean"])
        assert contrast["floors"] == {"constant": 1 / 12}
        assert {c["verdict"] for outcome, c in contrasts.items() if outcome != NEVER_ASKED} == {None}
        assert [contrasts[outcome]["n_a"] for outcome in (BITS, ASKED)] == [3, 6]


def test_a_declared_contrast_of_two_treatments_is_shown(run_folder, compared):
    run = run_folder("three", {"baseline": LOW, "mul_tokens": HIGH, "mul_append": HIGH})
    pairs = {("mul_tokens", "baseline"), ("mul_append", "baseline")}
    assert {(c["a"].split("/")[1], c["b"].split("/")[1]) for c in compared(run)} == pairs
    write_report(run, reported("primary", NEVER_ASKED, "mul_append", "mul_tokens", verdict="no difference shown"))
    judged = [(c["a"], c["b"]) for c in compared(run) if c["verdict"]]
    assert judged == [("three/mul_append", "three/mul_tokens")]


def test_a_report_of_release_0_1_is_cited_over_the_seeds_that_were_declared(two_arms_copy, by_outcome):
    """Its contrasts stood below their outcomes, under other names; seed 6 was added after a look."""
    old = {"difference": -0.25, "ci95": [-0.5, 0.1], "ci90": None, "p": 0.04, "test": "paired_t", "p_sign_flip": 0.1}
    old |= {"p_holm": 0.08, "p_tost": None, "margin": 0.1, "mde80": 0.4, "n_seeds": 2, "note": "x"}
    outcomes = {
        outcome: {
            "floor": 0.0,
            "floors": {},
            "per_seed": {"baseline": [0.5, 0.75, 0.0], "mul_tokens": [0.25, 0.5, 1.0]},
            "contrasts": {"mul_tokens - baseline": old | {"verdict": verdict}},
        }
        for outcome, verdict in ((NEVER_ASKED, "no difference shown"), (BITS, None))
    }
    report = {"seeds": [1, 2, 6], "declared": {"seeds": [1, 2]}, "outcomes": outcomes}
    (two_arms_copy / "comparison_report.json").write_text(json.dumps(report))
    contrasts = by_outcome(two_arms_copy)
    cited = contrasts[NEVER_ASKED]
    assert (cited["verdict"], cited["difference"], cited["p_adjusted"]) == ("no difference shown", -0.25, 0.08)
    assert (cited["interval"], cited["detectable"], cited["n_a"]) == ([-0.5, 0.1], 0.4, 2)
    assert (cited["value_a"], cited["value_b"]) == (0.375, 0.625)
    assert (contrasts[BITS]["p"], contrasts[BITS]["verdict"]) == (0.04, None)
    assert contrasts[ASKED]["verdict"] is None


def test_the_table_shows_what_was_judged_at_its_level_and_counts_the_rest(two_arms_copy, tokentrial):
    run = write_report(two_arms_copy, reported("primary", NEVER_ASKED, verdict="helps", alpha=0.0056))
    shown = "".join(tokentrial("compare", run)[1].split())
    assert "at99.44%" in shown
    assert NEVER_ASKED in shown
    assert ASKED not in shown
    assert "furthercontrasts" in shown
    assert ASKED in "".join(tokentrial("compare", run, "--outcome", ASKED)[1].split())


# cells


@pytest.fixture
def two_cells(two_arms_copy):
    """`two_cells(facts, others)`: seed 1 of both arms, which know all but these never-asked facts."""

    def write(*unknown):
        trial = load(str(two_arms_copy / "trial.yaml"), [f"output={two_arms_copy}"])
        cells = [(arm, set(TIMES_TABLE) - set(facts)) for arm, facts in zip(trial.arms[::-1], unknown, strict=True)]
        for arm, known in cells:
            write_cell(trial, arm, 1, known)
        return [two_arms_copy / arm / "seed1" for arm, _ in cells]

    return write


def never_asked(square):
    facts = sorted(TIMES_TABLE.never_asked(1, 3))
    return [fact for fact in facts if (fact.operands[0] == fact.operands[1]) is square]


def test_a_cell_s_value_is_the_report_s_mean_over_facts(two_cells, by_outcome):
    """Ten facts of twelve, .833, are 18 items of 21, .857, where a square is among the two that are wrong."""
    wrong = [never_asked(square=True)[0], never_asked(square=False)[0]]
    contrasts = by_outcome(*two_cells(wrong, []))
    contrast = contrasts[NEVER_ASKED]
    items = sum(1 if fact.operands[0] == fact.operands[1] else 2 for fact in TIMES_TABLE.never_asked(1, 3))
    assert abs(contrast["value_a"] - (items - 3) / items) > 0.02
    assert (contrast["value_a"], contrast["value_b"]) == pytest.approx((10 / 12, 1))
    assert (contrast["unit"], contrast["n_a"], contrast["difference"]) == ("facts", 12, pytest.approx(-2 / 12))
    assert contrast["floors"]["constant"] == pytest.approx(1 / 12)  # no two of these facts have one answer
    d = [-1.0] * 2 + [0.0] * 10
    assert contrast["interval"] == pytest.approx(list(stats.ttest_1samp(d, 0).confidence_interval(0.95)))
    whole = contrasts["pretrain/mul_table/all/accuracy"]  # by the report's definition a mean over items
    assert (whole["value_a"], whole["difference"]) == pytest.approx((78 / 81, -3 / 81))


def test_three_facts_are_three_and_not_six_items(two_cells, by_outcome):
    """Six items, all on one side, give McNemar .031; of three facts the chance is 2 / 2^3."""
    assert stats.binomtest(6, 6).pvalue == 0.03125
    contrasts = by_outcome(*two_cells([], never_asked(square=False)[:3]))
    for outcome in (NEVER_ASKED, "pretrain/mul_table/all/accuracy", LOGPROB):
        contrast = contrasts[outcome]
        assert (contrast["test"], contrast["verdict"]) == ("sign_flip_over_facts", None)
        assert contrast["p"] == pytest.approx(0.25, abs=0.01)  # drawn where there are more than 20 facts
        assert contrast["finding"] == "not distinguishable at 5 %; one seed each"
    assert contrasts["pretrain/mul_table/all/accuracy"]["discordant"] == [6, 0]
    assert contrasts[BITS]["p"] is None


def test_cells_that_leave_out_other_facts_are_compared_by_those_in_common(two_arms, by_outcome):
    """Seeds 1 and 2 never ask the facts of other folds, so on those nothing pairs."""
    contrasts = by_outcome(two_arms / "mul_tokens" / "seed1", two_arms / "baseline" / "seed2")
    folds = [TIMES_TABLE.never_asked(seed, 3) for seed in (1, 2)]
    assert not folds[0] & folds[1]
    assert (contrasts[NEVER_ASKED]["p"], contrasts[NEVER_ASKED]["finding"]) == (None, None)
    asked = {fact for fact in TIMES_TABLE if fact.operands[0] > 1} - folds[0] - folds[1]
    assert contrasts[ASKED]["n_a"] == len(asked)


@pytest.mark.parametrize("pair", [("seed1", "seed2"), ("seed1", "."), (".", "seed1"), ("seed1", "seed1/eval_pretrain")])
def test_a_part_of_an_arm_is_not_tested_against_that_arm(two_arms, refused, pair):
    err = refused(*(two_arms / "baseline" / part for part in pair))
    assert "baseline/seed1" in err
    assert str(two_arms / "baseline") in err


def test_a_stage_of_a_cell_pairs_with_the_references_files(low, by_outcome, shared_data):
    cell = low / "baseline" / "seed1" / "eval_pretrain"
    reference = shared_data / "original_results" / "outputs" / "eval_sft_gsm8k_baseline" / "arithmetic_results.json"
    contrast = by_outcome(cell, reference)["mul_table/all/accuracy"]
    assert (contrast["n_a"], contrast["value_b"]) == (45, pytest.approx(55 / 81))


def test_one_model_against_another_arm_over_seeds(two_arms, by_outcome):
    model, arm = two_arms / "mul_tokens" / "seed2", two_arms / "baseline"
    contrast, backward = by_outcome(model, arm)[NEVER_ASKED], by_outcome(arm, model)[NEVER_ASKED]
    x, y = 1.0, np.array(LOW) / 12
    t = (x - y.mean()) / (y.std(ddof=1) * np.sqrt(7 / 6))
    assert contrast["p"] == pytest.approx(2 * stats.t.sf(abs(t), 5))
    assert (contrast["n_a"], contrast["n_b"], contrast["verdict"]) == (1, 6, None)
    outside = "mul_tokens/seed2 lies outside what the seeds of two_arms/baseline give; one seed against 6"
    assert contrast["finding"] == outside
    assert (backward["difference"], backward["p"]) == pytest.approx((-contrast["difference"], contrast["p"]))


def test_what_cannot_be_compared_says_what_there_is(run_folder, two_arms, refused):
    empty = run_folder("empty", {})
    assert str(empty) in refused(empty, empty)
    missing = refused(two_arms, "--outcome", "nothing")
    assert "--outcome nothing: not an outcome of both sides, which share" in missing


def test_solved_problems_are_compared_by_what_they_have(two_arms_copy, by_outcome):
    """Solutions that state a fact, and those that do not, have nats and no accuracy of their own."""
    for arm in ("mul_tokens", "baseline"):
        trial = load(str(two_arms_copy / "trial.yaml"), output=two_arms_copy)
        write_cell(trial, arm, 1, set(TIMES_TABLE), stages=("pretrain", "sft"))
    contrasts = by_outcome(*(two_arms_copy / arm / "seed1" for arm in ("mul_tokens", "baseline")))
    assert contrasts["sft/word_problems/all/accuracy"]["value_a"] == 0.5
    assert contrasts["sft/word_problems/with_site/gold_nats_per_byte"]["value_a"] == 1.0
    assert "sft/word_problems/with_site/accuracy" not in contrasts
