"""`comparison_report.json`: from result files to a verdict, and what may not be changed after a look."""

import json
import math
from itertools import product

import numpy as np
import pytest
from scipy import stats

from tokentrial.errors import TrialError
from tokentrial.report.canvas import WIDE
from tokentrial.report.comparison import build
from tokentrial.report.forest import forest
from tokentrial.run.run import rebuild
from tokentrial.store.files import read_json, write_json
from tokentrial.trial.declaration import DECLARED, declaration

NEVER = "pretrain/mul_table/never_asked/accuracy"
ASKED = "pretrain/mul_table/asked/accuracy"
BITS = "pretrain/heldout_text/untouched/bits_per_byte"
TOKENS, APPEND = "mul_tokens - baseline", "mul_append - baseline"
# declared pairs with one of two treatments, the later arm first
AMONG = (
    f"verdict.secondary=[{{outcome: {NEVER}, contrast: mul_append - mul_tokens}},"
    f" {{outcome: {ASKED}, contrast: {APPEND}}}, {{outcome: {BITS}, contrast: {TOKENS}}}]"
)
CONTRAST = {
    *("difference", "ci95", "ci90", "p", "test", "p_sign_flip", "p_holm", "p_tost"),
    *("margin", "mde80", "n_seeds", "verdict"),
}


def accuracy(made_up, arm):
    return np.array(made_up.knows[arm]) / 12


