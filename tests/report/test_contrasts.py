"""From every cell's values to contrasts and verdicts, against scipy; and what a missing cell or gate withholds."""

import math

import numpy as np
import pytest
from scipy import stats

from tests.report.conftest import KNOWS, OVERRIDES
from tokentrial.report.contrasts import contrast_arms
from tokentrial.report.outcomes import CellResults
from tokentrial.trial.declaration import declaration

NEVER = "pretrain/mul_table/never_asked/accuracy"
ASKED = "pretrain/mul_table/asked/accuracy"
BITS = "pretrain/heldout_text/untouched/bits_per_byte"
TOKENS, APPEND = "mul_tokens - baseline", "mul_append - baseline"


@pytest.fixture(scope="session")
def trial_of(tiny, tmp_path_factory):
    """`trial_of(*overrides)`: three arms, six seeds, a gate, and one primary and two secondary contrasts."""
    return lambda *overrides: tiny(tmp_path_factory.getbasetemp() / "contrasts", *OVERRIDES, *overrides)


def cell(known=0, asked=1.0, bits=1.75):
    """A cell that has so many of its 12 never-asked facts right."""
    facts = {NEVER: {f"fact {i}": float(i < known) for i in range(12)}}
    floors = {NEVER: {"constant": 1 / 12}, ASKED: {"constant": 2 / 36}}
    return CellResults({NEVER: known / 12, ASKED: asked, BITS: bits}, facts, floors)


def cells(trial, knows=KNOWS, **values):
    return {(arm, s): cell(knows[arm][i], **values) for arm in trial.arms for i, s in enumerate(trial.seeds)}


def contrast(trial, results):
    return contrast_arms(trial, results, declaration(trial), "mul_table", -math.log(36))


def verdicts(report):
    return {(name, pair): c["verdict"] for name, o in report["outcomes"].items() for pair, c in o["contrasts"].items()}


@pytest.mark.parametrize("pair", [TOKENS, APPEND])
def test_the_contrast_is_the_paired_t_of_scipy(trial_of, pair):
    trial = trial_of()
    found = contrast(trial, cells(trial))["outcomes"][NEVER]["contrasts"][pair]
    a, b = np.array(KNOWS[pair.split(" - ")[0]]) / 12, np.array(KNOWS["baseline"]) / 12
    expected = stats.ttest_rel(a, b)
    assert found["difference"] == pytest.approx(np.mean(a - b))
    assert found["p"] == pytest.approx(expected.pvalue)
    assert found["ci95"] == pytest.approx(list(expected.confidence_interval(0.95)))
    assert found["ci90"] == pytest.approx(list(expected.confidence_interval(0.90)))
    assert (found["test"], found["n_seeds"], found["margin"]) == ("paired_t", 6, 0.1)
    assert found["p_sign_flip"] == pytest.approx(2 / 2**6)  # all six seeds agree
    assert found["mde80"] == pytest.approx(1.435 * (a - b).std(ddof=1), rel=1e-3)  # FACTS, section 4, at n = 6
    low, high = found["facts_ci95"]
    assert low < found["ci95"][0] < found["ci95"][1] < high  # over facts like these, and not only these


def test_every_difference_is_treatment_minus_control_seed_by_seed(trial_of):
    """Of every outcome and every pair, of two treatments too, from random values, so that no difference is 0."""
    secondary = f"{{outcome: {NEVER}, contrast: mul_append - mul_tokens}}, {{outcome: {BITS}, contrast: {TOKENS}}}"
    trial, rng = trial_of(f"verdict.secondary=[{secondary}]"), np.random.default_rng(0)
    results = {key: cell(int(rng.integers(13)), rng.random(), rng.random()) for key in cells(trial)}
    report = contrast(trial, results)
    assert {pair for _, pair in verdicts(report)} == {TOKENS, APPEND, "mul_append - mul_tokens"}
    assert len(verdicts(report)) == 9
    for name, pair in verdicts(report):
        per_seed = report["outcomes"][name]["per_seed"]
        for arm in trial.arms:
            assert per_seed[arm] == [results[arm, s].values[name] for s in trial.seeds]
        a, b = (np.array(per_seed[arm]) for arm in pair.split(" - "))
        found = report["outcomes"][name]["contrasts"][pair]
        assert found["difference"] == pytest.approx(np.mean(a - b))
        assert found["ci95"] == pytest.approx([*stats.t.interval(0.95, 5, np.mean(a - b), stats.sem(a - b))])


