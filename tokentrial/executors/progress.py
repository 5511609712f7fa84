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
_PACE_S = 600.0  # the pace is that of so many last seconds: a step of GRPO may take a minute


class Progress:
    """Called with every report. `start` opens a phase of calls; calls outside a phase print their end."""

    def __init__(self) -> None:
        self.console = Console(stderr=True)
        self.live = self.console.is_terminal and not sys.stderr.closed
        self.calls: Mapping[str, Sequence[float]] = {}
        self.done: dict[str, float] = {}  # seconds' worth of work, by call
        self.started = self.printed = time.monotonic()
        self.bars = Bars(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f}% {task.fields[note]}"),
            TimeElapsedColumn(),
            console=self.console,
            disable=not self.live,
            speed_estimate_period=_PACE_S,
            get_time=time.monotonic,
        )
        self.rows: dict[str, TaskID] = {}
        self.phase = ""

    def __enter__(self) -> "Progress":
        self.bars.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.bars.stop()

    def start(self, name: str, calls: Mapping[str, Sequence[float]]) -> None:
        """Open a phase whose time left is estimated. `calls` has of each call the expected seconds of its parts, which
        are equal steps of the share that it reports."""
        self.phase, self.calls, self.done = name, calls, {}
        self.started = self.printed = time.monotonic()
        self.rows[""] = self.bars.add_task(name, total=sum(map(sum, calls.values())), note="", visible=bool(calls))

    def __call__(self, report: Report) -> None:
        if report.name not in self.calls:
            self.console.print(f"{report.name}: {report.text}", style="dim", highlight=False)
            return
        parts = self.calls[report.name]
        whole, within = divmod(report.share * len(parts), 1)
        self.done[report.name] = sum(parts[: int(whole)]) + (within * parts[int(whole)] if within else 0.0)
        self.bars.update(self.rows[""], completed=sum(self.done.values()))
        phase = next(task for task in self.bars.tasks if task.id == self.rows[""])
        left = "" if phase.time_remaining is None else f"{clock(phase.time_remaining)} left"
        if self.live:
            if report.name not in self.rows:
                self.rows[report.name] = self.bars.add_task(report.name, total=sum(parts), note="")
            self.bars.update(self.rows[report.name], completed=self.done[report.name], note=report.text)
            if report.share >= 1:
                self.bars.remove_task(self.rows.pop(report.name))
            self.bars.update(self.rows[""], note=left)
        elif (report.share >= 1 and len(self.calls) <= _FEW) or time.monotonic() - self.printed > _LINE_EVERY_S:
            self.printed = time.monotonic()
            elapsed = clock(time.monotonic() - self.started)
            share = f"{self.phase:<7} {phase.percentage:3.0f}%"
            print(f"{share}  {elapsed}  {left:>12}  {report.name}: {report.text}", file=sys.stderr)


def clock(seconds: float) -> str:
    """Seconds as minutes and seconds."""
    return f"{int(seconds // 60)}:{int(seconds % 60):02d}"
