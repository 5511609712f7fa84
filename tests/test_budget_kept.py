"""A run within a budget: whole seeds, the rest pending, no verdict that was not declared."""

import shutil
from types import SimpleNamespace

import pytest

from tests.test_ladder import LADDER
from tokentrial.errors import SettingsError
from tokentrial.plan.work import expected_seconds
from tokentrial.run import budget
from tokentrial.run.budget import affordable_cells
from tokentrial.run.declaration import declare
from tokentrial.run.run import run
from tokentrial.run.run_folder import open_run, status, write_trial
from tokentrial.steps import stage as stage_file
from tokentrial.steps.cell import Cell, cells
from tokentrial.steps.export import ExportStage
from tokentrial.steps.stage import phases, stage_names
from tokentrial.store.files import read_json, sealed, write_json
from tokentrial.store.storage import Storage

MINUTES = 10  # of a seed: two arms of three stages, one worker


@pytest.fixture
def priced(monkeypatch, in_process, undrawn):
    """Every stage is expected to take 100 s, whatever it took."""
    in_process(monkeypatch)
    of_trial = lambda trial: dict.fromkeys(stage_names(trial), 100.0)  # noqa: E731
    monkeypatch.setattr(budget, "expected_of_family", lambda family, measured: [of_trial(trial) for trial in family])


def done(trial):
    return {name for name, of_cell in status(trial.folder)["cells"].items() if all(of_cell.values())}


def cells_of(*seeds, below=""):
    return {f"{below}{arm}/seed{seed}" for seed in seeds for arm in ("baseline", "mul_tokens")}


def test_a_ladder_is_run_as_far_as_the_budget_goes_and_a_later_run_goes_on(priced, tiny, tmp_path, finished, capsys):
    trial = tiny(tmp_path / "run", LADDER, "workers=1")
    rung = "ladder/1x16/"
    with pytest.raises(SettingsError, match=r"the first pending seed needs about 10 in all arms; give more"):
        run(trial, budget_minutes=0.9 * MINUTES)
    assert not list(trial.folder.glob("**/seed*/pretrain"))
    assert run(trial, budget_minutes=1.9 * MINUTES) is None  # of the trial itself there is nothing to report
    assert done(trial) == cells_of(1, below=rung)
    assert read_json(trial.folder / rung / "comparison_report.json")["primary"]["verdict"] is None
    assert "ladder 1x16: seeds [1] now, seeds [2] later" in capsys.readouterr().err
    declared = (trial.folder / "declared.json").read_bytes()
    changed = tiny(trial.folder, LADDER, "verdict.alpha=0.01")  # after a look at a size
    declare(changed, [], Storage(changed))
    assert read_json(trial.folder / "declared.json")["amendments"]
    (trial.folder / "declared.json").write_bytes(declared)
    part = run(trial, budget_minutes=2.9 * MINUTES)
    assert done(trial) == cells_of(1, 2, below=rung) | cells_of(1)
    assert part["primary"]["verdict"] is None
    assert part["missing"]
    assert part["ladder"]["trends"] == [] or part["ladder"]["trends"][0]["verdict"] is None
    whole = run(open_run(trial.folder))
    assert done(trial) == cells_of(1, 2, below=rung) | cells_of(1, 2)
    assert (whole["missing"], whole["declaration"]["departures"]) == ([], [])
    assert whole["outcomes"] == read_json(finished.folder / "comparison_report.json")["outcomes"]


def test_a_look_that_the_budget_leaves_incomplete_is_none(priced, tiny, tmp_path, tokentrial):
    trial = tiny(tmp_path / "run", "seeds=[1,2,3,4]", "verdict.looks=[2,4]", "workers=1")
    report = run(trial, budget_minutes=3.5 * MINUTES)
    assert done(trial) == cells_of(1, 2, 3)
    assert (report["look"]["seeds"], report["primary"]["verdict"]) == (2, None)
    assert tokentrial("verdict", trial.folder)[0] == 14


def test_finished_cells_correct_the_estimate_of_all_that_is_pending(finished_copy, tiny):
    for path in finished_copy.glob("*/seed*/*/manifest.json"):
        seconds = {"pretrain": 30.0, "hf": 2.0, "eval_pretrain": 10.0}[path.parent.name]
        write_json(path, read_json(path) | {"seconds": seconds})
    trial = tiny(finished_copy, "seeds=[1,2,3,4]", LADDER)
    [rung] = [of for name, of in budget.budget_order(trial) if name == "ladder 1x16"]
    pace = 42 / sum(expected_seconds(trial, {}).values())
    climbing = 4 * 2 * pace * sum(expected_seconds(rung, {}).values())  # its four seeds in two arms
    for left, seeds in ((83, [1, 2]), (85, [1, 2, 3]), (169, [1, 2, 3, 4])):
        found = affordable_cells(trial, None, climbing + left, lambda trial, cells: 1)
        assert found == {
            rung.folder: [cells(rung)],
            trial.folder: [[Cell(arm, seed) for seed in seeds for arm in trial.arms]],
        }


