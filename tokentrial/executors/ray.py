"""The Ray executor: calls are tasks of a Ray cluster, in workers that live on, on as many machines as it has.

A call whose worker or node is lost is sent again, and goes on from what it has left on storage that all nodes share; an
error of the call itself is raised as it is. Leaving by an error gives the calls the local executor's grace: Ray's
word to cancel is handed on as SIGTERM, so that they save themselves.
"""

import os
import signal
import socket
import sys
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any

from tokentrial.errors import Interrupted, SettingsError, TrialError
from tokentrial.executors.local import signals_held
from tokentrial.executors.worker import GRACE_S, POLL_S, Call, Report, cores, listen, report, worker_environment

_ATTEMPTS = 4  # a call whose worker or node is lost is sent again, so often in all
_REACH_S = 10.0  # a cluster that is there answers sooner


@contextmanager
def connected(address: str | None, cpus: int) -> Iterator[Any]:
    """The module `ray`, connected to the cluster at `host:port` or, for `auto`, to the one of this machine; for None to
    one of `cpus` CPUs that ends with the block. Raises TrialError where there is none."""
    try:
        import ray
    except ImportError:
        raise SettingsError(
            "executor: ray is not installed; pip install '.[scale]' in the checkout of tokentrial"
        ) from None
    if ray.is_initialized():  # by the executor of the cells, as the corpus is made: its connection serves both
        yield ray
        return
    handler = signal.getsignal(signal.SIGTERM)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    own = {"num_cpus": cpus, "include_dashboard": False} if address is None else {}
    try:
        if address and ":" in address:  # ray.init itself would try for minutes
            host, port = address.rsplit(":", 1)
            socket.create_connection((host, int(port)), _REACH_S).close()
        ray.init(address=address or "local", log_to_driver=False, logging_level="ERROR", **own)
    except TrialError:
        raise  # a signal, as Ray starts
    except Exception as error:  # noqa: BLE001 - Ray raises bare ones too: of a node that is not up in time
        if address is None:
            raise TrialError(
                f"executor: Ray could not be started on this machine: {error}; give executor=local, or ray.address="
                "HOST:PORT of a cluster"
            ) from None
        raise TrialError(
            f"ray.address: {address}: no connection ({error}); start `ray start --head` on one machine, `ray start "
            "--address=HOST:6379` on the others, and run tokentrial on one of them"
        ) from None
    except SystemExit:
        raise Interrupted("stopped by SIGTERM as Ray started; the same command resumes from here") from None
    finally:
        signal.signal(signal.SIGTERM, handler)  # ray has set its own, which exits
    try:
        yield ray
    finally:
        ray.shutdown()


class Mailbox:
    """An actor beside the driver that keeps the workers' reports until they are taken."""

    def __init__(self) -> None:
        self.reports: list[Report] = []

    def put(self, message: Report) -> None:
        self.reports.append(message)

    def take(self) -> list[Report]:
        """The reports since the last time."""
        taken, self.reports = self.reports, []
        return taken


