"""From every cell's values to contrasts and verdicts, against scipy; and what a missing cell or gate withholds."""

import math

import numpy as np
import pytest
from scipy import stats

from tests.report.conftest import KNOWS, OVERRIDES
from tokentrial.report.analysis import analyse
from tokentrial.report.results import CellResults
from tokentrial.trial.declaration import Declared

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


def contrasts(trial, results, **given):
    """The analysis of a trial as it was declared; and its records by outcome and pair."""
    declared = Declared(trial.arms, trial.seeds, trial.control, trial.verdict)
    given = {"table": "mul_table", "choice_floor": -math.log(36), "arms": trial.arms, "seeds": trial.seeds} | given
    analysis = analyse(results, declared, **given)
    return analysis, {(c["outcome"], f"{c['treatment']} - {c['control']}"): c for c in analysis.contrasts}


def test_seeds_that_were_added_count_in_the_declared_contrasts_once_more_outcome_by_outcome(trial_of):
    trial = trial_of()
    more = {(arm, s): cell(known) for s, known in ((7, 3), (8, 9)) for arm in trial.arms}
    more |= {("mul_tokens", s): cell(1) for s in (7, 8)}
    del more["mul_tokens", 8].values[BITS]
    seeds = [*trial.seeds, 7, 8]
    analysis, declared = contrasts(trial, cells(trial) | more, seeds=seeds)
    assert declared[NEVER, TOKENS]["seeds"] == trial.seeds
    found = {(c["outcome"], f"{c['treatment']} - {c['control']}"): c for c in analysis.added}
    assert found.keys() == {(c.outcome, c.contrast) for c in (trial.verdict.primary, *trial.verdict.secondary)}
    assert {c["verdict"] for c in analysis.added} == {None}
    a, b = (np.array([*KNOWS[arm], *of]) / 12 for arm, of in (("mul_tokens", (1, 1)), ("baseline", (3, 9))))
    expected = stats.ttest_rel(a, b)
    over_all = found[NEVER, TOKENS]
    assert (over_all["seeds"], over_all["role"]) == (seeds, "exploratory")
    assert over_all["interval"] == pytest.approx(list(expected.confidence_interval(0.95)))
    assert {tuple(c["seeds"]) for (name, pair), c in found.items() if name == BITS and pair == TOKENS} <= {
        (*seeds[:-1],)
    }
    whole = cells(trial) | more
    del whole["baseline", 1]  # while a declared seed is missing they would stand for it
    assert contrasts(trial, whole, seeds=seeds)[0].added == []


@pytest.mark.parametrize("pair", [TOKENS, APPEND])
def test_the_contrast_is_the_paired_t_of_scipy(trial_of, pair):
    trial = trial_of()
    found = contrasts(trial, cells(trial))[1][NEVER, pair]
    a, b = np.array(KNOWS[pair.split(" - ")[0]]) / 12, np.array(KNOWS["baseline"]) / 12
    expected = stats.ttest_rel(a, b)
    assert found["difference"] == pytest.approx(np.mean(a - b))
    assert (found["treatment_mean"], found["control_sd"]) == pytest.approx((a.mean(), b.std(ddof=1)))
    assert found["p"] == pytest.approx(expected.pvalue)
    assert found["interval"] == pytest.approx(list(expected.confidence_interval(0.95)))
    assert found["equivalence_interval"] == pytest.approx(list(expected.confidence_interval(0.90)))
    assert (found["test"], found["seeds"], found["margin"]) == ("paired_t", trial.seeds, 0.1)
    assert found["p_sign_flip"] == pytest.approx(2 / 2**6)  # all six seeds agree
    assert found["detectable"] == pytest.approx(1.435 * (a - b).std(ddof=1), rel=1e-3)  # FACTS, section 4, at n = 6
    low, high = found["facts_interval"]
    assert low < found["interval"][0] < found["interval"][1] < high  # over facts like these, and not only these


