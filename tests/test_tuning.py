"""Fair tuning: each arm's own best, found on seeds of its own, before anything of the verdict is trained."""

import json
import shutil
from statistics import mean

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.conftest import Inline, draw_only
from tokentrial.corpus.prepare import CorpusPlan
from tokentrial.errors import Interrupted, SettingsError, TrialError
from tokentrial.report import tuning_curves
from tokentrial.report.outcomes import tuning_outcome
from tokentrial.report.text_report import markdown
from tokentrial.report.tuning import at_edge, best
from tokentrial.run import run as runs
from tokentrial.run.check import check
from tokentrial.run.collect import collect
from tokentrial.run.placebo import run_placebo
from tokentrial.run.run import rebuild, run
from tokentrial.run.run_folder import status
from tokentrial.run.standing import standing
from tokentrial.steps.cell import Cell
from tokentrial.store.files import read_json, sealed, write_json
from tokentrial.trial.sweep import to_run
from tokentrial.trial.tuning import Tuning

TUNE = "tune={grid: {pretrain.lr: [0.008, 0.05]}, seeds: [101, 102]}"
BY = "pretrain/mul_table/never_asked/choice_logprob"  # of an accuracy the probability of the right answer
PRIMARY = "pretrain/mul_table/never_asked/accuracy"
TEXT_BITS = "pretrain/heldout_text/untouched/bits_per_byte"


@pytest.fixture(scope="module")
def tuned(tiny, in_process, tmp_path_factory):
    """A trial with a tuning, run to its report. Not to be changed."""
    trial = tiny(tmp_path_factory.mktemp("tuned") / "run", TUNE)
    with pytest.MonkeyPatch.context() as patch:
        in_process(patch)
        draw_only(patch, "tuned")
        assert run(trial)
    return trial


@pytest.fixture
def copy(tuned, tmp_path):
    """A copy of its folder, to be changed."""
    return shutil.copytree(tuned.folder, tmp_path / "run")


@pytest.fixture
def stopped(monkeypatch):
    """The first cell that is to be trained ends the run, which names it."""

    class Stopped(Inline):
        def run(self, calls, on_report):
            raise Interrupted(f"stopped before {calls[0].name}")

    monkeypatch.setattr(runs, "LocalExecutor", Stopped)


def cells_of(folder):
    return {path.parent: path.stat().st_mtime_ns for path in folder.glob("*/seed*/*/manifest.json")}


def files_of(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


# the choice


@given(st.lists(st.floats(-10, 10), min_size=2, max_size=6), st.integers(0, 5), st.booleans())
def test_nothing_is_better_than_the_best_and_a_tie_goes_to_the_trials_own_value(means, own, higher):
    own %= len(means)
    place = best(means, own, higher)
    assert means[place] == (max(means) if higher else min(means))
    ties = [number for number, value in enumerate(means) if value == means[place]]
    assert place == (own if own in ties else ties[0])


@pytest.mark.parametrize(
    ("lr", "decay", "edges"),
    [
        (0.003, 0.1, []),
        (0.001, 0.1, ["pretrain.lr"]),
        (0.01, 1.0, ["pretrain.lr", "pretrain.weight_decay"]),
        (0.003, 0.0, []),  # below zero there is nothing
    ],
)
def test_a_best_at_the_edge_is_said_of_each_setting(lr, decay, edges):
    tune = Tuning(grid={"pretrain.lr": [0.003, 0.001, 0.01], "pretrain.weight_decay": [0, 0.1, 1]}, seeds=[9])
    assert at_edge(tune, {"pretrain.lr": lr, "pretrain.weight_decay": decay}) == edges


@pytest.mark.parametrize(
    ("primary", "by"),
    [
        (PRIMARY, BY),
        ("pretrain/addition/all/accuracy", "pretrain/addition/all/accuracy"),  # which has no probability
        (TEXT_BITS, TEXT_BITS),
        ("sft/word_problems/all/accuracy", "pretrain/word_problems/all/gold_nats_per_byte"),
    ],
)
def test_an_arm_is_tuned_by_what_it_is_judged_by_after_pretraining(ladder, tmp_path, primary, by):
    contrast = "contrast: mul_tokens - baseline"
    trial = ladder(tmp_path, TUNE, f"verdict.primary={{outcome: {primary}, {contrast}}}")
    assert tuning_outcome(trial) == by
    check(trial)


# what is refused as the trial is read


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["seeds=[1,101]"], r"seeds and tune.seeds both hold \[101\]"),
        (["tune.seeds=[7,7]"], "tune.seeds is"),
        (["tune.seeds=[]"], "tune.seeds: found"),
        (["tune.grid={pretrain.lr: [0.001, 0.05]}"], "expected 0.008 among them"),
        (["tune.grid={pretrain.lr: [0.008]}"], "a list of 2 or more"),
        (["tune.grid={pretrain.steps: [20, 40]}"], "pretrain.steps"),  # the budget is the same in every arm
        (["tune.grid={corpus.drills.share: [0.6, 0.5]}"], "corpus.drills.share"),
        (["tune.outcome=sft/word_problems/all/accuracy"], "tune.outcome"),  # after what is not tuned
        (["tune.outcome=pretrain/mul_table/askd/accuracy"], "did you mean pretrain/mul_table/asked/accuracy"),
        (["tune.grid={pretrain.lr: [0.008, 0.008]}"], "give each value once"),
        (["tune.grid={pretrain.decay_ratio: [0.4, 0.2]}", "pretrain.schedule=cosine"], "is the same experiment as"),
        (["tune.grid={pretrain.lr: [0.008, 2.0]}"], "pretrain.lr: found 2.0"),
        (["sweep={pretrain.n_layer: [1, 2]}"], "tune and sweep"),
        (["robustness_reruns=[budget.match=bytes]"], "tune and robustness_reruns"),
        (["ladder={sizes: [{n_layer: 1, n_head: 1, n_embd: 16}], tokens_exponent: 0.5}"], "tune and ladder"),
    ],
)
def test_a_tuning_that_is_none_or_that_is_not_fair_is_refused(tiny, tmp_path, overrides, message):
    with pytest.raises(SettingsError, match=message):
        check(tiny(tmp_path / "run", TUNE, *overrides))
    assert not (tmp_path / "run").exists()


