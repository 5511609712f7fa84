"""`comparison_report.json`: what it holds of the result files, what stands after a look, when it is built."""

import math
import shutil
import statistics

import numpy as np
import pytest
import yaml

from tests.report.conftest import KNOWS, write_manifest
from tokentrial.errors import TrialError
from tokentrial.report import comparison
from tokentrial.run.run import rebuild
from tokentrial.statistics.contrast import Contrast
from tokentrial.store.files import read_json, write_json
from tokentrial.tasks.arithmetic import Arithmetic

NEVER = "pretrain/mul_table/never_asked/accuracy"
ASKED = "pretrain/mul_table/asked/accuracy"
BITS = "pretrain/heldout_text/untouched/bits_per_byte"
TOKENS, APPEND = "mul_tokens - baseline", "mul_append - baseline"


@pytest.fixture
def published_again(synthetic_run, published):
    """`published_again(*overrides)`: the published run, which was declared, with its settings changed after a look."""
    shutil.copytree(published, synthetic_run.folder)
    return synthetic_run.trial


def key_of(contrast):
    return contrast["outcome"], f"{contrast['treatment']} - {contrast['control']}"


# what it holds


def test_the_schema(published, report):
    assert "NaN" not in (published / "comparison_report.json").read_text()
    assert (report["trial"], report["arms"], report["seeds"]) == ("smoke", [*KNOWS], [1, 2, 3, 4, 5, 6])
    assert report["primary"] == {"outcome": NEVER, "contrast": TOKENS, "verdict": "hurts", "note": ""}
    assert {NEVER, ASKED, BITS, NEVER.replace("accuracy", "choice_logprob")} <= set(report["outcomes"])
    for name, outcome in report["outcomes"].items():
        assert name.count("/") == 3
        assert outcome["floor"] is None or isinstance(outcome["floor"], float)
        assert {arm: len(values) for arm, values in outcome["per_seed"].items()} == dict.fromkeys(report["arms"], 6)
    declared = [("primary", NEVER, TOKENS), ("secondary", NEVER, APPEND), ("secondary", BITS, TOKENS)]
    assert [(c["role"], *key_of(c)) for c in report["contrasts"][:3]] == declared
    assert {c["role"] for c in report["contrasts"][3:]} == {"exploratory"}
    assert {key_of(c) for c in report["contrasts"]} == {(n, p) for n in report["outcomes"] for p in (TOKENS, APPEND)}
    assert all(c.keys() == Contrast.__dataclass_fields__.keys() for c in report["contrasts"])


def test_values_stand_in_the_order_of_the_seeds_with_their_floor(report):
    outcomes = report["outcomes"]
    for arm, counts in KNOWS.items():
        assert outcomes[NEVER]["per_seed"][arm] == pytest.approx(np.array(counts) / 12)
        assert outcomes[ASKED]["per_seed"][arm] == [1.0] * 6
    whole = outcomes["pretrain/mul_table/all/accuracy"]
    assert whole["floors"] == pytest.approx(
        {"constant": 4 / 81, "echo_operand": 9 / 81, "echo_larger_operand": 17 / 81, "drill_unigram": 2 / 81}
    )
    assert whole["floor"] == pytest.approx(17 / 81)
    assert outcomes[NEVER.replace("accuracy", "choice_logprob")]["floor"] == pytest.approx(-math.log(36))
    assert outcomes[BITS]["floor"] is None


def test_consumption_is_the_mean_over_the_seeds(report):
    consumed = report["consumed"]["mul_tokens"]
    # 1,000 tokens, 1 layer, width 32, 1,000 ids, context 64: 6 a weight of a matrix, and attention
    assert consumed == {
        **{"tokens": 1000, "bytes": 5000, "documents": 7, "questions": 135, "fact_tokens": 7, "drill_share": 0.6},
        **{"parameters": 12345, "flops": 1000 * (6 * (12 * 32**2 + 1000 * 32) + 12 * 32 * 64)},
        **{"train_seconds": 35, "sft_seconds": 60, "evaluation_seconds": 2 * 2.5},
    }
    forms = {"equation": 225, "question": 138, "statement": 45, "boxes": 45}
    assert report["dose"]["by_arm"]["baseline"]["forms"] == forms
    assert report["dose"]["after_pretraining"] == {"sft": {"rows": 100, "stated": 3, "asked": 0}}
    curve = report["curves"]["mul_append"]["3"]
    assert curve["steps_to_60"] == {"asked": 20, "never_asked": None}
    assert [point["step"] for point in curve["points"]] == [10, 20]


