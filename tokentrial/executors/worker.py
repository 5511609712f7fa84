"""A worker of any executor: the calls it is given, what it reports, and how it is told to stop."""

import math
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

POLL_S = 0.2
GRACE_S = 25.0  # from the word to stop to the kill: a spot machine gives 30
# the second is what schedulers are mostly asked to send before a job's time is up, as by `sbatch --signal=USR1@60`
STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
_reports: Any = None  # in a worker: the queue of its reports
_stoppable = False  # in a worker: whether its call looks for the word to stop
_stopped = False
# variables by which torchrun, accelerate and MPI tell a process its place in a group: names, and how names begin
_LAUNCHER = {"RANK", "LOCAL_RANK", "GROUP_RANK", "ROLE_RANK", "NODE_RANK", "ROLE_NAME"}
_LAUNCHER |= {"WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_WORLD_SIZE", "ROLE_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"}
_LAUNCHER_PREFIXES = ("TORCHELASTIC_", "PET_", "ACCELERATE_", "OMPI_COMM_WORLD_", "MV2_COMM_WORLD_", "PMI_")
_CGROUP, _MOUNT = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")


class Call(NamedTuple):
    """One piece of work: a function that workers can import, and what it is called with."""

    name: str
    function: Callable[..., Any]
    arguments: tuple[Any, ...]


class Report(NamedTuple):
    """How far a call is, from 0 to 1."""

    name: str
    share: float
    text: str


def report(name: str, share: float, text: str) -> None:
    """Tell the parent how far this worker's call is; does nothing outside a worker."""
    if _reports is not None:
        _reports.put(Report(name, share, text))


@contextmanager
def stoppable() -> Iterator[Callable[[], bool]]:
    """Within the block the word to stop does not end this worker: what is yielded says whether it has come, and the
    work in the block saves itself and raises Interrupted."""
    global _stoppable
    _stoppable = True
    try:
        yield stopped
    finally:
        _stoppable = False


def stopped() -> bool:
    """In a worker: whether the word to stop has come."""
    return _stopped


def listen(reports: Any) -> None:
    """In a worker, before its calls: where its reports go, and which signals are the word to stop."""
    global _reports, _stopped
    _reports, _stopped = reports, False
    for number in STOP_SIGNALS:
        signal.signal(number, told_to_stop)
    leave_group()


def leave_group() -> None:
    """Forget the place in a group that torchrun, accelerate, MPI, a container's image or a wrapper of Slurm's has put
    into the environment: torch and accelerate would wait for the others. Ranks are started by ourselves."""
    for name in [name for name in os.environ if name in _LAUNCHER or name.startswith(_LAUNCHER_PREFIXES)]:
        del os.environ[name]


def told_to_stop(number: int, frame: object) -> None:
    """Handler of the word to stop in a worker."""
    global _stopped
    _stopped = True
    if not _stoppable:
        os._exit(128 + number)


def die_with_parent() -> None:
    """In a child on Linux: be killed by the kernel as the parent dies."""
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def worker_environment(threads: int) -> dict[str, str]:
    """What OpenMP, the C library and Hugging Face's read as a worker starts; of what the user set, all but the threads
    stays. One thread a process beats two by 1.3 on tiny models; huge pages spare training the thousands of page faults
    a step that come and go with how the heap happens to lie. TRL's trainers report their use as they are made."""
    defaults = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1", "HF_HUB_DISABLE_TELEMETRY": "1", "DO_NOT_TRACK": "1"}
    given = {name: os.environ.get(name, value) for name, value in defaults.items()}
    return {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads), **given}


def cores() -> int:
    """Cores that this process may use: those it may run on, at most what the quotas of its cgroups (version 2) come to,
    as a container has them by `--cpus` or `resources.limits.cpu`; of a part of a core the whole."""
    may_use = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    lines = _CGROUP.read_text().splitlines() if _CGROUP.exists() else []
    own = next((line.removeprefix("0::/") for line in lines if line.startswith("0::/")), "")
    for folder in (_MOUNT / own, *(_MOUNT / own).parents):
        if folder.is_relative_to(_MOUNT) and (folder / "cpu.max").exists():
            quota, period = (folder / "cpu.max").read_text().split()
            may_use = may_use if quota == "max" else min(may_use, math.ceil(int(quota) / int(period)))
    return max(1, may_use)
