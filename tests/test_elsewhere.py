"""A whole trial where things are missing: any network, and what of Python only Linux has. Nothing is sent anywhere
unasked: the name of every host that any process asked for is written down."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
# Python runs these in every process before all else. Sockets of the C and Rust libraries are not seen by the first:
# where the system allows a network namespace, they find no network at all.
WATCHER = """
import sys
def watch(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.sendto"):
        what = arguments[0] if event == "socket.getaddrinfo" else arguments[1]
        host = what[0] if isinstance(what, tuple) else what
        if isinstance(what, tuple) and host not in ("127.0.0.1", "::1") or event == "socket.getaddrinfo" and host:
            with open({log!r}, "a") as log:
                print(event, host, file=log)
sys.addaudithook(watch)
"""
NO_LINUX = """
import os
for name in ("sched_getaffinity", "sched_setaffinity", "posix_fadvise", "posix_fallocate", "copy_file_range",
             "memfd_create", "pidfd_open", "eventfd", "splice", "getrandom", "sched_getscheduler", "fdatasync"):
    if hasattr(os, name):
        delattr(os, name)
"""


def without_network() -> list[str]:
    """A command's prefix that takes the network away; none where the system does not allow it."""
    prefix = ["unshare", "--map-root-user", "--net"]
    allowed = shutil.which("unshare") and subprocess.run([*prefix, "true"], capture_output=True).returncode == 0
    return prefix if allowed else []


def python(before: str, tmp_path: Path, *words: str) -> subprocess.CompletedProcess:
    """Python with these words, in which `before` was run first, as in every process that it starts."""
    (tmp_path / "sitecustomize.py").write_text(before)
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "DO_NOT_TRACK"))}
    environment |= {"PYTHONPATH": f"{tmp_path}:{ROOT}", "HOME": str(tmp_path)}
    command = [*without_network(), sys.executable, *words]
    return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)


def test_the_watcher_sees_a_connection(tmp_path):
    log = tmp_path / "connections"
    python(WATCHER.format(log=str(log)), tmp_path, "-c", "import socket; socket.create_connection(('192.0.2.1', 9), 1)")
    assert "socket.connect 192.0.2.1" in log.read_text()


@pytest.mark.slow
def test_a_whole_trial_needs_no_network_and_connects_to_nothing(tmp_path):
    log = tmp_path / "connections"
    log.touch()
    before = WATCHER.format(log=str(log))
    done = python(before, tmp_path, "-m", "tokentrial", "run", "smoke", f"output={tmp_path / 'run'}")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "report.html").exists()
    assert log.read_text() == ""


@pytest.mark.slow
def test_a_whole_trial_needs_nothing_that_only_linux_has(tmp_path):
    done = python(NO_LINUX, tmp_path, "-m", "tokentrial", "run", "smoke", f"output={tmp_path / 'run'}")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "report.html").exists()
