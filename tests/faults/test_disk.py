"""A disk that fills up in the middle of a stage, and a folder that may not be written: what to do is said, what is
done is kept, and the same command ends as if nothing had been."""

import shutil

import pytest

from tests.test_interrupted_run import outcomes
from tokentrial.corpus import audit, prepare
from tokentrial.posttrain.trainer import CheckpointCallback
from tokentrial.pretrain.checkpoint import CheckpointWriter
from tokentrial.run import run as runs
from tokentrial.run.run import run
from tokentrial.steps.stage import stage_of

STAGES = ("pretrain", "export", "eval_pretrain", "sft", "eval_sft", "grpo", "eval_grpo")
FOLDERS = ("pretrain", "hf", *STAGES[2:])


def slow(value):
    return pytest.param(value, marks=pytest.mark.slow)


def fill(disk):
    """Somebody else's file takes what is left."""
    with (disk / "theirs").open("wb", buffering=0) as file:
        while free := shutil.disk_usage(disk).free:
            file.write(bytes(min(free, 1 << 16)))
    with (disk / "theirs").open("r+b") as file:
        file.truncate((disk / "theirs").stat().st_size - 8192)  # so that a stage begins before it fails


@pytest.fixture
def on_small_disk(small_disk, ladder, climbed, inline, monkeypatch):
    """`on_small_disk(stage)`: the trial, its run there up to this stage of its first cell; the disk fills up as the
    stage begins, as long as `theirs` is not there."""
    shutil.copytree(climbed.folder, small_disk / "run")
    (small_disk / "run" / "comparison_report.json").unlink()

    def filling(module, name, when=lambda *given: True):
        real = getattr(module, name)

        def begun(*given, **more):
            if not (small_disk / "theirs").exists() and when(*given):
                fill(small_disk)
            return real(*given, **more)

        monkeypatch.setattr(module, name, begun)

    def make(stage):
        folder = small_disk / "run"
        if stage in STAGES:
            for name in FOLDERS[STAGES.index(stage) :]:
                shutil.rmtree(folder / "baseline" / "seed1" / name)
            filling(type(stage_of(ladder(folder), stage)), "make", lambda doing, job: doing.name == stage)
        elif stage == "report":
            filling(runs, "build")
        else:
            module, name, gone = {
                "text": (prepare, "run_task", ""),
                "drills": (prepare, "prepare_drills", "drills"),
                "patches": (prepare, "prepare_patches", "patches"),
                "audit": (audit, "audit", "audit.json"),
            }[stage]
            path = folder / "corpus" / gone
            shutil.rmtree(path) if path.is_dir() else path.unlink()
            filling(module, name)
        return ladder(folder, "disk_reserve_gb=0")

    return make


@pytest.fixture
def disk_fills_up(on_small_disk, small_disk, written, refused, hashes, climbed):
    """`disk_fills_up(stage)`: is named, leaves what is done, and the same command ends with the same figures."""

    def check(stage):
        trial = on_small_disk(stage)
        before = hashes(trial.folder)
        message = refused(*written(trial))
        assert "No space left on device; free some space or give output=OTHER_FOLDER" in message
        assert "what is done is kept" in message
        assert str(trial.folder) in message
        assert hashes(trial.folder) == before
        (small_disk / "theirs").write_bytes(b"")  # they have gone, and do not come again
        run(trial)
        assert outcomes(trial.folder) == outcomes(climbed.folder)

    return check


@pytest.mark.parametrize("stage", ["report", slow("eval_grpo")])
def test_a_disk_that_fills_up_at_the_end(stage, disk_fills_up):
    disk_fills_up(stage)


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["text", "drills", "patches", "audit", *STAGES[:-1]])
def test_a_disk_that_fills_up_in_a_stage(stage, disk_fills_up):
    disk_fills_up(stage)


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["pretrain", "sft", "grpo"])
def test_a_disk_that_fills_up_before_a_checkpoint(
    stage, on_small_disk, small_disk, ladder, written, refused, hashes, climbed, monkeypatch
):
    """Stages that train write their first bytes of weight into a checkpoint."""
    on_small_disk(stage)
    trial = ladder(small_disk / "run", "disk_reserve_gb=0", "pretrain.checkpoint.interval=5")
    (small_disk / "theirs").write_bytes(b"")
    owner, name = (CheckpointWriter, "save") if stage == "pretrain" else (CheckpointCallback, "on_step_end")
    real = getattr(owner, name)

    def full_first(*given, **more):
        if not (small_disk / "theirs").stat().st_size:
            fill(small_disk)
        return real(*given, **more)

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, full_first)
        before = hashes(trial.folder)
        message = refused(*written(trial))
    assert "No space left on device; free some space or give output=OTHER_FOLDER" in message
    assert hashes(trial.folder) == before
    (small_disk / "theirs").write_bytes(b"")
    run(trial)
    assert outcomes(trial.folder) == outcomes(climbed.folder)


# read-only


@pytest.mark.parametrize("verb", ["run", slow("report"), slow("bundle")])
@pytest.mark.usefixtures("undrawn")
def test_a_folder_that_may_not_be_written(finished_copy, tiny, finished, written, refused, read_only, hashes, verb):
    if verb != "bundle":
        (finished_copy / "report.html").unlink()
    before = hashes(finished_copy)
    undo = read_only(finished_copy)
    words = {
        "run": (*written(tiny(finished_copy)),),
        "report": ("report", finished_copy),
        "bundle": ("bundle", finished_copy, "--to", finished_copy / "a.zip"),
    }[verb]
    message = refused(*words)
    assert "Read-only file system" in message
    assert str(finished_copy) in message
    assert "make it writable, or give output=OTHER_FOLDER" in message
    undo()
    assert hashes(finished_copy) == before
    run(tiny(finished_copy))
    assert outcomes(finished_copy) == outcomes(finished.folder)


def test_a_read_only_run_can_still_be_looked_at(finished_copy, tokentrial, read_only):
    read_only(finished_copy)
    for words in (("status", finished_copy), ("compare", finished_copy)):
        code, out, err = tokentrial(*words)
        assert (code, err) == (0, "")
        assert "baseline" in out
