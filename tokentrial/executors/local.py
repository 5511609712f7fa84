"""The local executor: worker processes that live on from call to call and die with their parent.

Every worker has a pipe of its own, over which it is handed one call at a time: no call waits in a worker that is told
to stop, and a worker that dies is known by its call. (A ProcessPoolExecutor hands out one call more than it has
workers, lets the rest be taken as its workers end, and cannot say which of them died.)
"""

import multiprocessing
import os
import pickle
import signal
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from importlib import import_module
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from types import ModuleType, TracebackType
from typing import Any, NamedTuple

from tokentrial.errors import Interrupted, TrialError
from tokentrial.executors.worker import (
    GRACE_S,
    POLL_S,
    STOP_SIGNALS,
    Call,
    Report,
    die_with_parent,
    listen,
    report,
    stopped,
    worker_environment,
)

_STOPPED = {code for number in STOP_SIGNALS for code in (-number, 128 + number)}  # exit codes of such a worker


class LocalExecutor:
    """Up to `workers` processes of so many threads each, started as calls need them; where `imports` names modules, all
    of them at once, which import these while they wait for calls. Use as a context manager; leaving it by an error,
    such as Interrupted, gives the calls at work time to save themselves."""

    def __init__(self, workers: int, threads: int = 1, imports: Sequence[str] = ()) -> None:
        self.workers, self._threads, self._imports = workers, threads, tuple(imports)
        self._processes: dict[Connection, SpawnProcess] = {}
        self._at_work: dict[Connection, int] = {}  # the pipe of a worker -> number of its call

    def __enter__(self) -> "LocalExecutor":
        try:
            for _ in range(self.workers if self._imports else 0):
                self._start()
        except BaseException:
            self.__exit__(*sys.exc_info())  # nobody else ends those that were started
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is not None and issubclass(kind, Exception):
                with signals_held():  # a second signal would end the workers while they save
                    self._stop()
        finally:
            for connection, process in self._processes.items():
                if kind is not None:
                    process.kill()
                connection.close()  # a worker that waits for a call ends
            for process in self._processes.values():
                process.join()

    def run(self, calls: Sequence[Call], on_report: Callable[[Report], None]) -> list[Any]:
        """Run all calls and return what they return, in order. The first error is raised at once, and the executor is
        then to be left if other calls are at work. A worker that dies is a TrialError that names its call."""
        assert not self._at_work, "calls of an earlier run are still at work"
        waiting, results = deque(range(len(calls))), [None] * len(calls)
        while waiting or self._at_work:
            while waiting and (connection := self._free()):
                self._at_work[connection] = number = waiting.popleft()
                try:
                    connection.send(calls[number])
                except BrokenPipeError:
                    raise self._died(connection, calls[number]) from None
            for connection in _ready(self._at_work):
                call = calls[self._at_work[connection]]
                try:
                    message = connection.recv()
                except (EOFError, OSError):
                    raise self._died(connection, call) from None
                if isinstance(message, Report):
                    on_report(message)
                    continue
                number = self._at_work.pop(connection)
                if message.error is not None:
                    raise message.error from _Remote(message.traceback)
                results[number] = message.result
                on_report(Report(call.name, 1.0, "done"))
        return results

    def _free(self) -> Connection | None:
        """The pipe of a worker without a call, of a new one where there may be more; None where all are at work."""
        idle = [connection for connection in self._processes if connection not in self._at_work]
        if idle:
            return idle[0]
        return self._start() if len(self._processes) < self.workers else None

    def _start(self) -> Connection:
        context = multiprocessing.get_context("spawn")  # a fork would copy CUDA's and OpenMP's state, which breaks them
        resource_tracker.ensure_running()  # it is started by the first process, and would let SIGINT through
        with signals_held(), _inherited(worker_environment(self._threads)), _without_main():
            parent_end, worker_end = context.Pipe()
            process = context.Process(target=_serve, args=(worker_end, os.getpid(), self._imports))
            process.start()
            worker_end.close()
            self._processes[parent_end] = process
        return parent_end

    def _died(self, connection: Connection, call: Call) -> TrialError:
        """The error for a worker whose pipe is closed."""
        process = self._processes[connection]
        process.join(POLL_S)
        if process.exitcode in _STOPPED:  # a machine that goes away tells all processes, in any order
            return Interrupted(f"{call.name}: its worker was told to stop; the same command resumes from here")
        return TrialError(
            f"{call.name}: a worker process died (killed, or out of memory); what is finished is kept: run the same "
            "command again, with fewer workers=N if memory is short"
        )

    def _stop(self) -> None:
        """Tell every worker to stop, and wait while those at work save themselves."""
        for process in self._processes.values():
            process.terminate()
        end, saving = time.monotonic() + GRACE_S, dict(self._processes)
        while saving and time.monotonic() < end:
            for connection in _ready(saving, POLL_S):
                try:
                    connection.recv()  # nobody wants it now, but a full pipe would keep the worker waiting
                except (EOFError, OSError):
                    del saving[connection]


