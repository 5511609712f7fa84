"""The engine of the corpus stage: datatrove runs the tasks, under its local, Ray or Slurm executor.

A finished task is skipped by its record; so that every executor tells of failures alike, a task leaves its error in a
file before it raises it.
"""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from datatrove.pipeline.base import PipelineStep
from datatrove.utils.logging import logger

from tokentrial.corpus.text import TextTasks, run_task, writers
from tokentrial.errors import SettingsError, TrialError
from tokentrial.executors.ray import connected
from tokentrial.executors.worker import die_with_parent
from tokentrial.store.disk import translate_os_errors

logger.disable("datatrove")  # its lines would drown ours; what a task did is in its record

_LOOK_EVERY_S = 0.5
_SMALL = 50_000_000  # bytes of a source that one process has encoded before several have started
_LONG_AFTER_S = 60.0  # a Slurm job that is in no queue and has written nothing for so long is lost

Progress = Callable[[float, str], None]


class TextStep(PipelineStep):  # type: ignore[misc]
    """The pipeline's one step: datatrove's rank is the task's number."""

    type = "corpus"
    name = "text"

    def __init__(self, tasks: TextTasks) -> None:
        super().__init__()
        self.tasks, self.launcher = tasks, os.getpid()

    def run(self, data: Any = None, rank: int = 0, world_size: int = 1) -> None:
        """Do task `rank`."""
        if os.getpid() != self.launcher:
            die_with_parent()  # no task outlives its run
        try:
            run_task(self.tasks, rank)
        except TrialError as error:
            kind = "settings" if isinstance(error, SettingsError) else "trial"
            (self.tasks.folder / f"{rank:05d}.{kind}.error").write_text(str(error))
            raise


def run_tasks(tasks: TextTasks, workers: int, progress: Progress) -> None:
    """Do all tasks that are not done, as `corpus.executor` says. Raises the first task's TrialError."""
    tasks.folder.mkdir(parents=True, exist_ok=True)
    for stale in tasks.folder.glob("*.error"):
        stale.unlink()
    shutil.rmtree(tasks.folder / "datatrove", ignore_errors=True)  # its marks carry no settings; our records do
    for path, writer in writers(tasks.folder):
        if not _alive(writer):
            shutil.rmtree(path)  # left by a run that was killed
    kind = tasks.settings.executor
    if kind == "auto":
        kind = "local" if len(tasks.units) > 1 and sum(unit.bytes for unit in tasks.units) > _SMALL else "in-process"
    stopped = threading.Event()
    watcher = threading.Thread(target=_watch, args=(tasks, stopped, progress), daemon=True)
    before = signal.signal(signal.SIGUSR1, _worker_died)  # run_tasks is called on the main thread
    watcher.start()
    try:
        with translate_os_errors(tasks.folder):
            if kind == "in-process":
                for rank in range(len(tasks.units)):
                    run_task(tasks, rank)
            else:
                _spread(kind, tasks, workers)
    except TrialError:
        raise
    except Exception as error:
        _raise_left(tasks)
        raise TrialError(f"corpus.executor={kind}: {type(error).__name__}: {error}") from error
    finally:
        stopped.set()
        watcher.join()
        signal.signal(signal.SIGUSR1, before)
    _raise_left(tasks)


def _raise_left(tasks: TextTasks) -> None:
    for path in sorted(tasks.folder.glob("*.error")):
        kind = SettingsError if ".settings." in path.name else TrialError
        raise kind(path.read_text())


def _watch(tasks: TextTasks, stopped: threading.Event, progress: Progress) -> None:
    """Tell how far the tasks are, with tokens a second, until told to stop."""
    begun, start = time.monotonic(), None
    while not stopped.wait(_LOOK_EVERY_S):
        done = tasks.done()
        tokens = sum(record["tokens"]["train"] for record in done.values())
        start = tokens if start is None else start
        share = len(done) / len(tasks.units)
        if tasks.wanted:
            share = max(share, min(1.0, tokens / tasks.wanted))
        rate = (tokens - start) / (time.monotonic() - begun)
        progress(share, f"{tokens / 1e6:,.1f}M tokens, {rate / 1e6:.2f}M a second")
        # a pool waits for ever for the task of a worker that was killed; after an error it ends its workers itself
        if not list(tasks.folder.glob("*.error")) and any(
            not _alive(writer) and path.exists() for path, writer in writers(tasks.folder)
        ):
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)


def _worker_died(number: int, frame: object) -> None:
    raise TrialError(
        "corpus.executor: a worker process died (killed, or out of memory); what is done is kept: run the same command "
        "again, with fewer workers=N if memory is short"
    )


def _alive(process: int) -> bool:
    """Whether a process of this machine is there and no zombie."""
    try:
        os.kill(process, 0)
        return "State:\tZ" not in Path(f"/proc/{process}/status").read_text()
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    except FileNotFoundError:
        return sys.platform != "linux"  # elsewhere there is no /proc to ask


def _spread(kind: str, tasks: TextTasks, workers: int) -> None:
    """Do the tasks in processes of datatrove's: here, on Ray, or in a Slurm job array."""
    logs = str(tasks.folder / "datatrove")
    given: dict[str, Any] = {"pipeline": [TextStep(tasks)], "tasks": len(tasks.units), "logging_dir": logs}
    cluster = tasks.settings.cluster
    if kind == "local":
        from datatrove.executor.local import LocalPipelineExecutor

        LocalPipelineExecutor(**given, workers=min(workers, len(tasks.units))).run()
    elif kind == "ray":
        address = cluster.get("address")
        with connected(str(address) if address else None, workers):  # before datatrove, which cannot do without ray
            from datatrove.executor.ray import RayPipelineExecutor

            memory = float(cluster.get("mem_per_cpu_gb", 0.5))
            RayPipelineExecutor(**given, workers=workers, mem_per_cpu_gb=memory).run()
    else:
        from datatrove.executor.slurm import SlurmPipelineExecutor

        if shutil.which("sbatch") is None:
            raise SettingsError("corpus.executor: slurm needs sbatch on the PATH; run it where jobs are submitted")
        given |= {"job_name": "tokentrial-corpus", "venv_path": str(Path(sys.executable).parent / "activate")}
        given |= {"time": "24:00:00", "partition": "cpu", **cluster}
        _wait_for(SlurmPipelineExecutor(**given, workers=workers), tasks)


def _wait_for(executor: Any, tasks: TextTasks) -> None:
    """Submit a Slurm job array and wait for the tasks' records."""
    executor.run()
    seen, last = 0, time.monotonic()
    while (missing := executor.get_incomplete_ranks()) and not list(tasks.folder.glob("*.error")):
        time.sleep(_LOOK_EVERY_S)
        if len(tasks.units) - len(missing) != seen:
            seen, last = len(tasks.units) - len(missing), time.monotonic()
        if time.monotonic() - last < _LONG_AFTER_S:
            continue
        queue = ["squeue", "-h", "-j", str(executor.job_id)]
        if not subprocess.run(queue, capture_output=True, text=True, check=False).stdout.strip():
            raise TrialError(
                f"corpus.executor: Slurm job {executor.job_id} has left the queue and {len(missing)} tasks are not "
                f"done; see {executor.slurm_logs_folder}, then run again"
            )
