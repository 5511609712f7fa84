"""Cells from many machines: what is joined, and what is refused."""

import json
import shutil

import pytest

from tokentrial.errors import Interrupted, TrialError
from tokentrial.run.collect import collect
from tokentrial.run.run import rebuild
from tokentrial.run.run_folder import open_run
from tokentrial.store.files import read_json, write_json
from tokentrial.trial.declaration import DECLARED

pytestmark = pytest.mark.usefixtures("undrawn")


@pytest.fixture
def machines(finished, tmp_path):
    """The finished trial as two machines would have run it, a seed each."""
    folders = []
    for number, lacking in ((1, 2), (2, 1)):
        folder = tmp_path / f"machine{number}"
        shutil.copytree(finished.folder, folder)
        for arm in finished.arms:
            shutil.rmtree(folder / arm / f"seed{lacking}")
        folders.append(folder)
    return folders


def contrasts(report):
    return [{key: c[key] for key in ("outcome", "seeds", "difference", "p", "verdict")} for c in report["contrasts"]]


@pytest.mark.parametrize("into", ["joined", "machine1"])
def test_two_halves_make_the_whole_trial_with_its_verdict(machines, finished, tmp_path, into):
    came = collect(machines, tmp_path / into)
    assert {name.split("/")[1] for name in came} == ({"seed1", "seed2"} if into == "joined" else {"seed2"})
    report = rebuild(tmp_path / into)
    assert report["missing"] == []
    assert contrasts(report) == contrasts(read_json(finished.folder / "comparison_report.json"))
    assert collect(machines, tmp_path / into) == []  # all of it is there


def test_what_is_no_run_and_what_says_not_what_it_declared_is_named(machines, tmp_path):
    with pytest.raises(TrialError, match="machine3"):
        collect([machines[0], tmp_path / "machine3"], tmp_path / "joined")
    (machines[1] / "declared.json").unlink()
    with pytest.raises(TrialError, match=r"machine2/declared\.json: not found"):
        collect(machines, tmp_path / "joined")
    assert not (tmp_path / "joined" / "trial.yaml").exists()


def test_an_interrupted_collect_is_done_by_the_same_command(machines, tmp_path, monkeypatch):
    def killed(path, data):
        raise Interrupted("stopped")

    with monkeypatch.context() as patch:
        patch.setattr("tokentrial.run.collect.write_bytes", killed)
        with pytest.raises(Interrupted):
            collect(machines, tmp_path / "joined")
    (tmp_path / "joined" / "baseline" / "seed1" / "eval_pretrain" / "samples.jsonl").unlink()
    collect(machines, tmp_path / "joined")
    assert rebuild(tmp_path / "joined")["missing"] == []


def test_what_machine_made_which_cell_and_that_a_pair_was_split_is_said(machines, tmp_path):
    for number, folder in enumerate(machines):
        for manifest in folder.glob("*/seed*/*/manifest.json"):
            content = read_json(manifest)
            content["provenance"]["processor"] = f"processor {number}"
            write_json(manifest, content)
    collect(machines, tmp_path / "joined")
    made_by = rebuild(tmp_path / "joined")["made_by"]
    assert {maker["processor"] for maker in made_by["makers"]} == {"processor 0", "processor 1"}
    assert made_by["split_pairs"] == []
    manifest = next((tmp_path / "joined").glob("baseline/seed1/eval_pretrain/manifest.json"))
    content = read_json(manifest)
    content["provenance"]["processor"] = "processor 7"
    manifest.unlink()
    write_json(manifest, content)
    assert rebuild(tmp_path / "joined")["made_by"]["split_pairs"] == [1]


def test_a_folder_of_another_declaration_is_refused_by_the_setting_that_differs(machines, tmp_path):
    declared = read_json(machines[1] / DECLARED)
    declared["declaration"]["settings"]["pretrain"]["lr"] = 0.5
    write_json(machines[1] / DECLARED, declared | {"sha256": "0" * 64})
    with pytest.raises(TrialError, match=r"machine2: its declaration 000000000000 .* in settings\.pretrain\.lr;"):
        collect(machines, tmp_path / "joined")
    assert not (tmp_path / "joined" / "trial.yaml").exists()


