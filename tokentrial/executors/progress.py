"""How far a run is: a bar with an estimate of the time left where a person waits, plain lines elsewhere."""

import sys
import time
from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.progress import BarColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars

from tokentrial.executors.worker import Report

_LINE_EVERY_S = 15.0
_FEW = 40  # so many calls have a line each
_TOO_LITTLE = 0.01  # a share of the phase that tells no pace


class Progress:
    """Called with every report. `start` opens a phase of calls; calls outside a phase print their end."""

    def __init__(self) -> None:
        self.console = Console(stderr=True)
        self.live = self.console.is_terminal and not sys.stderr.closed
        self.calls: Mapping[str, Sequence[float]] = {}
        self.done: dict[str, float] = {}  # seconds' worth of work, by call
        self.before: dict[str, float] = {}  # what of it was there as the call began
        self.started = self.paced_from = self.printed = time.monotonic()
        self.bars = Bars(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f}% {task.fields[note]}"),
            TimeElapsedColumn(),
            console=self.console,
            disable=not self.live,
        )
        self.rows: dict[str, TaskID] = {}

    def __enter__(self) -> "Progress":
        self.bars.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.bars.stop()

    def start(self, name: str, calls: Mapping[str, Sequence[float]]) -> None:
        """Open a phase whose time left is estimated. `calls` has of each call the expected seconds of its parts, which
        are equal steps of the share that it reports."""
        self.calls, self.done, self.before = calls, {}, {}
        self.started = self.paced_from = self.printed = time.monotonic()
        if self.live and calls:
            self.rows[""] = self.bars.add_task(name, total=1.0, note="")

    def __call__(self, report: Report) -> None:
        if report.name not in self.calls:
            self.console.print(f"{report.name}: {report.text}", style="dim", highlight=False)
            return
        share, seconds = self._share_and_seconds_left(report)
        elapsed = time.monotonic() - self.started
        left = "" if seconds is None else f"{clock(seconds)} left"
        if self.live:
            if report.name not in self.rows:
                self.rows[report.name] = self.bars.add_task(report.name, total=1.0, note="")
            self.bars.update(self.rows[report.name], completed=self._share(report.name), note=report.text)
            if report.share >= 1:
                self.bars.remove_task(self.rows.pop(report.name))
            self.bars.update(self.rows[""], completed=share, note=left)
        elif (report.share >= 1 and len(self.calls) <= _FEW) or time.monotonic() - self.printed > _LINE_EVERY_S:
            self.printed = time.monotonic()
            print(f"{share:4.0%}  {clock(elapsed)}  {left:>12}  {report.name}: {report.text}", file=sys.stderr)

    def _share_and_seconds_left(self, report: Report) -> tuple[float, float | None]:
        """The share of the phase that is done, and the seconds left at the pace so far; None before there is one."""
        parts = self.calls[report.name]
        whole, within = divmod(report.share * len(parts), 1)
        self.done[report.name] = sum(parts[: int(whole)]) + (within * parts[int(whole)] if within else 0.0)
        if report.share and report.name not in self.before:
            # a first part that goes on from a checkpoint was not done just now: its pace is told from here on
            if whole == 0 and not self.before:
                self.paced_from = time.monotonic()
            self.before[report.name] = self.done[report.name] if whole == 0 else 0.0
        total, done = sum(map(sum, self.calls.values())), sum(self.done.values())
        since = done - sum(self.before.values())
        if since <= _TOO_LITTLE * total:
            return done / total, None
        return done / total, (time.monotonic() - self.paced_from) * (total - done) / since

    def _share(self, name: str) -> float:
        return self.done[name] / sum(self.calls[name])


def clock(seconds: float) -> str:
    """Seconds as minutes and seconds."""
    return f"{int(seconds // 60)}:{int(seconds % 60):02d}"
