"""Watching a run: what is under way, the share done, the time left; plain lines without a terminal; when it ends."""

import io
import os
import shutil
import time

import orjson
import pytest
from rich.console import Console

from tokentrial.looking.watch import _table, look, watch

STARTED = 1_000_000.0


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
        path.write_bytes(orjson.dumps(orjson.loads(path.read_bytes()) | {"seconds": seconds}))
    os.utime(finished_copy / "trial.yaml", (STARTED, STARTED))
    return finished_copy


def test_what_is_under_way_and_how_long_it_will_take(half):
    seen = look(half, STARTED + 656)
    assert not seen.complete
    [work] = seen.working["mul_tokens/seed2"]
    assert (work.stage, work.step, work.loss, work.share) == ("pretrain", 7, 2.5, 7 / 20)
    # 3 cells of 100 s and 0.35 of 80 s, of 400: 328 in 656 s leave 72
    assert seen.share == pytest.approx(328 / 400)
    assert seen.left_s == pytest.approx(144)


def test_what_was_done_before_the_last_start_says_nothing_of_its_speed(half):
    for path in half.rglob("manifest.json"):
        os.utime(path, (STARTED - 60, STARTED - 60))
    seen = look(half, STARTED + 35)
    assert seen.left_s == pytest.approx(90)  # 0.35 of 80 s in 35 s; 72 are left


def test_nothing_done_yet_has_no_time_left(half):
    shutil.rmtree(half / "mul_tokens" / "seed2")
    for path in half.rglob("manifest.json"):
        os.utime(path, (STARTED - 60, STARTED - 60))
    assert look(half, STARTED + 35).left_s is None


def test_without_a_terminal_there_is_a_line_a_change_until_it_is_complete(half, finished, capsys):
    slept = []

    def sleep(seconds):
        slept.append(seconds)
        if len(slept) == 2:  # the run goes on
            shutil.rmtree(half / "mul_tokens")
            shutil.copytree(finished.folder / "mul_tokens", half / "mul_tokens")

    (half / "mul_tokens" / "seed2" / "pretrain.partial" / "metrics.jsonl").unlink()
    later = time.time() + 60  # nothing was done since the last start: no time left, which would change by itself
    os.utime(half / "trial.yaml", (later, later))
    watch(half, Console(file=io.StringIO()), sleep)
    lines = capsys.readouterr().out.splitlines()
    assert len(slept) == 2
    assert lines == [
        "smoke: 75%, 3 of 4 cells done; mul_tokens/seed2 pretrain",
        "smoke: 100%, 4 of 4 cells done",
        f"{half}: complete",
    ]


def test_in_a_terminal_it_is_a_table_that_stays(half, finished):
    def sleep(seconds):
        shutil.rmtree(half / "mul_tokens")
        shutil.copytree(finished.folder / "mul_tokens", half / "mul_tokens")

    out = io.StringIO()
    watch(half, Console(file=out, force_terminal=True, width=160), sleep)
    assert "pretrain 35%, step 7, loss 2.500" in out.getvalue()
    assert "4 of 4 cells done" in out.getvalue()


def test_in_80_columns_every_cell_has_its_whole_name_and_the_bar_a_line_of_its_own(half):
    out = io.StringIO()
    console = Console(file=out, width=80)
    console.print(_table(look(half, 0.0)))
    lines = out.getvalue().splitlines()
    assert {"baseline/seed1", "mul_tokens/seed2"} <= {line.split()[0] for line in lines}
    assert not set(lines[1]) - set("━╸╺ ")


def test_ctrl_c_ends_the_watching_and_not_the_run(half, capsys):
    def sleep(seconds):
        raise KeyboardInterrupt

    watch(half, Console(file=io.StringIO()), sleep)
    printed = capsys.readouterr()
    assert "complete" not in printed.out
    assert "no longer watched; the run goes on" in printed.err
