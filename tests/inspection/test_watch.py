"""Watching a run: what is under way, the share done, the time left; plain lines without a terminal; when it ends."""

import io
import os
import shutil

import orjson
import pytest
from rich.console import Console

from tokentrial.inspection.watch import read_progress, watch
from tokentrial.plan.work import expected_seconds
from tokentrial.run.run_folder import write_trial
from tokentrial.store.files import read_json, write_json
from tokentrial.store.folders import lock
from tokentrial.trial.sweep import variants

STARTED = 1_000_000.0


def set_times(paths, seconds):
    for path in paths:
        os.utime(path, (seconds, seconds))


@pytest.fixture
def half(finished_copy):
    """The finished run as it was while its last cell was pretraining: three of four cells done, 7 of 20 steps."""
    cell = finished_copy / "mul_tokens" / "seed2"
    shutil.rmtree(cell)
    partial = cell / "pretrain.partial"
    partial.mkdir(parents=True)
    records = [{"step": 0, "loss": 6.0}, {"step": 6, "loss": 2.5}, {"step": 7, "asked": 0.5}]
    lines = b"".join(orjson.dumps(record) + b"\n" for record in records)
    (partial / "metrics.jsonl").write_bytes(lines + b'{"step": 9, "lo')  # half a line: it is being written
    for path in finished_copy.glob("*/seed*/*/manifest.json"):
        seconds = {"pretrain": 80.0, "hf": 5.0, "eval_pretrain": 15.0}[path.parent.name]
        write_json(path, read_json(path) | {"seconds": seconds})
    set_times([finished_copy / "trial.yaml"], STARTED)
    return finished_copy


@pytest.fixture
def finish(half, finished):
    """`finish()`: the run's last cell is done."""

    def copy():
        shutil.rmtree(half / "mul_tokens")
        shutil.copytree(finished.folder / "mul_tokens", half / "mul_tokens")

    return copy


def test_what_is_running_and_how_long_it_will_take(half):
    progress = read_progress(half, STARTED + 656)
    assert not progress.complete
    assert progress.running == ["mul_tokens/seed2 pretrain 35%, step 7, loss 2.500"]
    # 3 cells of 100 s and 0.35 of 80 s, of 400: 328 in 656 s leave 72
    assert progress.share == pytest.approx(328 / 400)
    assert progress.seconds_left == pytest.approx(144)


def test_a_stage_that_was_stopped_midway_is_in_the_plain_status_too(half, tokentrial):
    begun = "mul_tokens/seed2 pretrain 35%, step 7, loss 2.500"
    [line] = [line for line in tokentrial("status", half)[1].splitlines() if begun in line]
    assert "stopped midway" in line
    assert orjson.loads(tokentrial("status", half, "--json")[1])["begun"] == [begun]
    with lock(half):
        [line] = [line for line in tokentrial("status", half)[1].splitlines() if begun in line]
    assert "stopped" not in line


def test_a_size_of_a_ladder_has_its_own_steps_and_seconds(tiny, tmp_path):
    """Of 10 steps of a size half are done, where the trial's own cells have 20. Nothing else is, and each cell of the
    size weighs as its plan says."""
    trial = tiny(tmp_path / "run", "seeds=[1]", "ladder={sizes: [{n_layer: 1, n_head: 1, n_embd: 16, tokens: 40960}]}")
    [size] = variants(trial)
    for member in (trial, size.trial):
        write_trial(member)
    partial = size.trial.folder / "baseline" / "seed1" / "pretrain.partial"
    partial.mkdir(parents=True)
    (partial / "metrics.jsonl").write_bytes(orjson.dumps({"step": 4, "loss": 2.5}) + b"\n")
    progress = read_progress(trial.folder, STARTED)
    assert progress.running == ["ladder/1x16/baseline/seed1 pretrain 50%, step 5, loss 2.500"]
    own, of_size = expected_seconds(trial, {}), expected_seconds(size.trial, {})
    cells = len(trial.arms)
    assert progress.share == pytest.approx(
        of_size["pretrain"] / 2 / (cells * (sum(own.values()) + sum(of_size.values())))
    )


def test_what_was_done_before_the_last_start_says_nothing_of_its_speed(half):
    set_times(half.rglob("manifest.json"), STARTED - 60)
    assert read_progress(half, STARTED + 35).seconds_left == pytest.approx(90)  # 0.35 of 80 s in 35 s; 72 are left
    shutil.rmtree(half / "mul_tokens" / "seed2")
    assert read_progress(half, STARTED + 35).seconds_left is None


def test_without_a_terminal_there_is_a_line_a_change_until_it_is_complete(half, finish, capsys):
    slept = []

    def sleep(seconds):
        slept.append(seconds)
        if len(slept) == 2:  # the run goes on
            finish()

    (half / "mul_tokens" / "seed2" / "pretrain.partial" / "metrics.jsonl").unlink()
    # nothing was done since the last start: no time left, which would change by itself
    set_times([half / "trial.yaml"], 2**32)
    watch(half, Console(file=io.StringIO()), sleep)
    assert len(slept) == 2
    assert capsys.readouterr().out.splitlines() == [
        "smoke: 75%, 3 of 4 cells done; mul_tokens/seed2 pretrain",
        "smoke: 100%, 4 of 4 cells done",
        f"{half}: complete",
    ]


def test_in_a_terminal_the_lines_renew_themselves_and_stay(half, finish):
    out = io.StringIO()
    watch(half, Console(file=out, force_terminal=True, width=160), lambda seconds: finish())
    assert "pretrain 35%, step 7, loss 2.500" in out.getvalue()
    assert "4 of 4 cells done" in out.getvalue()


def test_ctrl_c_ends_the_watching_and_not_the_run(half, capsys):
    def sleep(seconds):
        raise KeyboardInterrupt

    watch(half, Console(file=io.StringIO()), sleep)
    printed = capsys.readouterr()
    assert "complete" not in printed.out
    assert "no longer watched; the run goes on" in printed.err


def test_a_run_that_nothing_works_on_is_no_longer_watched(half, capsys):
    """Its lock died with it; a lock that is held keeps the watching up."""
    slept = []

    def sleep(seconds):
        slept.append(seconds)
        assert len(slept) < 20

    watch(half, Console(file=io.StringIO()), sleep)
    assert "not running" in capsys.readouterr().out
    held = len(slept)

    def stop_later(seconds):
        slept.append(seconds)
        if len(slept) > 3 * held:
            raise KeyboardInterrupt

    with lock(half):
        watch(half, Console(file=io.StringIO()), stop_later)
    assert len(slept) > 3 * held


def test_a_sweep_that_takes_a_stage_away_or_brings_one_is_watched(half):
    trial = (half / "trial.yaml").read_text()
    added = "sft: {stages: [{sources: [{source: word_problems}]}]}"
    (half / "trial.yaml").write_text(trial.replace("sweep: {}", f"sweep: {{sft: [{added[5:]}]}}"))
    set_times([half / "trial.yaml"], STARTED)
    progress = read_progress(half, STARTED + 10)
    assert {"sft", "eval_sft"} <= {stage for stages in progress.cells.values() for stage in stages}
