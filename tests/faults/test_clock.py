"""A clock that is set back: what is done stays done, and no time that is left is below nothing."""

import os
import shutil
import time

from tokentrial.inspection import watch
from tokentrial.run.run import run
from tokentrial.store.files import read_json

YEAR_S = 365 * 86400.0


def from_next_year(folder):
    """As if the clock had been a year ahead while this was written."""
    for path in folder.rglob("*"):
        os.utime(path, (time.time() + YEAR_S,) * 2)


def test_after_the_clock_was_set_back_a_run_goes_on(finished_copy, finished, tiny, inline):
    from_next_year(finished_copy)
    before = {path: path.stat().st_mtime_ns for path in finished_copy.glob("*/seed*/**/*") if path.is_file()}
    shutil.rmtree(finished_copy / "baseline" / "seed2" / "eval_pretrain")
    report = run(tiny(finished_copy))
    assert report["outcomes"] == read_json(finished.folder / "comparison_report.json")["outcomes"]
    redone = {path for path, when in before.items() if path.stat().st_mtime_ns != when}
    assert {path.parent for path in redone} == {finished_copy / "baseline" / "seed2" / "eval_pretrain"}


def test_the_time_left_is_never_below_nothing(finished_copy):
    shutil.rmtree(finished_copy / "baseline" / "seed2" / "eval_pretrain")
    from_next_year(finished_copy)
    os.utime(finished_copy / "trial.yaml", (time.time() + YEAR_S / 2,) * 2)
    progress = watch.read_progress(finished_copy, time.time())
    assert progress.seconds_left == 0
    assert not progress.complete