def test_no_rerun_placebo_or_budget_of_minutes_goes_with_it(tiny, tmp_path, tokentrial, monkeypatch):
    trial = tiny(tmp_path / "run", TUNE)
    monkeypatch.setattr("tokentrial.trial.load.load", lambda *given: trial)
    code, _, err = tokentrial("run", "smoke", "--also", "budget.match=bytes")
    assert (code, "tune and robustness_reruns" in err) == (2, True)
    with pytest.raises(SettingsError, match="tune"):
        run_placebo(trial)
    with pytest.raises(SettingsError, match="--budget-minutes and tune"):
        run(trial, budget_minutes=5)


def test_a_tuning_is_of_every_arm_pretrained_on_its_own_seeds_alone(ladder, tmp_path):
    points = to_run(ladder(tmp_path, "seeds=[1,2,3]", "verdict.looks=[2,3]", TUNE))
    assert [point.trial.pretrain.lr for point in points] == [0.008, 0.05]
    for point in points:
        assert (point.trial.seeds, point.trial.arms) == ([101, 102], ["baseline", "mul_tokens"])
        assert (point.trial.sft, point.trial.grpo, point.trial.tune) == (None, None, None)
        assert point.trial.folder == tmp_path / "tune" / point.name


def test_seeds_that_are_added_are_not_those_of_the_tuning(tuned):
    assert tuned.unused_seed == 103


# a whole one


def test_each_arm_is_trained_with_its_own_best(tuned, tiny, tmp_path):
    record = read_json(tuned.folder / "tuned.json")
    assert record["outcome"] == BY
    for arm in tuned.arms:
        means = {p["settings"]["pretrain.lr"]: mean(p["by_outcome"][BY][arm]) for p in record["points"]}
        assert record["chosen"][arm] == {"pretrain.lr": max(means, key=means.get)}
        alone = tiny(tmp_path / arm, f"pretrain.lr={record['chosen'][arm]['pretrain.lr']}")
        cell = tuned.folder / arm / "seed1" / "pretrain"
        # an arm that is best with the trial's own value is what it is without a tuning
        assert (
            read_json(cell / "manifest.json")["fingerprint"] == Cell(arm, 1).fingerprints(CorpusPlan(alone))["pretrain"]
        )
        assert read_json(cell / "results.json")["config"]["lr"] == alone.pretrain.lr
    assert {path.name for path in tuned.folder.glob("*/seed*")} == {"seed1", "seed2"}
    assert {path.name for path in tuned.folder.glob("tune/*/*/seed*")} == {"seed101", "seed102"}


