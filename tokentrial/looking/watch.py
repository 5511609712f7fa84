"""`tokentrial status --watch`: how far a run is, again and again, until it is complete. It only reads."""

import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import orjson
from rich.console import Console, Group
from rich.live import Live
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from tokentrial.executors.progress import clock
from tokentrial.plan.work import expected_seconds
from tokentrial.run.run_folder import open_run, status
from tokentrial.steps.stage import stage_of
from tokentrial.store.folders import MANIFEST
from tokentrial.trial.trial import Trial

EVERY_S = 2.0
_TOO_LITTLE = 0.01  # a share of the run that tells no pace


@dataclass(frozen=True)
class Work:
    """A stage under way in a cell: the share of it that is done, the last logged step and loss where it has any."""

    stage: str
    share: float
    step: int | None = None
    loss: float | None = None

    def __str__(self) -> str:
        if self.loss is None:
            return self.stage
        return f"{self.stage} {self.share:.0%}, step {self.step}, loss {self.loss:.3f}"


@dataclass(frozen=True)
class Look:
    """A run folder as it is now. `left_s` is None while nothing says how long the rest will take."""

    trial: str
    corpus: bool
    cells: dict[str, dict[str, bool]]
    working: dict[str, list[Work]]
    share: float
    left_s: float | None

    @property
    def complete(self) -> bool:
        return self.corpus and all(all(stages.values()) for stages in self.cells.values())


def look(folder: Path, now: float) -> Look:
    """Look at a run folder. `now` is the time of day in seconds, as of file times.

    The time left is reckoned from what was done since the run was last started, each stage counting as long as it
    took in the cells that have it, or is expected to.
    """
    state, trial = status(folder), open_run(folder)
    cells: dict[str, dict[str, bool]] = state["cells"]
    expected = expected_seconds(trial, {stage: took.values() for stage, took in state["seconds"].items()})
    under_way = {
        name: [work for stage, done in stages.items() if not done and (work := _work(folder / name, stage, trial))]
        for name, stages in cells.items()
    }
    working = {name: found for name, found in under_way.items() if found}
    total = sum(expected[stage] for stages in cells.values() for stage in stages)
    begun = sum(work.share * expected[work.stage] for found in working.values() for work in found)
    done = sum(expected[stage] for stages in cells.values() for stage, is_done in stages.items() if is_done)
    started = (folder / "trial.yaml").stat().st_mtime  # written anew by each run
    since = begun + sum(
        expected[stage] * (manifest.stat().st_mtime > started)
        for name, stages in cells.items()
        for stage, is_done in stages.items()
        if is_done and (manifest := folder / name / stage_of(trial, stage).folder / MANIFEST).exists()
    )
    left = max(0.0, now - started) * (total - done - begun) / since if since > _TOO_LITTLE * total else None
    return Look(state["trial"], state["corpus"], cells, working, (done + begun) / total, left)


def _work(cell: Path, stage: str, trial: Trial) -> Work | None:
    """A stage that is being written, None where it is not."""
    partial = cell / f"{stage_of(trial, stage).folder}.partial"
    if not partial.is_dir():
        return None
    try:
        lines = (partial / "metrics.jsonl").read_bytes().splitlines(keepends=True)
    except FileNotFoundError:  # another stage than pretraining, or it was renamed just now
        lines = []
    whole = [orjson.loads(line) for line in lines if line.endswith(b"\n")]  # the last line may be half written
    if not (logged := [record for record in whole if "loss" in record]):
        return Work(stage, 0.0)
    step, loss = logged[-1]["step"] + 1, logged[-1]["loss"]
    return Work(stage, min(1.0, step / trial.pretrain.steps), step, loss)


def watch(folder: Path, console: Console, sleep: Callable[[float], None] = time.sleep) -> None:
    """Show a run until it is complete or Ctrl-C: a table that renews itself in a terminal, else a line a change."""
    before = ""
    try:
        with Live(console=console, auto_refresh=False) if console.is_terminal else nullcontext() as live:
            while not (seen := look(folder, time.time())).complete:
                before = _show(seen, live, before)
                sleep(EVERY_S)
            _show(seen, live, before)
        print(f"{folder}: complete")
    except KeyboardInterrupt:
        print(f"{folder}: no longer watched; the run goes on", file=sys.stderr)


def _show(seen: Look, live: Live | None, before: str) -> str:
    """Show a look; the line of it is printed unless it is the one before."""
    line = "; ".join([_head(seen), *(f"{name} {work}" for name, found in seen.working.items() for work in found)])
    if live:
        live.update(_table(seen), refresh=True)
    elif line != before:
        print(line, flush=True)
    return line


def _head(seen: Look) -> str:
    done = sum(all(stages.values()) for stages in seen.cells.values())
    left = "" if seen.left_s is None or seen.complete else f", {clock(seen.left_s)} left"
    corpus = "" if seen.corpus else ", corpus not ready"
    return f"{seen.trial}: {seen.share:.0%}, {done} of {len(seen.cells)} cells done{corpus}{left}"


def _table(seen: Look) -> Group:
    table = Table(box=None, padding=(0, 1))
    stages = list(next(iter(seen.cells.values())))
    table.add_column("cell", no_wrap=True)  # else 80 columns leave nothing to tell the seeds by
    for column in (*stages, "now"):
        table.add_column(column, overflow="fold")
    for name, done in seen.cells.items():
        now = {work.stage: work for work in seen.working.get(name, ())}
        marks = [
            Text("done", "green") if done[stage] else Text(f"{now[stage].share:.0%}" if stage in now else "-")
            for stage in stages
        ]
        table.add_row(name, *marks, Text(", ".join(map(str, now.values()))))
    bar = Padding(ProgressBar(total=1.0, completed=seen.share, width=60), 0, expand=False)  # alone it ends no line
    return Group(Text(_head(seen), "bold"), bar, table)
