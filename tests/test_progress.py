"""Progress of a run: each stage counts as long as it takes, and what a checkpoint brought says nothing of the pace."""

import pytest

from tokentrial.executors import progress
from tokentrial.executors.progress import Progress
from tokentrial.executors.worker import Report


@pytest.fixture
def seen(monkeypatch, capsys):
    """`seen(calls, *(time, call, share))`: the last line that a phase of these calls prints."""

    def make(calls, *reports):
        now = [0.0]
        monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
        monkeypatch.setattr(progress, "_LINE_EVERY_S", 0.0)
        made = Progress()
        made.start("cells", calls)
        for time, name, share in reports:
            now[0] = time
            made(Report(name, share, "text"))
        return capsys.readouterr().err.splitlines()[-1].split(maxsplit=5)

    return make


TWO = {"a": [90.0, 10.0], "b": [90.0, 10.0]}  # seconds of pretraining and of an evaluation in each of two cells


@pytest.mark.parametrize(
    ("calls", "reports", "share", "left"),
    [
        (TWO, [(10, "a", 0.05), (90, "a", 0.45)], "40%", "2:13"),  # 72 of 200 s in 80 s leave 119
        (TWO, [(9, "a", 0.05), (100, "a", 1.0)], "50%", "1:40"),  # an evaluation counts its 10 s, and not half a cell
        # a cell that only has its evaluation left counts that alone: 5 of 110 s took 10
        ({"a": [90.0, 10.0], "b": [10.0]}, [(10, "b", 0.5), (20, "b", 1.0)], "9%", "3:20"),
        # 50 of 100 s came from a checkpoint; the 10 s since took 20: 40 are left, which take 80
        ({"a": [100.0]}, [(5, "a", 0.5), (25, "a", 0.6)], "60%", "1:20"),
    ],
)
def test_a_stage_counts_as_long_as_it_takes_from_where_it_began(seen, calls, reports, share, left):
    phase, shown, _, time_left, *_ = seen(calls, *reports)
    assert (phase, shown, time_left) == ("cells", share, left)


def test_what_has_hardly_begun_has_no_time_left(seen):
    assert "left" not in seen({"a": [100.0], "b": [900.0]}, (1, "a", 0.05))
