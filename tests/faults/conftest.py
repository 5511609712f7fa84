"""What the faults share: what a user sees of one, hashes of what was finished, and disks that are full or read-only."""

import os
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.pretrain.test_ranks import cell_command  # noqa: F401 - a fixture
from tests.publish.test_hub import cell, stub  # noqa: F401 - fixtures
from tokentrial.store.files import file_hash


@pytest.fixture
def refused(tokentrial):
    """`refused(*words, code=1)`: the one message with which a command ends; never a traceback."""

    def run(*words, code=1):
        ended, _, err = tokentrial(*words)
        assert ended == code, err
        assert "Traceback" not in err
        messages = [part for part in err.split("tokentrial: ") if part]
        assert messages, "nothing was said"
        return messages[-1].strip()

    return run


@pytest.fixture
def written(tmp_path):
    """`written(trial)`: the words that run it."""

    def write(trial):
        path = tmp_path / "the-trial.yaml"
        path.write_text(yaml.safe_dump(trial.model_dump(mode="json")))
        return "run", path

    return write


@pytest.fixture(scope="session")
def hashes():
    """`hashes(folder)`: of every file of the steps that are whole, and of the declaration."""

    def of(folder):
        steps = [path.parent for path in Path(folder).rglob("manifest.json") if ".partial" not in str(path)]
        files = {path for step in steps for path in step.rglob("*") if path.is_file() and ".partial" not in str(path)}
        return {str(path.relative_to(folder)): file_hash(path) for path in sorted(files)}

    return of


def _mounted(*words, at):
    at.mkdir(parents=True, exist_ok=True)
    if os.geteuid() != 0:
        pytest.skip("only root may mount a file system")
    done = subprocess.run(["mount", *words, str(at)], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"this machine lets nothing be mounted: {done.stderr.strip()}")


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 64 MB."""
    _mounted("-t", "tmpfs", "-o", "size=64m", "tmpfs", at=tmp_path / "disk")
    yield tmp_path / "disk"
    subprocess.run(["umount", "-l", str(tmp_path / "disk")], check=True)


@pytest.fixture
def read_only(tmp_path):
    """`read_only(folder)`: from then on nobody may write there, not even root; undone by calling what it returns."""
    mounted = []

    def undo():
        while mounted:
            subprocess.run(["umount", "-l", str(mounted.pop())], check=True)

    def make(folder):
        _mounted("--bind", str(folder), at=folder)
        mounted.append(folder)
        subprocess.run(["mount", "-o", "remount,ro,bind", str(folder)], check=True)
        return undo

    yield make
    undo()
