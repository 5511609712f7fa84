"""`tokentrial status --watch`: how far a run is, again and again, until it is complete. It only reads."""

import sys
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import orjson
from rich.console import Console
from rich.live import Live
from rich.text import Text

from tokentrial.executors.progress import clock
from tokentrial.plan.work import expected_of_family
from tokentrial.run.run_folder import open_run, status
from tokentrial.steps.stage import stages
from tokentrial.store.folders import MANIFEST
from tokentrial.trial.sweep import to_run
from tokentrial.trial.trial import Trial

_REFRESH_S = 2.0
_IDLE = 5  # readings in a row of a folder that no process holds; between two variants none does for a moment
_MIN_SHARE = 0.01  # a smaller share of the run shows no pace


@dataclass(frozen=True)
class RunProgress:
    """A run folder as it is now. `seconds_left` is None while nothing says how long the rest will take."""

    trial: str
    corpus_ready: bool
    working: bool  # whether a process is at work on it
    cells: dict[str, dict[str, bool]]  # cell: stage: whether it is done
    running: list[str]  # each stage under way, or stopped midway, with its cell and what it logged last
    share: float
    seconds_left: float | None

    @property
    def complete(self) -> bool:
        return self.corpus_ready and all(all(stages.values()) for stages in self.cells.values())

    def __str__(self) -> str:
        done = sum(all(stages.values()) for stages in self.cells.values())
        corpus = "" if self.corpus_ready else ", corpus not ready"
        left = "" if self.seconds_left is None or self.complete else f", {clock(self.seconds_left)} left"
        return f"{self.trial}: {self.share:.0%}, {done} of {len(self.cells)} cells done{corpus}{left}"


def begun_stages(
    folder: Path, trial: Trial, cells: Mapping[str, Mapping[str, bool]]
) -> dict[tuple[str, str], tuple[float, str]]:
    """Of the `cells` as `status` has them the stages that are under way or were stopped midway, by cell and stage: the
    share that is done, and what was logged last."""
    family, running = _family(trial), {}
    step_folders = _step_folders(family)
    for cell, of_cell in cells.items():
        for stage in (name for name, is_done in of_cell.items() if not is_done):
            partial = folder / cell / f"{step_folders[stage]}.partial"
            if partial.is_dir():
                running[cell, stage] = _last_logged(partial, family[_below(cell)])
    return running


def _family(trial: Trial) -> dict[str, Trial]:
    """A trial and its variants, by the folder below the trial's in which their cells stand; a sweep may have stages
    that the trial has not."""
    members = (trial, *(variant.trial for variant in to_run(trial)))
    return {member.folder.relative_to(trial.folder).as_posix(): member for member in members}


def _below(cell: str) -> str:
    """The member of the family that a cell of `status` is of: `.`, or such as `ladder/2x64`."""
    return PurePosixPath(cell).parents[1].as_posix()  # above are the seed and the arm


def _step_folders(family: Mapping[str, Trial]) -> dict[str, str]:
    """In which folder of its cell each stage stands."""
    return {stage.name: stage.folder for member in family.values() for stage in stages(member)}


def read_progress(folder: Path, now: float) -> RunProgress:
    """How far the run of a folder is. `now` is the time of day in seconds, as of file times.

    The time left is estimated from what was done since the run was last started, each stage counting as long as it
    took in the cells that have it, or is expected to.
    """
    state, trial = status(folder), open_run(folder)
    family, measured = _family(trial), defaultdict[str, dict[str, list[float]]](lambda: defaultdict(list))
    for stage, by_cell in state["seconds"].items():
        for cell, seconds in by_cell.items() if stage != "corpus" else ():
            measured[_below(cell)][stage].append(seconds)
    of_family = expected_of_family([*family.values()], [measured[below] for below in family])
    expected_by_member = dict(zip(family, of_family, strict=True))
    folders = _step_folders(family)
    started = (folder / "trial.yaml").stat().st_mtime  # written anew by each run
    logs = begun_stages(folder, trial, state["cells"])
    total = done = done_since_start = 0.0  # expected seconds
    for cell, of_cell in state["cells"].items():
        expected = expected_by_member[_below(cell)]
        for stage, is_done in of_cell.items():
            share, recent = 0.0, False
            if is_done:
                share = 1.0
                manifest = folder / cell / folders[stage] / MANIFEST  # a skipped stage has none
                recent = manifest.exists() and manifest.stat().st_mtime > started
            elif (cell, stage) in logs:
                share, recent = logs[cell, stage][0], True
            total += expected[stage]
            done += share * expected[stage]
            done_since_start += recent * share * expected[stage]
    seconds_left = None
    if done_since_start > _MIN_SHARE * total:
        # a clock that was set back must not make it negative
        seconds_left = max(0.0, now - started) * (total - done) / done_since_start
    at_work, running = state["working"], [f"{cell} {stage}{logged}" for (cell, stage), (_, logged) in logs.items()]
    return RunProgress(state["trial"], state["corpus"], at_work, state["cells"], running, done / total, seconds_left)


def _last_logged(partial: Path, trial: Trial) -> tuple[float, str]:
    """The share that is done of a stage that is being written, and its last step and loss; nothing where it logs none,
    as all but pretraining."""
    try:
        lines = (partial / "metrics.jsonl").read_bytes().splitlines(keepends=True)
    except FileNotFoundError:  # another stage, or it was renamed just now
        lines = []
    records = [orjson.loads(line) for line in lines if line.endswith(b"\n")]  # the last line may be half written
    if not (logged := [record for record in records if "loss" in record]):
        return 0.0, ""
    step, loss = logged[-1]["step"] + 1, logged[-1]["loss"]
    share = min(1.0, step / trial.pretrain.steps)
    return share, f" {share:.0%}, step {step}, loss {loss:.3f}"


def watch(folder: Path, console: Console, sleep: Callable[[float], None] = time.sleep) -> None:
    """Show a run until it is complete, nothing works on it any more, or Ctrl-C: lines that renew themselves in a
    terminal, else a line a change."""
    last, idle = "", 0
    try:
        with Live(console=console, auto_refresh=False) if console.is_terminal else nullcontext() as live:
            while True:
                progress = read_progress(folder, time.time())
                lines = [str(progress), *progress.running]
                line = "; ".join(lines)
                if live:
                    live.update(Text("\n".join(lines)), refresh=True)
                elif line != last:
                    print(line, flush=True)
                last = line
                idle = 0 if progress.working else idle + 1
                if progress.complete or idle > _IDLE:
                    break
                sleep(_REFRESH_S)
        stopped = "not running; `tokentrial run` with the same trial resumes it"
        print(f"{folder}: {'complete' if progress.complete else stopped}")
    except KeyboardInterrupt:
        print(f"{folder}: no longer watched; the run goes on", file=sys.stderr)
