"""The soak (`python -m tests.soak`) must not break as the code moves: one round of it."""

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for processes in Linux's /proc")


@pytest.mark.slow
def test_a_round_of_the_soak(tmp_path):
    words = ["--rounds", "1", "--trials", "1", "--minutes", "60", "--work", tmp_path]
    command = [sys.executable, "-m", "tests.soak", *words]
    root = Path(__file__).resolve().parents[1]
    ended = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
