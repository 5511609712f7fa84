"""Nothing is sent anywhere unasked: a whole trial, and the name of every host that any of its processes asked for."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

# Python runs this in every process before all else. Sockets of the C and Rust libraries are not seen by it: where the
# system allows a network namespace, they find no network at all.
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


def without_network() -> list[str]:
    """A command's prefix that takes the network away; none where the system does not allow it."""
    prefix = ["unshare", "--map-root-user", "--net"]
    allowed = shutil.which("unshare") and subprocess.run([*prefix, "true"], capture_output=True).returncode == 0
    return prefix if allowed else []


def watched(tmp_path: Path, *command: str) -> tuple[subprocess.CompletedProcess, list[str]]:
    log = tmp_path / "connections"
    (tmp_path / "sitecustomize.py").write_text(WATCHER.format(log=str(log)))
    log.touch()
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "DO_NOT_TRACK"))}
    root = Path(__file__).resolve().parents[1]
    environment |= {"PYTHONPATH": f"{tmp_path}:{root}", "HOME": str(tmp_path)}
    words = [*without_network(), sys.executable, *command]
    done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    return done, log.read_text().splitlines()


def test_the_watcher_sees_a_connection(tmp_path):
    _, seen = watched(tmp_path, "-c", "import socket; socket.create_connection(('192.0.2.1', 9), 0.1)")
    assert "socket.connect 192.0.2.1" in seen


@pytest.mark.slow
def test_a_whole_trial_needs_no_network_and_connects_to_nothing(tmp_path):
    done, seen = watched(tmp_path, "-m", "tokentrial", "run", "smoke", f"output={tmp_path / 'run'}")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "report.html").exists()
    assert seen == []
