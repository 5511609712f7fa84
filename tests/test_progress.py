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
        return capsys.readouterr().err.splitlines()[-1].split(maxsplit=4)

    return make


def test_a_stage_counts_as_long_as_it_takes(seen):
    """Pretraining 90 s, an evaluation 10 s: after pretraining 90 of 200 s are done on one worker, so 110 are left."""
    calls = {"a": [90.0, 10.0], "b": [90.0, 10.0]}
    share, elapsed, left, *_ = seen(calls, (0, "a", 0.0), (90, "a", 0.5))
    assert (share, elapsed, left) == ("45%", "1:30", "1:50")
    share, _, left, *_ = seen(calls, (0, "a", 0.0), (45, "a", 0.25), (100, "a", 1.0))
    assert (share, left) == ("50%", "1:40")


def test_cells_with_other_stages_left_count_what_they_have_left(seen):
    """One cell whole, one that only has its evaluation left: 10 of 110 s are done in 20."""
    share, _, left, *_ = seen({"a": [90.0, 10.0], "b": [10.0]}, (20, "b", 1.0))
    assert (share, left) == ("9%", "3:20")


def test_a_stage_that_goes_on_from_a_checkpoint_says_nothing_of_its_first_part(seen):
    """50 of 100 s were there; the 10 s since took 20: 40 are left, which take 80."""
    share, _, left, *_ = seen({"a": [100.0]}, (5, "a", 0.5), (25, "a", 0.6))
    assert (share, left) == ("60%", "1:20")


def test_what_has_hardly_begun_has_no_time_left(seen):
    assert "left" not in seen({"a": [100.0], "b": [900.0]}, (1, "a", 0.05))