def test_every_difference_is_treatment_minus_control_seed_by_seed(trial_of):
    """Of every outcome and every pair, of two treatments too, from random values, so that no difference is 0."""
    secondary = f"{{outcome: {NEVER}, contrast: mul_append - mul_tokens}}, {{outcome: {BITS}, contrast: {TOKENS}}}"
    trial, rng = trial_of(f"verdict.secondary=[{secondary}]"), np.random.default_rng(0)
    results = {key: cell(int(rng.integers(13)), rng.random(), rng.random()) for key in cells(trial)}
    analysis, records = contrasts(trial, results)
    assert {pair for _, pair in records} == {TOKENS, APPEND, "mul_append - mul_tokens"}
    assert len(records) == len(analysis.contrasts) == 9
    for (name, pair), found in records.items():
        a, b = ([results[arm, s].values[name] for s in trial.seeds] for arm in pair.split(" - "))
        assert analysis.outcomes[name]["per_seed"][found["treatment"]] == a
        assert found["differences"] == pytest.approx([x - y for x, y in zip(a, b, strict=True)])


def test_a_pair_of_arms_is_compared_once_and_the_way_round_that_was_declared(trial_of):
    reversed_pair = "baseline - mul_append"
    trial = trial_of(f"verdict.secondary=[{{outcome: {NEVER}, contrast: {reversed_pair}}}]")
    records = contrasts(trial, cells(trial))[1]
    assert {pair for _, pair in records} == {TOKENS, reversed_pair}
    assert records[NEVER, reversed_pair]["role"] == "secondary"
    assert records[BITS, reversed_pair]["role"] == "exploratory"


def test_declared_contrasts_get_a_verdict_and_no_others_and_only_the_secondary_family_is_adjusted(trial_of):
    trial = trial_of()
    results = cells(trial)
    for s in trial.seeds:
        results["mul_tokens", s].values[BITS] += 1 / 400  # alike on every seed: sign-flip decides, as s = 0
    records = contrasts(trial, results)[1]
    found = {key: c["verdict"] for key, c in records.items() if c["verdict"]}
    assert found == {(NEVER, TOKENS): "hurts", (NEVER, APPEND): "helps", (BITS, TOKENS): "hurts"}  # lower is better
    assert [c["role"] for c in records.values()] == ["primary", "secondary", "secondary", *["exploratory"] * 3]
    primary, append, bits = (records[key] for key in found)
    assert (primary["p_adjusted"], records[ASKED, TOKENS]["p_adjusted"]) == (None, None)
    assert (bits["test"], bits["p"]) == ("sign_flip", 2 / 2**6)
    smaller, larger = sorted([append["p"], bits["p"]])
    adjusted = sorted([append["p_adjusted"], bits["p_adjusted"]])
    assert adjusted == pytest.approx([2 * smaller, max(2 * smaller, larger)])


def test_holm_runs_over_what_was_declared_and_nothing_is_judged_before_the_primary(trial_of):
    """Of three secondary outcomes one is measured: its p is tripled. A primary that is not measured judges nothing."""
    unmeasured = [f"{{outcome: sft/mul_table/{part}/accuracy, contrast: {APPEND}}}" for part in ("asked", "all")]
    trial = trial_of(f"verdict.secondary=[{{outcome: {NEVER}, contrast: {APPEND}}}, {', '.join(unmeasured)}]")
    records = contrasts(trial, cells(trial))[1]
    measured = records[NEVER, APPEND]
    assert measured["p_adjusted"] == pytest.approx(3 * measured["p"])
    assert records["sft/mul_table/all/accuracy", APPEND]["difference"] is None
    grpo = trial_of(f"verdict.primary={{outcome: grpo/mul_table/asked/accuracy, contrast: {TOKENS}}}")
    assert {c["verdict"] for c in contrasts(grpo, cells(grpo))[1].values()} == {None}


@pytest.mark.parametrize(
    ("control", "asked", "failed"),
    [
        (KNOWS["baseline"], 0.5, "below 0.6"),
        ((4, 4, 4, 5, 5, 4), 1.0, "never-asked facts is 0.361, below 0.4"),
        (KNOWS["baseline"], 1.0, None),
    ],
)
def test_the_gate_holds_the_control_to_asked_and_never_asked_facts(trial_of, control, asked, failed):
    """A difference that was found stands in spite of it, with the reason beside it; one that was not is withheld."""
    trial = trial_of()
    analysis, records = contrasts(trial, cells(trial, KNOWS | {"baseline": control}, asked=asked))
    gate, primary = analysis.gate, records[NEVER, TOKENS]
    assert (gate["asked"], gate["never_asked"]) == pytest.approx((asked, np.mean(control) / 12))
    assert gate["needed"] == {"asked": 0.6, "never_asked": 0.4}
    assert (failed in gate["failed"] and failed in primary["note"]) if failed else gate["failed"] is None
    assert primary["verdict"] == "hurts"
    alike = KNOWS | {"baseline": control, "mul_tokens": control}
    verdict = contrasts(trial, cells(trial, alike, asked=asked))[1][NEVER, TOKENS]["verdict"]
    assert verdict == ("control has not learnt" if failed else "no difference shown")
    without = trial_of("verdict.gate=null")
    assert contrasts(without, cells(without, alike, asked=asked))[0].gate is None