def test_it_is_declared_before_it_begins(tuned):
    declared = read_json(tuned.folder / "declared.json")
    assert declared["declaration"]["tune"] == {
        "grid": {"pretrain.lr": [0.008, 0.05]},
        "seeds": [101, 102],
        "outcome": BY,
    }
    assert declared["amendments"] == []
    cells = list(tuned.folder.glob("tune/*/*/seed*/pretrain/manifest.json"))
    assert len(cells) == 8
    assert declared["time"] <= min(read_json(path)["provenance"]["time"] for path in cells)


def test_the_report_shows_the_curve_and_what_untuned_would_have_said(tuned):
    report, record = read_json(tuned.folder / "comparison_report.json"), read_json(tuned.folder / "tuned.json")
    shown, by_lr = report["tuning"], {p["settings"]["pretrain.lr"]: p["by_outcome"] for p in record["points"]}
    own = [b - a for a, b in zip(by_lr[0.008][PRIMARY]["baseline"], by_lr[0.008][PRIMARY]["mul_tokens"], strict=True)]
    assert shown["untuned"]["mean"] == pytest.approx(mean(own))
    assert shown["at_edge"].keys() == {*tuned.arms}  # two values have no inside
    assert [point["arms"]["baseline"]["mean"] for point in shown["points"]] == [
        pytest.approx(mean(by_lr[lr][BY]["baseline"])) for lr in (0.008, 0.05)
    ]
    assert report["missing"] == report["declaration"]["departures"] == []
    assert "## Tuning" in markdown(report)
    assert (tuned.folder / "figures" / "tuned.svg").exists()
    assert 'id="tuning"' in (tuned.folder / "report.html").read_text()
    assert not list(tuned.folder.glob("tune/*/report.html"))  # nothing that would read as a verdict


def test_status_counts_its_cells(tuned):
    cells = status(tuned.folder)["cells"]
    assert len(cells) == 4 + 8
    assert all(all(done.values()) for done in cells.values())
    assert "tune/pretrain.lr=0.05/mul_tokens/seed102" in cells


# after an interruption, and ways round it


@pytest.mark.parametrize("record", ["there", "gone"])
def test_what_is_gone_of_a_tuning_is_made_again_and_the_choice_stands(copy, tiny, inline, undrawn, record):
    before, text = cells_of(copy), (copy / "tuned.json").read_bytes()
    if record == "gone":
        (copy / "tuned.json").unlink()
    shutil.rmtree(copy / "tune" / "pretrain.lr=0.05" / "baseline" / "seed102")
    assert run(tiny(copy, TUNE))
    assert (cells_of(copy), (copy / "tuned.json").read_bytes()) == (before, text)
    assert (copy / "tune" / "pretrain.lr=0.05" / "baseline" / "seed102" / "eval_pretrain").exists()


@pytest.mark.parametrize("alone", [False, True])
def test_nothing_of_the_verdict_is_trained_before_the_tuning_is_whole(copy, tiny, undrawn, stopped, alone):
    (copy / "tuned.json").unlink()
    for path in (*copy.glob("*/seed*"), copy / "tune" / "pretrain.lr=0.05" / "baseline" / "seed102"):
        shutil.rmtree(path)
    with pytest.raises(Interrupted, match="baseline/seed102"):
        run(tiny(copy, TUNE), *((("pretrain",), [Cell("baseline", 1)]) if alone else ()))
    assert not cells_of(copy)
    assert rebuild(copy)["tuning"]["chosen"] == {}


@pytest.mark.parametrize(
    "tune",
    [
        "tune.grid={pretrain.lr: [0.008, 0.05, 0.1]}",
        "tune.seeds=[101, 103]",
        f"tune.outcome={TEXT_BITS}",
    ],
)
def test_what_was_tuned_is_not_tuned_again_otherwise(copy, tiny, no_workers, tune):
    before = files_of(copy)
    with pytest.raises(TrialError, match=r"tuned\.json: the arms are tuned"):
        run(tiny(copy, TUNE, tune))
    assert files_of(copy) == before


def test_what_ran_untuned_is_not_tuned_afterwards(finished_copy, tiny, no_workers):
    before = files_of(finished_copy)
    with pytest.raises(TrialError, match="its cells were trained without this tuning"):
        run(tiny(finished_copy, TUNE))
    assert files_of(finished_copy) == before