def scattered(trial):
    """The trial's results with figures at random in every cell."""
    for number, (arm, seed) in enumerate(product(trial.arms, trial.seeds)):
        folder, rng = trial.folder / arm / f"seed{seed}" / "eval_pretrain", np.random.default_rng(number)
        rows = [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]
        for row in rows:
            row["correct"] = bool(rng.random() < (number + 1) / 20)
            if "choice_logprob" in row:
                row["choice_logprob"] = -rng.random()
        (folder / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        held = read_json(folder / "heldout_text.json")
        for document in held["documents"]:
            document["bits"] *= 1 + rng.random()
        write_json(folder / "heldout_text.json", held)
    return trial


def read(trial):
    return json.loads((trial.folder / "comparison_report.json").read_bytes())


# the schema of the issue


def test_the_schema(made_up, compared):
    trial = made_up()
    compared(trial)
    report = read(trial)
    assert report["trial"] == "smoke"
    assert report["arms"] == ["baseline", "mul_tokens", "mul_append"]
    assert report["seeds"] == [1, 2, 3, 4, 5, 6]
    assert report["primary"]["outcome"] == NEVER
    assert report["primary"]["contrast"] == TOKENS
    assert report["primary"]["verdict"] == "hurts"
    assert {NEVER, ASKED, BITS, NEVER.replace("accuracy", "choice_logprob")} <= set(report["outcomes"])
    for name, outcome in report["outcomes"].items():
        assert name.count("/") == 3
        assert outcome["floor"] is None or isinstance(outcome["floor"], float)
        assert {arm: len(values) for arm, values in outcome["per_seed"].items()} == dict.fromkeys(report["arms"], 6)
        assert set(outcome["contrasts"]) == {TOKENS, APPEND}
        for made in outcome["contrasts"].values():
            assert set(made) >= CONTRAST
            for interval in (made["ci95"], made["ci90"]):
                assert interval is None or (len(interval) == 2 and interval[0] < interval[1])
            assert made["test"] in ("paired_t", "sign_flip")
            assert made["n_seeds"] == 6


def test_undefined_is_null_never_nan(made_up, compared):
    trial = made_up(knows={"baseline": (6,) * 6, "mul_tokens": (6,) * 6, "mul_append": (6,) * 6})
    compared(trial)
    made = read(trial)["outcomes"][NEVER]["contrasts"][TOKENS]
    assert (made["ci95"], made["ci90"], made["mde80"], made["p_tost"]) == (None, None, None, None)
    assert (made["difference"], made["p"], made["test"]) == (0.0, 1.0, "sign_flip")
    assert "NaN" not in (trial.folder / "comparison_report.json").read_text()


# the figures


def test_each_arm_s_values_stand_in_the_order_of_the_seeds(made_up, compared):
    report = compared(made_up())
    for arm in report["arms"]:
        assert report["outcomes"][NEVER]["per_seed"][arm] == pytest.approx(accuracy(made_up, arm))
        assert report["outcomes"][ASKED]["per_seed"][arm] == [1.0] * 6


@pytest.mark.parametrize("contrast", [TOKENS, APPEND])
def test_the_contrast_is_the_paired_t_of_scipy(made_up, compared, contrast):
    made = compared(made_up())["outcomes"][NEVER]["contrasts"][contrast]
    treatment = accuracy(made_up, contrast.split(" - ")[0])
    expected = stats.ttest_rel(treatment, accuracy(made_up, "baseline"))
    assert made["difference"] == pytest.approx(np.mean(treatment - accuracy(made_up, "baseline")))
    assert made["p"] == pytest.approx(expected.pvalue)
    assert made["ci95"] == pytest.approx(list(expected.confidence_interval(0.95)))
    assert made["ci90"] == pytest.approx(list(expected.confidence_interval(0.90)))
    assert made["test"] == "paired_t"
    assert made["p_sign_flip"] == pytest.approx(2 / 2**6)  # all six seeds agree
    assert made["margin"] == 0.1
    d = treatment - accuracy(made_up, "baseline")
    assert made["mde80"] == pytest.approx(1.435 * d.std(ddof=1), rel=1e-3)  # FACTS, section 4, at n = 6


def test_every_difference_is_treatment_minus_control_seed_by_seed(made_up, compared):
    """Of every outcome and every pair, of two treatments too; all cells are given other figures, so that none is 0."""
    report = compared(scattered(made_up(AMONG)))
    made = {(name, pair): m for name, o in report["outcomes"].items() for pair, m in o["contrasts"].items()}
    assert {pair for _, pair in made} == {TOKENS, APPEND, "mul_append - mul_tokens"}
    assert {name.rsplit("/")[-1] for name, _ in made} == {"accuracy", "choice_logprob", "bits_per_byte"}
    assert len(made) == 3 * len(report["outcomes"])
    for (name, pair), figures in made.items():
        treatment, control = (np.array(report["outcomes"][name]["per_seed"][arm]) for arm in pair.split(" - "))
        differences = treatment - control
        assert figures["difference"] == pytest.approx(differences.mean()), (name, pair)
        assert figures["ci95"] == pytest.approx(
            stats.t.interval(0.95, 5, differences.mean(), stats.sem(differences))
        ), (name, pair)
        assert differences.mean() != 0


def test_the_dots_of_the_forest_are_the_seeds_differences(made_up, compared):
    report = compared(scattered(made_up(AMONG)))
    declared = [report["declared"]["primary"], *report["declared"]["secondary"]]
    drawn = {}
    for axis in forest(report, WIDE).axes:
        for line in axis.lines:
            if (marker := line.get_marker()) in ("o", "D"):
                drawn.setdefault(marker, []).append(list(line.get_xdata()))
    assert len(drawn["o"]) == len(declared) == 4
    for pair, dots, [diamond] in zip(declared, drawn["o"], drawn["D"], strict=True):
        outcome = report["outcomes"][pair["outcome"]]
        treatment, control = (np.array(outcome["per_seed"][arm]) for arm in pair["contrast"].split(" - "))
        assert dots == pytest.approx(treatment - control)
        assert np.mean(dots) == pytest.approx(diamond) == outcome["contrasts"][pair["contrast"]]["difference"]


def test_seeds_are_paired_not_pooled(made_up, compared):
    """The same values in another order of seeds give the same difference and another interval."""
    shuffled = {**made_up.knows, "mul_tokens": (0, 1, 1, 2, 0, 1)}
    first = compared(made_up())["outcomes"][NEVER]["contrasts"][TOKENS]
    second = compared(made_up(knows=shuffled))["outcomes"][NEVER]["contrasts"][TOKENS]
    assert second["difference"] == pytest.approx(first["difference"])
    assert second["ci95"] != pytest.approx(first["ci95"])


def test_the_interval_over_facts_is_there_and_wider(made_up, compared):
    made = compared(made_up())["outcomes"][NEVER]["contrasts"][TOKENS]
    low, high = made["facts_ci95"]
    assert low < made["ci95"][0] < made["ci95"][1] < high


def test_floors_stand_beside_the_scores(made_up, compared):
    outcomes = compared(made_up())["outcomes"]
    whole = outcomes["pretrain/mul_table/all/accuracy"]
    assert whole["floors"] == pytest.approx(
        {"constant": 4 / 81, "echo_operand": 9 / 81, "echo_larger_operand": 17 / 81, "drill_unigram": 2 / 81}
    )
    assert whole["floor"] == pytest.approx(17 / 81)
    assert outcomes[NEVER.replace("accuracy", "choice_logprob")]["floor"] == pytest.approx(-math.log(36))
    assert outcomes[BITS]["floor"] is None


def test_consumption_is_the_mean_over_the_seeds(made_up, compared):
    consumed = compared(made_up())["consumed"]
    assert set(consumed) == {"baseline", "mul_tokens", "mul_append"}
    assert consumed["baseline"]["documents"] == 7
    assert consumed["baseline"]["train_seconds"] == pytest.approx(35)
    for key, value in (("tokens", 1000), ("bytes", 5000), ("questions", 135), ("fact_tokens", 7)):
        assert consumed["mul_tokens"][key] == value


def test_the_steps_to_sixty_per_cent(made_up, compared):
    curves = compared(made_up())["curves"]
    assert curves["mul_append"]["3"]["steps_to_60"] == {"asked": 20, "never_asked": None}
    assert [point["step"] for point in curves["mul_append"]["3"]["points"]] == [10, 20]


# verdicts


def test_declared_outcomes_get_a_verdict_and_no_others(made_up, compared):
    report = compared(made_up())
    verdicts = {
        (name, pair): made["verdict"]
        for name, outcome in report["outcomes"].items()
        for pair, made in outcome["contrasts"].items()
    }
    declared = {(NEVER, TOKENS), (NEVER, APPEND), (BITS, TOKENS)}
    assert {key for key, verdict in verdicts.items() if verdict is not None} == declared
    assert verdicts[NEVER, TOKENS] == "hurts"
    assert verdicts[NEVER, APPEND] == "helps"


def test_only_the_secondary_family_is_adjusted(made_up, compared):
    outcomes = compared(made_up())["outcomes"]
    assert outcomes[NEVER]["contrasts"][TOKENS]["p_holm"] is None
    append, bits = outcomes[NEVER]["contrasts"][APPEND], outcomes[BITS]["contrasts"][TOKENS]
    smaller, larger = sorted([append["p"], bits["p"]])
    assert sorted([append["p_holm"], bits["p_holm"]]) == pytest.approx([2 * smaller, max(2 * smaller, larger)])
    assert outcomes[ASKED]["contrasts"][TOKENS]["p_holm"] is None


def test_bits_per_byte_are_better_when_lower(made_up, compared):
    """The treatment pays one bit more for the same 400 bytes on every seed; sign-flip decides, as s = 0."""
    made = compared(made_up())["outcomes"][BITS]["contrasts"][TOKENS]
    assert made["difference"] == pytest.approx(1 / 400)
    assert made["test"] == "sign_flip"
    assert made["p"] == pytest.approx(2 / 2**6)
    # Holm over two: 2 x the smaller p is mul_append's, and this one stays at 0.03125, below 0.05
    assert made["verdict"] == "hurts"


def test_a_baseline_that_has_not_learnt_gets_no_other_verdict(made_up, compared):
    report = compared(made_up(learnt=False))
    assert report["gate"]["asked"] == 0
    assert "below 0.6" in report["gate"]["failed"]
    assert report["primary"]["verdict"] == "baseline has not learnt"
    made = report["outcomes"][BITS]["contrasts"][TOKENS]
    assert made["verdict"] == "baseline has not learnt"


def test_the_gate_looks_at_the_never_asked_facts_too(made_up, compared):
    report = compared(made_up(knows={**made_up.knows, "baseline": (4, 4, 4, 5, 5, 4)}))
    assert report["gate"]["asked"] == 1
    assert report["gate"]["never_asked"] == pytest.approx(26 / 72)
    assert "never-asked facts is 0.361, below 0.4" in report["gate"]["failed"]
    assert report["primary"]["verdict"] == "baseline has not learnt"


def test_a_passed_gate_is_told(made_up, compared):
    gate = compared(made_up())["gate"]
    assert gate["failed"] is None
    assert gate["never_asked"] == pytest.approx(accuracy(made_up, "baseline").mean())
    assert gate["needed"] == {"asked": 0.6, "never_asked": 0.4}


def test_a_trial_may_do_without_a_gate(made_up, compared):
    report = compared(made_up("verdict.gate=null", learnt=False))
    assert report["gate"] is None
    assert report["primary"]["verdict"] != "baseline has not learnt"


# what is not there yet


def test_missing_cells_are_named_and_there_is_no_verdict(made_up, compared):
    report = compared(made_up(leave_out=[("mul_tokens", 5), ("mul_append", 6)]))
    assert report["missing"] == ["mul_tokens/seed5 pretrain", "mul_append/seed6 pretrain"]
    assert report["primary"]["verdict"] is None
    assert "seeds [5, 6] are declared and not there" in report["primary"]["note"]
    outcome = report["outcomes"][NEVER]
    assert outcome["per_seed"]["mul_tokens"][4] is None
    assert outcome["per_seed"]["baseline"][4] == pytest.approx(6 / 12)
    assert outcome["contrasts"][TOKENS]["n_seeds"] == 4
    assert all(made["verdict"] is None for made in outcome["contrasts"].values())


def test_without_the_evaluation_that_the_gate_is_of_there_is_no_verdict(made_up, undrawn):
    """`run --stages` may leave evaluations out: the report of a later stage alone was a traceback."""
    trial = made_up("verdict.primary={outcome: sft/mul_table/asked/accuracy, contrast: mul_tokens - baseline}")
    evaluated = {}
    for arm, seed in product(trial.arms, trial.seeds):
        cell = trial.folder / arm / f"seed{seed}"
        evaluated[arm, seed] = {"sft": cell / "eval_pretrain"}
        write_json(cell / "sft" / "sft_results.json", {"seconds": 1.0})
    report = build(trial, evaluated, declaration(trial), trial.folder / DECLARED)
    assert report["gate"] is None
    assert report["primary"]["verdict"] is None
    assert report["primary"]["note"] == "no verdict yet: the gate is not measured"


def test_before_the_first_cell_there_is_a_report_of_nothing(made_up, compared):
    everything = [(arm, seed) for arm in made_up.knows for seed in range(1, 7)]
    report = compared(made_up(leave_out=everything))
    assert len(report["missing"]) == 18
    assert report["outcomes"] == {}
    assert report["primary"] == {"outcome": NEVER, "contrast": TOKENS, "verdict": None, "note": "not measured yet"}


def test_one_seed_gives_no_verdict(made_up, compared):
    report = compared(made_up("seeds=[1]", "verdict.gate=null"))
    made = report["outcomes"][NEVER]["contrasts"][TOKENS]
    assert made["verdict"] is None
    assert "these two models differ; one seed each" in made["note"]


# what was declared stands


def test_a_seed_added_after_a_look_does_not_enter_the_verdict(made_up, compared):
    before = compared(made_up())
    extended = made_up.trial("seeds=[1,2,3,4,5,6,7]")
    made_up.write(extended, {**made_up.knows, "mul_tokens": (1, 0, 2, 1, 1, 0, 12)})
    after = compared(extended)
    assert after["extended"] == ["extended after a look: exploratory (seeds: 7 added)"]
    assert after["outcomes"][NEVER]["contrasts"] == before["outcomes"][NEVER]["contrasts"]
    assert after["primary"] == before["primary"]
    assert after["outcomes"][NEVER]["per_seed"]["mul_tokens"][6] == 1.0  # shown, not counted
    assert "seeds: 7 added" in (extended.folder / "report.md").read_text()


def test_an_outcome_added_after_a_look_is_exploratory(made_up, compared):
    compared(made_up())
    added = "{outcome: pretrain/mul_table/all/accuracy, contrast: mul_append - baseline}"
    kept = "{outcome: pretrain/mul_table/never_asked/accuracy, contrast: mul_append - baseline}"
    report = compared(made_up.trial(f"verdict.secondary=[{kept},{added}]"))
    assert report["outcomes"]["pretrain/mul_table/all/accuracy"]["contrasts"][APPEND]["verdict"] is None
    assert any(line.startswith("extended after a look: exploratory (secondary") for line in report["extended"])
    assert "added)" in " ".join(report["extended"])
    assert "left out)" in " ".join(report["extended"])
    # what was declared and is now left out of the file still has its verdict
    assert report["outcomes"][BITS]["contrasts"][TOKENS]["verdict"] == "hurts"


@pytest.mark.parametrize(
    "override",
    [
        "verdict.alpha=0.49",
        "verdict.smallest_effect=0.9",
        "verdict.gate=null",
        "verdict.primary={outcome: pretrain/mul_table/asked/accuracy, contrast: mul_append - baseline}",
    ],
)
def test_what_decides_cannot_be_changed_after_a_look(made_up, compared, override):
    before = compared(made_up())
    after = compared(made_up.trial(override))
    assert after["primary"] == before["primary"]
    assert after["outcomes"] == before["outcomes"]
    assert after["gate"] == before["gate"]
    assert len(after["extended"]) == 1
    assert after["extended"][0].startswith("extended after a look: exploratory")


def test_another_control_after_a_look_changes_neither_gate_nor_verdict(made_up, compared):
    before = compared(made_up())
    after = compared(made_up.trial("control=mul_append"))
    assert after["gate"] == before["gate"]
    assert after["primary"] == before["primary"]
    assert after["extended"] == ["extended after a look: exploratory (control: mul_append for baseline)"]


def test_a_seed_left_out_after_a_look_takes_the_verdict_with_it(made_up, compared):
    compared(made_up())
    report = compared(made_up.trial("seeds=[1,2,3,4,5]"))
    assert report["primary"]["verdict"] is None
    assert report["extended"] == ["extended after a look: exploratory (seeds: 6 left out)"]


def test_an_arm_left_out_after_a_look_is_named(made_up, compared):
    compared(made_up())
    bits = "{outcome: pretrain/heldout_text/untouched/bits_per_byte, contrast: mul_tokens - baseline}"
    report = compared(made_up.trial("arms=[baseline,mul_tokens]", f"verdict.secondary=[{bits}]"))
    assert report["primary"]["verdict"] == "hurts"
    assert set(report["outcomes"][NEVER]["contrasts"]) == {TOKENS}
    assert "mul_append - baseline" in report["extended"][0]
    assert "left out" in report["extended"][0]


# building it


def test_nothing_is_built_anew_where_nothing_changed(made_up, compared):
    trial = made_up()
    first = compared(trial)
    inode = (trial.folder / "comparison_report.json").stat().st_ino
    assert compared(trial) == first
    assert (trial.folder / "comparison_report.json").stat().st_ino == inode


def test_a_cell_evaluated_anew_is_read_anew(made_up, compared):
    trial = made_up()
    before = compared(trial)["outcomes"][NEVER]["per_seed"]["mul_tokens"]
    made_up.write(trial, {**made_up.knows, "mul_tokens": (2, 0, 2, 1, 1, 0)})
    after = compared(trial)["outcomes"][NEVER]["per_seed"]["mul_tokens"]
    assert before[0] == pytest.approx(1 / 12)
    assert after[0] == pytest.approx(2 / 12)


def test_the_same_files_give_the_same_outcomes(made_up, compared):
    trial = made_up()
    first = compared(trial)
    (trial.folder / "comparison_report.json").unlink()
    assert compared(trial)["outcomes"] == first["outcomes"]


def test_a_report_that_was_cut_short_is_named(made_up, compared):
    trial = made_up()
    compared(trial)
    (trial.folder / "comparison_report.json").write_text('{"trial":')
    with pytest.raises(TrialError, match=r"comparison_report\.json: not valid JSON.*delete it and run again"):
        compared(trial)


def test_a_report_is_built_again_from_its_folder(finished_copy, tmp_path, undrawn):
    with pytest.raises(TrialError, match=r"no trial\.yaml there"):
        rebuild(tmp_path)
    before = read_json(finished_copy / "comparison_report.json")
    (finished_copy / "comparison_report.json").unlink()
    assert rebuild(finished_copy)["outcomes"] == before["outcomes"]
    (finished_copy / "corpus" / "exposure.json").unlink()
    with pytest.raises(TrialError, match="no corpus yet"):
        rebuild(finished_copy)