def test_of_a_cell_that_two_machines_ran_the_earlier_one_counts(machines, finished, tmp_path, capsys):
    again = machines[1] / "baseline" / "seed1"
    shutil.copytree(finished.folder / "baseline" / "seed1", again)
    for path in again.glob("*/manifest.json"):
        content = read_json(path)
        content["provenance"]["time"] = "2099-01-01T00:00:00+00:00"
        if path.parent.name == "pretrain":
            (path.parent / "results.json").write_bytes((path.parent / "results.json").read_bytes() + b" ")
            content["files"]["results.json"]["bytes"] += 1
        write_json(path, content)
    collect([machines[1], machines[0]], tmp_path / "joined")
    counted = read_json(tmp_path / "joined" / "baseline" / "seed1" / "pretrain" / "manifest.json")
    assert counted["provenance"]["time"] < "2099"
    assert "machine2/baseline/seed1: left out" in capsys.readouterr().err


def test_what_each_machine_saw_of_grpo_is_joined_and_two_decisions_are_refused(machines, tmp_path):
    for number, folder in enumerate(machines, 1):
        write_json(folder / "grpo_decision.json", {"go_on": True, "pass_at_k": {f"baseline/seed{number}": 0.5}})
    collect(machines, tmp_path / "joined")
    decision = read_json(tmp_path / "joined" / "grpo_decision.json")
    assert (decision["go_on"], decision["pass_at_k"]) == (True, {"baseline/seed1": 0.5, "baseline/seed2": 0.5})
    write_json(machines[1] / "grpo_decision.json", {"go_on": False, "pass_at_k": {}})
    with pytest.raises(TrialError, match="its decision on GRPO differs"):
        collect(machines, tmp_path / "other")


def test_the_folder_of_another_run_and_folders_without_a_corpus_are_refused(machines, tmp_path):
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "trial.yaml").write_text("name: other\n")
    with pytest.raises(TrialError, match="without a declaration"):
        collect(machines, tmp_path / "taken")
    for folder in machines:
        shutil.rmtree(folder / "corpus")
    with pytest.raises(TrialError, match="no corpus"):
        collect(machines, tmp_path / "joined")
    assert not list((tmp_path / "joined").glob("*/seed*"))


def test_what_departs_on_one_machine_departs_in_the_whole(machines, tmp_path):
    declared = read_json(machines[1] / DECLARED)
    amendment = {
        "time": "2026-01-01T00:00:00+00:00",
        "sha256": "1" * 64,
        "changes": ["settings.pretrain.lr: 1 instead of the declared 2"],
    }
    write_json(machines[1] / DECLARED, declared | {"amendments": [amendment | {"replaced": []}]})
    collect(machines, tmp_path / "joined")
    departures = rebuild(tmp_path / "joined")["declaration"]["departures"]
    assert any("settings.pretrain.lr" in departure for departure in departures)


def test_a_step_that_has_not_taken_its_place_is_none(machines, tmp_path):
    """Killed between its manifest and its name."""
    cell = machines[1] / "baseline" / "seed2"
    (cell / "hf").rename(cell / "hf.partial")
    assert not {path for path in collect(machines, tmp_path / "joined") if path.startswith("baseline/seed2/hf")}


def test_an_unfinished_step_stays_where_it_is(machines, tmp_path):
    (machines[1] / "baseline" / "seed2" / "eval_pretrain" / "samples.jsonl").unlink()
    came = collect(machines, tmp_path / "joined")
    assert "baseline/seed2/eval_pretrain" not in came
    assert open_run(tmp_path / "joined").seeds == [1, 2]
    assert json.loads((tmp_path / "joined" / DECLARED).read_bytes())["amendments"] == []