class RayExecutor:
    """As many calls at a time as the cluster has room for, at most `workers`; each takes `cpus` CPUs, as many threads,
    and `gpus` GPUs. Use as a context manager; leaving it by an exception cancels the calls."""

    def __init__(self, workers: int, address: str | None = None, cpus: int = 1, gpus: float = 0.0) -> None:
        self.workers, self._room = workers, {"CPU": cpus, "GPU": gpus}
        self._environment = worker_environment(cpus)
        self._connection = connected(address, cores())
        self._at_work: dict[Any, int] = {}  # Ray's reference -> number of the call

    def __enter__(self) -> "RayExecutor":
        self._ray = ray = self._connection.__enter__()
        try:
            nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
            if not any(all(node.get(kind, 0) >= wanted for kind, wanted in self._room.items()) for node in nodes):
                raise TrialError(
                    f"ray.cpus, ray.gpus: a cell takes {self._room}, and no node has room for it: "
                    f"{[{kind: node.get(kind, 0) for kind in self._room} for node in nodes]}; ask for less"
                )
            driver_node = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(
                ray.get_runtime_context().get_node_id(), soft=False
            )
            self._mailbox = ray.remote(Mailbox).options(num_cpus=0, scheduling_strategy=driver_node).remote()
            self._task = ray.remote(
                num_cpus=self._room["CPU"],
                num_gpus=self._room["GPU"],
                max_retries=0,  # sent again by ourselves: Ray would not count workers that were killed for memory
                runtime_env={"env_vars": self._environment},
            )(_work)
        except BaseException:
            self._connection.__exit__(*sys.exc_info())
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is not None and self._at_work:
                with signals_held():
                    self._cancel(gently=issubclass(kind, Exception))
        finally:
            self._connection.__exit__(None, None, None)

    def run(self, calls: Sequence[Call], on_report: Callable[[Report], None]) -> list[Any]:
        """Run all calls and return what they return, in order; the first error is raised at once. A call that loses its
        worker or node again and again is a TrialError that names it."""
        lost = self._ray.exceptions.RayError
        waiting, results, sent = deque(range(len(calls))), [None] * len(calls), Counter[int]()
        while waiting or self._at_work:
            while waiting and len(self._at_work) < self.workers:
                number = waiting.popleft()
                sent[number] += 1
                task = self._task.options(name=calls[number].name)
                self._at_work[task.remote(calls[number], self._mailbox, os.getcwd())] = number
            try:
                done, _ = self._ray.wait(list(self._at_work), timeout=POLL_S)
                reports = self._ray.get(self._mailbox.take.remote())
            except SystemError as error:
                # what a signal's handler raises while Ray waits: Cython loses it, and keeps it as the cause
                raise error.__cause__ or error from None
            for message in reports:
                on_report(message)
            for reference in done:
                number = self._at_work.pop(reference)
                name = calls[number].name
                try:
                    results[number] = self._ray.get(reference)
                except self._ray.exceptions.RayTaskError as error:
                    raise error.cause from None
                except lost as error:
                    why = f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"
                    if sent[number] == _ATTEMPTS:
                        raise TrialError(
                            f"{name}: lost its worker or node {_ATTEMPTS} times (killed, or out of memory), the last "
                            f"time by {why}; what is finished is kept: run the same command again"
                        ) from None
                    print(
                        f"{name}: its worker or node is lost ({type(error).__name__}); it is sent again",
                        file=sys.stderr,
                    )
                    waiting.appendleft(number)
                else:
                    on_report(Report(name, 1.0, "done"))
        return results

    def _cancel(self, gently: bool) -> None:
        """End the calls at work, the gentle way with time to save themselves."""
        at_work = list(self._at_work)
        if gently:
            for reference in at_work:
                self._ray.cancel(reference)
            self._ray.wait(at_work, num_returns=len(at_work), timeout=GRACE_S)
        for reference in at_work:
            self._ray.cancel(reference, force=True)


class _Post:
    """In a worker: sends its reports to the mailbox."""

    def __init__(self, mailbox: Any) -> None:
        self.mailbox, self.last = mailbox, None

    def put(self, message: Report) -> None:
        self.last = self.mailbox.put.remote(message)


def _work(call: Call, mailbox: Any, folder: str) -> Any:
    """A task: the call, in the driver's folder where this node has it, so that relative paths mean the same."""
    import ray

    post = _Post(mailbox)
    listen(post)
    signal.signal(signal.SIGINT, lambda number, frame: os.kill(os.getpid(), signal.SIGTERM))  # Ray's word to cancel
    if os.path.isdir(folder):
        os.chdir(folder)
    report(call.name, 0.0, "begun")
    try:
        result = call.function(*call.arguments)
    except Interrupted:
        # a node that goes away says SIGTERM: the call is sent to another one; one that was cancelled is not
        os._exit(128 + signal.SIGTERM)
    ray.get(post.last)  # a call's reports are all there when it ends
    return result
