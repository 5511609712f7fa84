"""Outcomes as means over the last checkpoints of pretraining: the training stays the same, and so does its end."""

import json
from statistics import fmean

import pytest

from tokentrial.compare import bundles
from tokentrial.compare.read import read_systems
from tokentrial.errors import SettingsError
from tokentrial.plan.disk import cell_bytes
from tokentrial.plan.work import work
from tokentrial.publish.bundle import write_bundle
from tokentrial.report.results import read_outcomes
from tokentrial.run.declaration import declaration
from tokentrial.run.run import run
from tokentrial.run.run_folder import open_run
from tokentrial.steps.costs import weights_bytes
from tokentrial.steps.stage import stage_names, stages
from tokentrial.store.files import read_json

LOGPROB = "pretrain/mul_table/all/choice_logprob"
BITS = "pretrain/heldout_text/untouched/bits_per_byte"


def mean_logprob(folder):
    rows = map(json.loads, (folder / "samples.jsonl").read_text().splitlines())
    return fmean(row["choice_logprob"] for row in rows if row["fact"])


def test_an_outcome_is_the_mean_over_the_last_checkpoints_and_no_training_changes(finished, tiny, tmp_path, inline):
    trial = tiny(tmp_path / "run", "evaluate.checkpoints=2", "seeds=[1]", "disk_limit_gb=1")
    report = run(trial)
    alone, both = read_outcomes(finished.folder), read_outcomes(trial.folder)
    for arm in trial.arms:
        cell, undisturbed = trial.folder / arm / "seed1", finished.folder / arm / "seed1"
        for name in ("hf/model.safetensors", "eval_pretrain/samples.jsonl"):
            assert (cell / name).read_bytes() == (undisturbed / name).read_bytes()
        before_end = mean_logprob(cell / "eval_pretrain" / "step_000019")
        assert before_end != alone[LOGPROB][arm][1]
        assert both[LOGPROB][arm][1] == pytest.approx((before_end + alone[LOGPROB][arm][1]) / 2)
        assert both[BITS][arm][1] > alone[BITS][arm][1]  # of the one before, which has learnt less
        assert not [*cell.glob("pretrain/*.safetensors")]  # pruned, as nothing reads them any more
        assert len([*cell.glob("hf/**/model.safetensors")]) == 2
    assert report["missing"] == []
    with bundles.unpacked([trial.folder, write_bundle(trial.folder)]) as folders:
        for [systems] in map(read_systems, zip(folders)):
            values = {system.arm: system.models[1].values[LOGPROB] for system in systems}
            assert values == {arm: both[LOGPROB][arm][1] for arm in trial.arms}
    written = sum(p.stat().st_size for arm in trial.arms for p in (trial.folder / arm).rglob("*") if p.is_file())
    without_limit = trial.model_copy(update={"disk_limit_gb": None})
    assert written <= cell_bytes(without_limit, [stage_names(trial)] * 2, workers=0)
    assert run(open_run(trial.folder)) == report


def test_the_plan_prices_each_checkpoint(tiny, tmp_path):
    one, three = (tiny(tmp_path, "pretrain.steps=30", f"evaluate.checkpoints={number}") for number in (1, 3))
    assert work(three)["evaluate"].flops == pytest.approx(3 * work(one)["evaluate"].flops)
    disk = [{stage.name: stage.disk_bytes() for stage in stages(trial)} for trial in (one, three)]
    assert disk[1]["export"] == 3 * disk[0]["export"]
    assert disk[1]["pretrain"] == disk[0]["pretrain"] + 2 * weights_bytes(one)


def test_a_trial_without_them_is_declared_as_before_there_was_the_setting(finished, tiny, tmp_path):
    assert "checkpoints" not in declaration(finished)["settings"]["evaluate"]
    assert declaration(tiny(tmp_path, "evaluate.checkpoints=2"))["settings"]["evaluate"]["checkpoints"] == 2
    assert "step_" not in str(read_json(finished.folder / "baseline/seed1/eval_pretrain/manifest.json")["files"])


def test_more_than_a_tenth_of_the_steps_is_refused(tiny, tmp_path):
    with pytest.raises(SettingsError, match=r"evaluate.checkpoints is 3, expected at most a tenth of .*, 20"):
        tiny(tmp_path, "evaluate.checkpoints=3")
