"""How far a run is: a bar with an estimate of the time left where a person waits, plain lines elsewhere."""

import sys
import time

from rich.console import Console
from rich.progress import BarColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars

from tokentrial.executors.worker import Report

_LINE_EVERY_S = 15.0
_FEW = 40  # so many calls have a line each


class Progress:
    """Called with every report. `start` opens a phase of so many calls; calls outside a phase print their end."""

    def __init__(self) -> None:
        self.console = Console(stderr=True)
        self.live = self.console.is_terminal and not sys.stderr.closed
        self.shares: dict[str, float] = {}
        self.total = 0
        self.started = self.printed = time.monotonic()
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

    def start(self, name: str, calls: int) -> None:
        """Open a phase whose time left is estimated."""
        self.shares, self.total = {}, calls
        self.started = self.printed = time.monotonic()
        if self.live and calls:
            self.rows[""] = self.bars.add_task(name, total=1.0, note="")

    def __call__(self, report: Report) -> None:
        if not self.total:
            self.console.print(f"{report.name}: {report.text}", style="dim", highlight=False)
            return
        self.shares[report.name] = report.share
        share = sum(self.shares.values()) / self.total
        elapsed = time.monotonic() - self.started
        left = f"{clock(elapsed * (1 - share) / share)} left" if share > 0.01 else ""
        if self.live:
            if report.name not in self.rows:
                self.rows[report.name] = self.bars.add_task(report.name, total=1.0, note="")
            self.bars.update(self.rows[report.name], completed=report.share, note=report.text)
            if report.share >= 1:
                self.bars.remove_task(self.rows.pop(report.name))
            self.bars.update(self.rows[""], completed=share, note=left)
        elif (report.share >= 1 and self.total <= _FEW) or time.monotonic() - self.printed > _LINE_EVERY_S:
            self.printed = time.monotonic()
            print(f"{share:4.0%}  {clock(elapsed)}  {left:>12}  {report.name}: {report.text}", file=sys.stderr)


def clock(seconds: float) -> str:
    """Seconds as minutes and seconds."""
    return f"{int(seconds // 60)}:{int(seconds % 60):02d}"