def test_the_checks_are_shares_of_the_answers_of_all_seeds(report):
    items = 81 + 5 * 5
    checks = report["checks"]["mul_tokens"]
    assert checks["pretrain"] == {"items": 6 * items, "fact_tokens_per_item": 0, "unread": 0, "truncated": None}
    shares = {"fact_tokens_per_item": 10 / (items + 10), "unread": 10 / (items + 10), "truncated": 0.1}
    assert checks["sft"] == pytest.approx({"items": 6 * (items + 10)} | shares)
    assert report["corpus"]["by_arm"]["mul_tokens"]["sites_in_context"] == 1


def test_the_table_keeps_asked_and_never_asked_apart(report):
    """Each fact of 2-9 is never asked in two of the six seeds; the synthetic arms know all that is asked."""
    table = report["tables"]["pretrain"]["mul_append"]["accuracy"]
    assert table["asked"] == [[1.0] * 9] * 9
    never = table["never_asked"]
    assert never[0] == [None] * 9
    assert [row[0] for row in never] == [None] * 9
    values = [value for row in never[1:] for value in row[1:]]
    # 10, 12, 11, 11, 12 and 12 of 12 facts; over items a square weighs half as much as another fact
    assert np.mean(values) == pytest.approx(68 / 72, abs=0.03)


def test_the_completions_are_of_one_seed_and_every_pattern_of_right_and_wrong(report):
    sample, questions = report["samples"]["pretrain"], {example.question for example in Arithmetic(5).table()}
    assert (sample["seed"], len(sample["items"])) == (1, 10)
    assert len({tuple(answer["correct"] for answer in item["arms"].values()) for item in sample["items"]}) >= 3
    assert {item["question"] for item in sample["items"]} <= questions
    after_sft = [item["task"] for item in report["samples"]["sft"]["items"]]
    assert after_sft == ["mul_table"] * 5 + ["word_problems"] * 5


# what was declared stands


def test_what_decides_cannot_be_changed_after_a_look(published_again, report, build_undrawn):
    kept = f"{{outcome: {NEVER}, contrast: {APPEND}}}"
    changes = (
        "verdict.gate=null",
        "verdict.alpha=0.49",
        "verdict.smallest_effect=0.9",
        f"verdict.primary={{outcome: {ASKED}, contrast: {APPEND}}}",
        f"verdict.secondary=[{kept},{{outcome: pretrain/mul_table/all/accuracy, contrast: {APPEND}}}]",
        "control=mul_append",
    )
    after = build_undrawn(published_again(*changes))
    assert after["primary"] == report["primary"]
    assert after["gate"] == report["gate"]
    assert after["contrasts"][:3] == report["contrasts"][:3]  # also that which was left out of the file
    whole = [c["verdict"] for c in after["contrasts"] if key_of(c) == ("pretrain/mul_table/all/accuracy", APPEND)]
    assert whole == [None]
    departures = after["declaration"]["departures"]
    assert all(any(change.partition("=")[0] in line for line in departures) for change in changes)
    assert after["declaration"]["sha256"] == report["declaration"]["sha256"]


def test_a_seed_added_after_a_look_does_not_enter_the_verdict(synthetic_run, published_again, report, build_undrawn):
    trial = published_again("seeds=[1,2,3,4,5,6,7]", "sweep={pretrain.n_embd: [32]}")  # the trial's own width
    more = {arm: (*counts, 12) for arm, counts in KNOWS.items()}
    synthetic_run.write(trial, more, stages=("pretrain", "sft"))
    after = build_undrawn(trial)
    assert any(line.startswith("seeds: 7 added") for line in after["declaration"]["departures"])
    assert after["contrasts"] == report["contrasts"]
    assert after["primary"] == report["primary"]
    assert after["outcomes"][NEVER]["per_seed"]["mul_tokens"][6] == 1.0  # shown, not counted
    [point] = after["sweep"]["points"]
    assert point["outcomes"][NEVER]["arms"]["mul_tokens"]["mean"] == pytest.approx(sum(KNOWS["mul_tokens"]) / 72)
    text = (trial.folder / "report.md").read_text()
    assert "seeds: 7 added" in text
    assert (
        f"{statistics.mean([*KNOWS['mul_tokens'], 12]) / 12:.3f}" not in text
    )  # no mean of 7 beside a difference of 6