def test_a_tuning_that_is_changed_after_a_look_is_exploratory(copy, tiny, stopped):
    """Also before any cell of the verdict, and where the record of the choice is deleted."""
    (copy / "tuned.json").unlink()
    for path in copy.glob("*/seed*"):
        shutil.rmtree(path)
    trial = tiny(copy, TUNE, f"tune.outcome={TEXT_BITS}")
    with pytest.raises(Interrupted, match="baseline/seed1"):
        run(trial)
    assert read_json(copy / "tuned.json")["outcome"] == TEXT_BITS
    stands = standing(trial)
    assert list(stands.withheld) == ["pretrain"]
    assert stands.departures[0].startswith(f"tune.outcome: {TEXT_BITS} instead of the declared {BY}, since 2")


@pytest.mark.parametrize("gone", [["declared.json"], ["declared.json", "tuned.json"]])
def test_a_tuning_that_was_seen_is_not_declared_anew(copy, tiny, stopped, gone):
    """No cell of the verdict is there yet, and the tuning's own carry the hash of their own point."""
    for cell in ("baseline", "mul_tokens"):
        shutil.rmtree(copy / cell)
    for name in gone:
        (copy / name).unlink()
    other = tiny(copy, TUNE, f"verdict.primary.outcome={BY}")
    with pytest.raises(TrialError, match=r"declared\.json is gone"):
        run(other)
    with pytest.raises(Interrupted):
        run(other, overwrite=True)
    assert "pretrain" in standing(other).withheld


def test_an_arm_that_is_left_out_after_the_tuning_is_left_out_of_its_figure(tuned):
    report = read_json(tuned.folder / "comparison_report.json")
    whole, part = (tuning_curves.tuned(report | {"arms": arms}) for arms in (report["arms"], ["baseline"]))
    assert len(part.axes[0].containers) == len(whole.axes[0].containers) - 1


def test_an_arm_that_is_left_out_after_the_tuning_keeps_nobody_from_going_on(copy, tiny, no_workers, undrawn):
    record = read_json(copy / "tuned.json")
    for by_arm in (by_arm for point in record["points"] for by_arm in point["by_outcome"].values()):
        by_arm["mul_append"] = by_arm["baseline"]
    record["chosen"]["mul_append"] = record["chosen"]["baseline"]
    write_json(copy / "tuned.json", sealed(record))
    assert run(tiny(copy, TUNE))


def test_a_choice_that_the_tuning_cells_do_not_bear_out_is_refused(copy, tiny, no_workers):
    record = read_json(copy / "tuned.json")
    record["chosen"]["baseline"]["pretrain.lr"] = 0.058 - record["chosen"]["baseline"]["pretrain.lr"]
    (copy / "tuned.json").write_text(json.dumps(record))
    with pytest.raises(TrialError, match=r"tuned\.json: damaged"):
        run(tiny(copy, TUNE))
    write_json(copy / "tuned.json", sealed(record))
    with pytest.raises(TrialError, match=r"tuned\.json: .* for baseline, and by the cells"):
        run(tiny(copy, TUNE))
    for content in ({"chosen": {"baseline": 3}}, sealed({"chosen": {"baseline": 3}})):
        write_json(copy / "tuned.json", content)
        with pytest.raises(TrialError, match=r"tuned\.json"):
            run(tiny(copy, TUNE))


def test_a_fresh_machine_has_the_choice_and_what_it_rests_on_from_the_storage(copy, tiny, tmp_path, no_workers):
    storage = f"storage={tmp_path / 'there'}"
    report = run(tiny(copy, TUNE, storage))
    fresh = run(tiny(tmp_path / "fresh", TUNE, storage))
    assert (fresh["tuning"], fresh["primary"]) == (report["tuning"], report["primary"])
    assert (tmp_path / "fresh" / "tuned.json").read_bytes() == (copy / "tuned.json").read_bytes()


def test_machines_that_chose_otherwise_are_not_joined(tuned, copy, tmp_path, undrawn):
    came = collect([tuned.folder, copy], tmp_path / "joined")
    assert len([name for name in came if name.startswith("tune/")]) == 8 * 3
    assert rebuild(tmp_path / "joined")["tuning"] == read_json(copy / "comparison_report.json")["tuning"]
    record = read_json(copy / "tuned.json")
    record["chosen"]["baseline"]["pretrain.lr"] = 0.07
    write_json(copy / "tuned.json", sealed(record))
    with pytest.raises(TrialError, match="its tuning differs from"):
        collect([tuned.folder, copy], tmp_path / "again")