def test_what_is_decided_once_for_all_cells_is_bought_when_all_have_come_so_far(climbed, ladder):
    """Two seeds are done but for GRPO of the second, and a third has not begun: first it must come so far."""
    trial = ladder(climbed.folder, "seeds=[1,2,3]")
    hour = expected_seconds(trial, {})
    before, after = (sum(hour[stage] for stage in names) for _, names in phases(trial, stage_names(trial)))
    for left, of_third in ((2.1 * before, [[3], []]), (2.1 * (before + after), [[3], [3]])):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(budget, "seconds", lambda trial: {})
            first, second = affordable_cells(trial, None, left, lambda trial, cells: 1)[trial.folder]
        done = [Cell(arm, seed) for seed in (1, 2) for arm in trial.arms]
        assert [[cell for cell in phase if cell not in done] for phase in (first, second)] == [
            [Cell(arm, seed) for seed in seeds for arm in trial.arms] for seeds in of_third
        ]


class AfterGRPO(ExportStage):
    name, reads, folder = "late", "grpo", "late"


def test_a_decision_against_grpo_costs_nothing_and_leaves_nothing_to_do(climbed_copy, ladder, monkeypatch):
    """One seed is left to train; nobody pays for GRPO, nor for the stage that follows it."""
    real, late = stage_file._file, SimpleNamespace(build=lambda trial: [AfterGRPO(trial)])
    monkeypatch.setattr(stage_file, "_file", lambda name: late if name == "late" else real(name))
    trial = ladder(climbed_copy, "seeds=[1,2,3]", "grpo.on_zero=skip", "stages={late: {}}")
    write_json(climbed_copy / "grpo_decision.json", sealed({"go_on": False, "pass_at_k": {}}))
    for path in climbed_copy.glob("*/seed*/*grpo"):
        shutil.rmtree(path)
    hour = expected_seconds(trial, {})
    least = 2.1 * sum(hour[stage] for stage in phases(trial, stage_names(trial))[0][1])
    monkeypatch.setattr(budget, "seconds", lambda trial: {})
    first, second = affordable_cells(trial, None, least, lambda trial, cells: 1)[trial.folder]
    assert affordable_cells(ladder(climbed_copy, "grpo.on_zero=skip"), None, -1.0, lambda trial, cells: 1)
    assert (first, second) == (cells(trial), [])
    write_trial(trial)
    assert done(trial) == cells_of(1, 2)
    # an evaluation that was made again since says otherwise: nobody takes the old word for it
    path = cells(trial)[0].folder(trial, "eval_sft") / "pass_at_k.json"
    write_json(path, read_json(path) | {"pass_at_k": 0.25})
    assert done(trial) == set()


def test_a_trial_whose_looks_are_decided_pays_for_no_further_seeds(finished, tiny, monkeypatch):
    """Its two seeds are the first of two looks."""
    trial = tiny(finished.folder, "seeds=[1,2,3,4]", "verdict.looks=[2,4]")
    least = 2.1 * sum(expected_seconds(trial, {}).values())
    monkeypatch.setattr(budget, "seconds", lambda trial: {})
    for needed, seeds in (([1, 2], [1, 2]), ([1, 2, 3, 4], [1, 2, 3])):
        monkeypatch.setattr(budget, "wanted_seeds", lambda corpus, now=needed: now)
        [affordable] = affordable_cells(trial, None, least, lambda trial, cells: 1)[trial.folder]
        assert affordable == [Cell(arm, seed) for seed in seeds for arm in trial.arms]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--budget-minutes", "0"], "expected more than 0"),
        (["--budget-minutes", "nan"], "expected more than 0"),
        (["--budget-minutes", "9", "--seed", "1"], "leave --arm and --seed out"),
        (["--budget-minutes", "9", "executor=ray"], "give workers=NUMBER"),
    ],
)
def test_what_cannot_be_kept_is_refused(tokentrial, tmp_path, words, message):
    code, _, err = tokentrial("run", "smoke", f"output={tmp_path / 'run'}", *words)
    assert (code, message in err) == (2, True), err
    assert not (tmp_path / "run").exists()