def test_missing_cells_withhold_every_verdict(trial_of):
    trial = trial_of()
    results = cells(trial)
    del results["mul_tokens", 5], results["mul_append", 6]
    analysis, records = contrasts(trial, results)
    primary = records[NEVER, TOKENS]
    assert primary["note"] == "no verdict yet: the declared seeds [5, 6] are missing"
    assert {c["verdict"] for c in analysis.contrasts} == {None}
    values = analysis.outcomes[NEVER]["per_seed"]
    assert (values["mul_tokens"][4], values["baseline"][4]) == (None, 6 / 12)
    assert primary["seeds"] == [1, 2, 3, 4]


def test_without_the_evaluation_that_the_gate_is_of_there_is_no_verdict(trial_of):
    """`run --stages` may leave evaluations out: the report of a later stage alone was a traceback."""
    trial = trial_of(f"verdict.primary={{outcome: sft/mul_table/asked/accuracy, contrast: {TOKENS}}}")
    results = {key: CellResults({"sft/mul_table/asked/accuracy": key[1] / 10}) for key in cells(trial)}
    analysis, _ = contrasts(trial, results)
    assert analysis.gate is None
    primary = analysis.contrasts[0]
    assert primary["verdict"] is None
    assert "the gate is not measured" in primary["note"]


def test_one_seed_gives_no_verdict(trial_of):
    trial = trial_of("seeds=[1]", "verdict.gate=null")
    found = contrasts(trial, cells(trial))[1][NEVER, TOKENS]
    assert (found["verdict"], found["interval"], found["detectable"]) == (None, None, None)


def test_a_seed_that_nobody_declared_changes_no_record_and_a_withheld_stage_is_exploratory(trial_of):
    trial, more = trial_of(), {("mul_tokens", 7): cell(12), ("baseline", 7): cell(0), ("mul_append", 7): cell(3)}
    more["baseline", 7].floors[NEVER] = {"constant": 0.5}  # a floor near the arms would refuse equivalence
    before = contrasts(trial, cells(trial))[0]
    after = contrasts(trial, cells(trial) | more, seeds=[*trial.seeds, 7])[0]
    assert after.contrasts == before.contrasts
    assert after.outcomes[NEVER]["per_seed"]["mul_tokens"][6] == 1
    withheld = contrasts(trial, cells(trial), withheld={"pretrain": "pretrain.lr: 1 instead of the declared 2"})[0]
    assert {c["verdict"] for c in withheld.contrasts} == {None}
    assert "pretrain.lr: 1 instead of the declared 2" in withheld.contrasts[0]["note"]


@pytest.mark.parametrize(("effect", "number", "wanted", "verdict"), [(6, 1, 6, "helps"), (0, 1, 12, None)])
def test_looks_stop_where_they_decide_and_go_on_where_they_do_not(trial_of, effect, number, wanted, verdict):
    """Six whole seeds of twelve: the first look's interval is the repeated one, at |t| 4.65 (issue 22, by 4 million
    draws), so its half is 4.65 standard errors."""
    trial = trial_of(f"seeds={[*range(1, 13)]}", "verdict.looks=[6, 12]", "verdict.gate=null")
    base = (4, 5, 3, 4, 5, 4)
    tokens = [n + effect + (-1) ** i for i, n in enumerate(base)]
    knows = {"baseline": base, "mul_tokens": tokens, "mul_append": base}
    results = {(arm, s): cell(knows[arm][s - 1]) for arm in trial.arms for s in range(1, 7)}
    analysis, records = contrasts(trial, results)
    primary, look = records[NEVER, TOKENS], analysis.look
    assert (look.number, look.of, look.seeds, look.wanted) == (number, 2, 6, wanted)
    assert primary["verdict"] == verdict
    d = (np.array(tokens) - base) / 12
    assert (primary["interval"][1] - d.mean()) / (d.std(ddof=1) / 6**0.5) == pytest.approx(4.65, abs=0.01)
