"""The local executor: worker processes that live on from call to call, one thread each, and die with their parent."""

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from types import TracebackType
from typing import Any

from tokentrial.errors import Interrupted, TrialError
from tokentrial.executors.worker import (
    GRACE_S,
    LOOK_EVERY_S,
    Call,
    Report,
    die_with_parent,
    listen,
    report,
    worker_environment,
)


class LocalExecutor:
    """`workers` processes. Use as a context manager; leaving it by an exception kills them."""

    def __init__(self, workers: int, threads: int = 1) -> None:
        self.workers = workers
        os.environ.update(worker_environment(threads))
        context = multiprocessing.get_context("spawn")
        self._reports: Any = context.SimpleQueue()  # written at once: a call's reports are all here when it ends
        self._pool = ProcessPoolExecutor(workers, context, _start_worker, (self._reports, os.getpid()))

    def __enter__(self) -> "LocalExecutor":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            children = multiprocessing.active_children()
            for child in children:
                child.terminate()
            waited = time.monotonic() + GRACE_S
            for child in children:
                child.join(max(0.0, waited - time.monotonic()) if issubclass(kind, Interrupted) else 0.0)
                child.kill()
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._reports.close()

    def run(self, calls: Sequence[Call], on_report: Callable[[Report], None]) -> list[Any]:
        """Run all calls and return what they return, in order; the first error is raised at once. A worker that dies is
        a TrialError that names its work."""
        futures: dict[Future[Any], Call] = {self._pool.submit(_work, call): call for call in calls}
        submitted = list(futures)
        begun: set[str] = set()
        while futures:
            done, _ = wait(futures, timeout=LOOK_EVERY_S, return_when=FIRST_COMPLETED)
            while not self._reports.empty():
                told = self._reports.get()
                begun.add(told.name)
                on_report(told)
            for future in done:
                call = futures.pop(future)
                try:
                    future.result()
                except BrokenProcessPool:
                    # the pool does not say which worker broke it, so all that were at work are named
                    at_work = [broken.name for broken in (call, *futures.values()) if broken.name in begun]
                    raise TrialError(
                        f"{', '.join(at_work) or call.name}: a worker process died (killed, or out of memory); what "
                        "is finished is kept: run the same command again, with fewer workers=N if memory is short"
                    ) from None
                on_report(Report(call.name, 1.0, "done"))
        return [future.result() for future in submitted]


def _work(call: Call) -> Any:
    report(call.name, 0.0, "begun")
    return call.function(*call.arguments)


def _start_worker(reports: Any, parent: int) -> None:
    listen(reports)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
    die_with_parent()
    if sys.platform != "linux":
        threading.Thread(target=_die_with, args=(parent,), daemon=True).start()
    if os.getppid() != parent:
        os._exit(1)  # the parent died before we could say so


def _die_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(LOOK_EVERY_S)
    os._exit(1)