def test_declared_contrasts_get_a_verdict_and_no_others_and_only_the_secondary_family_is_adjusted(trial_of):
    trial = trial_of()
    results = cells(trial)
    for s in trial.seeds:
        results["mul_tokens", s].values[BITS] += 1 / 400  # alike on every seed: sign-flip decides, as s = 0
    report = contrast(trial, results)
    found = {key: verdict for key, verdict in verdicts(report).items() if verdict}
    assert found == {(NEVER, TOKENS): "hurts", (NEVER, APPEND): "helps", (BITS, TOKENS): "hurts"}  # lower is better
    primary, append, bits = (report["outcomes"][name]["contrasts"][pair] for name, pair in found)
    assert (primary["p_holm"], report["outcomes"][ASKED]["contrasts"][TOKENS]["p_holm"]) == (None, None)
    assert (bits["test"], bits["p"]) == ("sign_flip", 2 / 2**6)
    smaller, larger = sorted([append["p"], bits["p"]])
    assert sorted([append["p_holm"], bits["p_holm"]]) == pytest.approx([2 * smaller, max(2 * smaller, larger)])


@pytest.mark.parametrize(
    ("control", "asked", "failed"),
    [
        (KNOWS["baseline"], 0.5, "below 0.6"),
        ((4, 4, 4, 5, 5, 4), 1.0, "never-asked facts is 0.361, below 0.4"),
        (KNOWS["baseline"], 1.0, None),
    ],
)
def test_the_gate_holds_the_control_to_asked_and_never_asked_facts(trial_of, control, asked, failed):
    trial = trial_of()
    report = contrast(trial, cells(trial, KNOWS | {"baseline": control}, asked=asked))
    gate = report["gate"]
    assert (gate["asked"], gate["never_asked"]) == pytest.approx((asked, np.mean(control) / 12))
    assert gate["needed"] == {"asked": 0.6, "never_asked": 0.4}
    assert failed in gate["failed"] if failed else gate["failed"] is None
    assert report["primary"]["verdict"] == ("baseline has not learnt" if failed else "hurts")
    without = trial_of("verdict.gate=null")
    report = contrast(without, cells(without, KNOWS | {"baseline": control}, asked=asked))
    assert report["gate"] is None
    assert report["primary"]["verdict"] == "hurts"


def test_missing_cells_withhold_every_verdict(trial_of):
    trial = trial_of()
    results = cells(trial)
    del results["mul_tokens", 5], results["mul_append", 6]
    report = contrast(trial, results)
    assert report["primary"]["note"] == "no verdict yet: seeds [5, 6] are declared and not there"
    assert set(verdicts(report).values()) == {None}
    outcome = report["outcomes"][NEVER]
    assert (outcome["per_seed"]["mul_tokens"][4], outcome["per_seed"]["baseline"][4]) == (None, 6 / 12)
    assert outcome["contrasts"][TOKENS]["n_seeds"] == 4


def test_without_the_evaluation_that_the_gate_is_of_there_is_no_verdict(trial_of):
    """`run --stages` may leave evaluations out: the report of a later stage alone was a traceback."""
    trial = trial_of(f"verdict.primary={{outcome: sft/mul_table/asked/accuracy, contrast: {TOKENS}}}")
    results = {key: CellResults({"sft/mul_table/asked/accuracy": key[1] / 10}) for key in cells(trial)}
    report = contrast(trial, results)
    assert report["gate"] is None
    assert (report["primary"]["verdict"], report["primary"]["note"]) == (
        None,
        "no verdict yet: the gate is not measured",
    )


def test_one_seed_gives_no_verdict(trial_of):
    trial = trial_of("seeds=[1]", "verdict.gate=null")
    found = contrast(trial, cells(trial))["outcomes"][NEVER]["contrasts"][TOKENS]
    assert found["verdict"] is None
    assert "these two models differ; one seed each" in found["note"]