def test_seeds_and_arms_left_out_after_a_look_are_named_and_a_seed_takes_the_verdict_with_it(
    published_again, build_undrawn
):
    bits = f"{{outcome: {BITS}, contrast: {TOKENS}}}"
    report = build_undrawn(published_again("seeds=[1,2,3,4,5]", f"verdict.secondary=[{bits}]"))
    assert report["primary"]["verdict"] is None
    departures = report["declaration"]["departures"]
    assert any(line.startswith("seeds: 6 left out") for line in departures)
    assert any(APPEND in line and "left out" in line for line in departures)


# when it is built


def test_it_is_built_again_only_where_results_changed_or_the_page_is_gone(synthetic_run, build_undrawn, monkeypatch):
    knows = {"baseline": (5,), "mul_tokens": (1,), "mul_append": (9,)}
    trial = synthetic_run("seeds=[1]", knows=knows)
    before = build_undrawn(trial)
    path, page = (trial.folder / name for name in ("comparison_report.json", "report.html"))
    with monkeypatch.context() as patch:
        patch.setattr(comparison, "_report", lambda *given: pytest.fail("built a second time"))
        assert build_undrawn(trial) == before
    page.unlink()
    assert build_undrawn(trial)["outcomes"] == before["outcomes"]
    assert page.exists()
    synthetic_run.write(trial, knows | {"mul_tokens": (2,)})
    assert build_undrawn(trial)["outcomes"][NEVER]["per_seed"]["mul_tokens"] == [pytest.approx(2 / 12)]
    path.write_text('{"trial":')
    with pytest.raises(TrialError, match=r"comparison_report\.json: not valid JSON.*delete it and run again"):
        build_undrawn(trial)


def test_an_evaluation_that_was_made_again_is_reported_again(synthetic_run, build_undrawn):
    """On another machine, or with other passes: nothing of that is in the fingerprint."""
    trial = synthetic_run("seeds=[1]", knows=dict.fromkeys(KNOWS, (5,)))
    before = build_undrawn(trial)
    path = trial.folder / "baseline" / "seed1" / "eval_pretrain" / "manifest.json"
    manifest = read_json(path)
    manifest["provenance"]["time"] = "2026-02-02T00:00:00+00:00"
    write_json(path, manifest)
    after = build_undrawn(trial)
    assert (before["made_by"]["last"][:10], after["made_by"]["last"][:10]) == ("2026-01-01", "2026-02-02")


@pytest.mark.parametrize("name", ["report.md", "results.csv"])
def test_what_is_gone_of_a_report_is_made_again(synthetic_run, build_undrawn, name):
    trial = synthetic_run("seeds=[1]", knows=dict.fromkeys(KNOWS, (5,)))
    build_undrawn(trial)
    (trial.folder / name).unlink()
    build_undrawn(trial)
    assert (trial.folder / name).exists()


def test_what_training_came_to_must_be_as_it_was_written(synthetic_run, build_undrawn):
    """Compute, and so the trends of a ladder, are reckoned with it."""
    trial = synthetic_run("seeds=[1]", knows=dict.fromkeys(KNOWS, (5,)))
    path = trial.folder / "baseline" / "seed1" / "pretrain" / "results.json"
    write_json(path, read_json(path) | {"vocab_size": 999})
    with pytest.raises(TrialError, match=r"pretrain/results\.json: its bytes differ from its manifest"):
        build_undrawn(trial)


def test_arms_of_a_seed_that_were_trained_on_different_machines_are_named(synthetic_run, build_undrawn):
    trial = synthetic_run("seeds=[1]", knows=dict.fromkeys(KNOWS, (5,)))
    write_manifest(trial.folder / "baseline" / "seed1" / "pretrain", 1, "x", "results.json", machine="Linux, 96 cores")
    assert build_undrawn(trial)["made_by"]["split_pairs"] == [1]


def test_a_run_that_has_nothing_yet_says_what_it_lacks(synthetic_run, build_undrawn, tmp_path):
    with pytest.raises(TrialError, match=r"no trial\.yaml there"):
        rebuild(tmp_path)
    trial = synthetic_run("seeds=[1]", knows=dict.fromkeys(KNOWS, (5,)))
    for arm in trial.arms:
        shutil.rmtree(trial.folder / arm)
    report = build_undrawn(trial)
    assert report["missing"] == [f"{arm}/seed1 pretrain" for arm in trial.arms]
    assert report["outcomes"] == {}
    assert report["primary"] == {"outcome": NEVER, "contrast": TOKENS, "verdict": None, "note": "not measured"}
    (trial.folder / "trial.yaml").write_text(yaml.safe_dump(trial.model_dump(mode="json")))
    (trial.folder / "corpus" / "exposure.json").unlink()
    with pytest.raises(TrialError, match="no corpus yet"):
        rebuild(trial.folder)