def _ready(connections: Iterable[Connection], timeout_s: float | None = None) -> list[Connection]:
    """Those that have something to read, or are closed at the other end, once there is one or the time is over."""
    return [connection for connection in wait(list(connections), timeout_s) if isinstance(connection, Connection)]


@contextmanager
def _without_main() -> Iterator[None]:
    """A process that is started here does not import this one's script: all it is handed lies in modules, and a script
    that calls `run_trial` at its top level would run the trial again in every worker."""
    script, sys.modules["__main__"] = sys.modules["__main__"], ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = script


@contextmanager
def signals_held() -> Iterator[None]:
    """Signals that come within the block are delivered after it. Their handler raises: in the middle of a start that
    would leave a worker that nobody knows, or one that reads what it was to do from a pipe that has gone."""
    if threading.current_thread() is not threading.main_thread():  # handlers run in the main thread alone
        yield
        return
    received: list[int] = []

    def deliver() -> None:
        for number in received:
            signal.raise_signal(number)

    with ExitStack() as stack:  # whose callbacks all run, even when the handler of one that is restored raises
        stack.callback(deliver)
        for number in (signal.SIGINT, *STOP_SIGNALS):
            stack.callback(signal.signal, number, signal.getsignal(number))
            signal.signal(number, lambda number, frame: received.append(number))
        yield


@contextmanager
def _inherited(variables: dict[str, str]) -> Iterator[None]:
    """Within the block, processes that are started have these variables, which OpenMP and the C library read before any
    code of ours, and keep Ctrl-C waiting until they can ignore it; this process has its own again after it."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


# in a worker


class _Ended(NamedTuple):
    """The end of a call."""

    result: Any = None
    error: Exception | None = None
    traceback: str = ""


class _Remote(Exception):
    """Cause of an error that was raised in a worker: its traceback there."""


class _Pipe:
    """The worker's end of its pipe; a call may report from several threads."""

    def __init__(self, connection: Connection) -> None:
        self.connection, self.lock = connection, threading.Lock()

    def put(self, message: Report | _Ended) -> None:
        data = pickle.dumps(message)  # here, so that what cannot be pickled is an error of the call
        with self.lock:
            self.connection.send_bytes(data)


def _serve(connection: Connection, parent: int, imports: Sequence[str]) -> None:
    """Main of a worker: one call after the other until the parent closes the pipe or says stop."""
    pipe, left = _Pipe(connection), deque(imports)
    listen(pipe)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])  # it was kept waiting: see _inherited
    die_with_parent()
    if sys.platform != "linux":
        threading.Thread(target=_die_with, args=(parent,), daemon=True).start()
    if os.getppid() != parent:
        os._exit(1)  # the parent died before we could say so
    while not stopped():
        while left and not connection.poll():
            with suppress(Exception):  # the call that needs the module raises it again
                import_module(left.popleft())
        try:
            call = connection.recv()
        except EOFError:
            return
        try:
            report(call.name, 0.0, "begun")
            pipe.put(_Ended(call.function(*call.arguments)))
        except Exception as error:  # noqa: BLE001 - raised again in the parent
            pipe.put(_failed(error))


def _failed(error: Exception) -> _Ended:
    """The end of a call by an error, which is a RuntimeError of the same words where it cannot be pickled."""
    words = "".join(traceback.format_exception(error))
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # noqa: BLE001 - whatever its class does not like about it
        error = RuntimeError(f"{type(error).__name__}: {error}")
    return _Ended(error=error, traceback=words)


def _die_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(POLL_S)
    os._exit(1)
