"""What to run next: seeds by power, costs by the devices; and every command that is offered runs."""

import shlex
from pathlib import Path

import pytest
from scipy import stats

from tokentrial.report.next_steps import next_steps
from tokentrial.run.run import run
from tokentrial.statistics.power import seeds_needed
from tokentrial.store.files import read_json

OUT = Path("outputs/smoke")


def test_the_seeds_are_those_that_power_asks_for_with_their_cost(report):
    primary = report["contrasts"][0]
    # FACTS, section 4: the minimum detectable effect is 1.435 standard deviations at n = 6, whose upper 80 % bound is
    # sqrt(5 / chi2_.2(5)) of them
    sd = primary["detectable"] / 1.435 * (5 / stats.chi2.ppf(0.2, 5)) ** 0.5
    needed = -(-seeds_needed(abs(primary["difference"]), sd) // 3) * 3  # the trial has three folds
    confirm, budget = next_steps(report, OUT)
    assert confirm["why"].startswith(f"confirm on {needed} fresh seeds")
    seeds = ",".join(str(7 + i) for i in range(needed))
    words = ["tokentrial", "run", "outputs/smoke/trial.yaml", f"seeds=[{seeds}]", "output=outputs/smoke-fresh"]
    assert shlex.split(confirm["command"]) == words
    # a seed trains 35 s, fine-tunes 60 s and is evaluated twice 2.5 s on average, in each of three arms
    assert confirm["cost"] == f"about {needed * 3 * 100 / 60:.0f} CPU worker minutes"
    assert shlex.split(budget["command"])[3:] == ["budget.match=bytes", "output=outputs/smoke-bytes"]
    ran = {row["setting"]: row for row in report["ran"]}
    ran["device"]["ran"], ran["processes per cell"]["ran"] = "cuda", "16"
    assert next_steps(report, OUT)[1]["cost"] == f"about {16 * 6 * 3 * 100 / 3600:.1f} GPU hours"


@pytest.mark.parametrize("given", [{"verdict": "control has not learnt"}, {"verdict": None, "seeds": []}])
def test_a_control_that_has_not_learnt_or_a_skipped_stage_trains_longer(report, given):
    report["contrasts"][0] |= given
    [longer] = next_steps(report, OUT)
    assert "pretrain.steps=40" in longer["command"]  # twice those of the tiny trial


def test_where_nothing_was_found_seeds_are_those_of_the_margin_and_none_without_one(report):
    report["settings"]["robustness_reruns"] = ["budget.match=bytes"]  # so that no step is of the budget
    report["contrasts"][0] |= {"verdict": "no difference shown", "margin": 0.3}
    [decide] = next_steps(report, OUT)
    assert "a difference of 0.3 " in decide["why"]
    for given in ({"margin": None}, {"verdict": "equivalent within 0.3"}):
        report["contrasts"][0] |= {"margin": 0.3} | given
        assert next_steps(report, OUT) == []


def test_a_look_that_does_not_decide_goes_on_in_its_folder(report):
    report["contrasts"][0]["verdict"] = None
    report["look"] |= {"may_go_on": True, "wanted": 12}
    [step] = next_steps(report, OUT)
    assert step["command"] == "tokentrial run outputs/smoke/trial.yaml output=outputs/smoke"


# each command, run: in a folder with a storage, with a relative source and a sweep


@pytest.fixture(scope="module")
def started(tiny, source, in_process, tmp_path_factory):
    """The folder in which a run was started, which stays the working folder, and its report."""
    folder = tmp_path_factory.mktemp("started")
    (folder / "prose.jsonl").write_bytes(source.read_bytes())
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        in_process(patch)
        patch.setattr("tokentrial.report.page.draw", lambda report: {})
        swept = "corpus.source=jsonl:prose.jsonl", "storage=store", "sweep={pretrain.n_embd: [16, 32]}"
        yield folder, run(tiny(OUT, *swept))


@pytest.mark.slow
@pytest.mark.parametrize("verdict", ["control has not learnt", "no difference shown", None])
def test_the_command_runs(started, tokentrial, verdict):
    folder, report = started
    primary = report["contrasts"][0] | {"verdict": verdict, "margin": 0.9, "differences": [0.2, 0.19]}
    look = {"may_go_on": verdict is None, "wanted": 3 if verdict is None else 2}
    steps = next_steps(report | {"contrasts": [primary, *report["contrasts"][1:]], "look": look}, OUT)
    assert len(steps) == (2 if verdict == "no difference shown" else 1)
    for step in steps:
        words = shlex.split(step["command"])
        code, _, err = tokentrial(*words[1:])
        assert code == 0, err
        [out] = [word.removeprefix("output=") for word in words if word.startswith("output=")]
        assert read_json(folder / out / "comparison_report.json")["missing"] == []
