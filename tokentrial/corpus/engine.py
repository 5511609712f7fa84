"""Who does the tasks of the text: this process, processes of this machine, Ray, or a Slurm job array (`slurm.py`).

A finished task is skipped by its record, whoever did it.
"""

import platform
import shutil
import time
from collections.abc import Callable

from tokentrial.corpus.text import TextTasks, run_task, train_tokens
from tokentrial.errors import TrialError
from tokentrial.executors.local import LocalExecutor
from tokentrial.executors.ray import RayExecutor
from tokentrial.executors.worker import Call, Report
from tokentrial.store.disk import translate_os_errors

_SMALL = 50_000_000  # bytes of a source that one process has encoded before several have started

Progress = Callable[[float, str], None]


def run_tasks(tasks: TextTasks, workers: int, progress: Progress) -> None:
    """Do all tasks that are not done, as `corpus.executor` says. Raises the first TrialError of a task."""
    tasks.folder.mkdir(parents=True, exist_ok=True)
    kind = tasks.settings.executor
    if kind == "auto":
        large = sum(source.bytes for source in tasks.inputs) > _SMALL
        kind = "local" if large and len(tasks.inputs) > 1 else "in-process"
    show = _meter(tasks, progress)
    try:
        with translate_os_errors(tasks.folder):
            if kind == "slurm":
                from tokentrial.corpus.slurm import run_on_slurm  # datatrove takes seconds to import

                run_on_slurm(tasks, workers, show)
            else:
                _run(kind, tasks, workers, show)
    except TrialError:
        raise
    except Exception as error:
        raise TrialError(f"corpus.executor={kind}: {type(error).__name__}: {error}") from error


def _run(kind: str, tasks: TextTasks, workers: int, show: Callable[[], None]) -> None:
    """Do the tasks here, in processes of this machine or on Ray: none of these outlives its run."""
    for partial in tasks.folder.glob(f"[0-9]*.{platform.node()}.*.partial"):
        shutil.rmtree(partial)  # so it was left by a run that was killed
    calls = [Call(f"text, task {rank}", run_task, (tasks, rank)) for rank in range(len(tasks.inputs))]
    if kind == "in-process":
        for call in calls:
            call.function(*call.arguments)
            show()
        return

    def on_report(report: Report) -> None:
        if report.share == 1.0:
            show()

    executor: LocalExecutor | RayExecutor
    if kind == "local":
        executor = LocalExecutor(min(workers, len(calls)))
    else:
        address = tasks.settings.cluster.get("address")
        executor = RayExecutor(workers, str(address) if address else None)
    with executor:
        executor.run(calls, on_report)


def _meter(tasks: TextTasks, progress: Progress) -> Callable[[], None]:
    """A function that tells how far the tasks are, with tokens a second of this run alone."""
    begun, before = time.monotonic(), train_tokens(tasks.done().values())

    def show() -> None:
        done = tasks.done()
        tokens = train_tokens(done.values())
        share = len(done) / len(tasks.inputs)
        if tasks.target_tokens:
            share = max(share, min(1.0, tokens / tasks.target_tokens))
        rate = (tokens - before) / (time.monotonic() - begun)
        progress(share, f"{tokens / 1e6:,.1f}M tokens, {rate / 1e6:.2f}M a second")

    return show
