"""A run that is stopped, politely or not, at whatever moment: nothing of it lives on, nothing of it is half there,
and the same command ends with the outcomes of a run that was never stopped."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from tokentrial.run.run import run
from tokentrial.store.files import read_json
from tokentrial.store.folders import is_done

ROOT = Path(__file__).resolve().parents[1]
PATIENCE_S = 240  # for a machine that is shared; nothing is timed

# a place in the run: the first file or folder that is there from then on
MOMENTS = {
    "text": "corpus.partial",
    "drills": "corpus/drills/drills1.partial",
    "patches": "corpus/patches",
    "pretrain": "*/seed1/pretrain.partial/metrics.jsonl",
    "export": "*/seed*/hf.partial",
    "eval_pretrain": "*/seed*/eval_pretrain.partial",
    "second seed": "*/seed2/pretrain.partial",
}

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for processes in Linux's /proc")


def written(trial, folder):
    path = folder / "trial.yaml"
    path.write_text(yaml.safe_dump(trial.model_dump(mode="json")))
    return trial, [sys.executable, "-m", "tokentrial", "run", str(path)]


def start(words):
    """The command in a session of its own, so that all its processes can be found again."""
    return subprocess.Popen(words, cwd=ROOT, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, start_new_session=True)


def alive(session):
    """Processes of a session that still run."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            state, _, _, of = (entry / "stat").read_text().rpartition(")")[2].split()[:4]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(of) == session and state != "Z":
            found.append(int(entry.name))
    return found


def until(condition, process=None):
    end = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        if process is not None and process.poll() is not None:
            break
        time.sleep(0.005)


def stop_at(words, folder, moment, number, later_s=0.0, send=os.kill):
    """Start, wait for the moment and so many seconds, send the signal; (exit code, what it said)."""
    process = start(words)
    until(lambda: any(folder.glob(MOMENTS.get(moment, moment))), process)
    time.sleep(later_s)
    if process.poll() is None:  # it may have been faster than we looked
        send(process.pid, number)
    message = process.communicate(timeout=PATIENCE_S)[1].decode()
    until(lambda: not alive(process.pid))  # the workers die with their parent
    return process.returncode, message


def nothing_is_half_there(trial):
    """Every folder that stands under its own name is whole."""
    manifests = [path for path in trial.folder.rglob("manifest.json") if ".partial" not in str(path)]
    for path in manifests:
        assert is_done(path.parent, read_json(path)["fingerprint"]), path
    # the checkpoints of a stage that was stopped are whole each, as their manifests say
    standing = [path for path in trial.folder.glob("*/seed*/*") if path.suffix not in (".partial", ".checkpoints")]
    assert set(standing) <= {path.parent for path in manifests}


def outcomes(folder):
    return read_json(folder / "comparison_report.json")["outcomes"]


@pytest.fixture
def command(tiny, tmp_path):
    """(trial, the words of the command that runs it)"""
    return written(tiny(tmp_path / "run"), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("moment", MOMENTS)
def test_sigkill_at_any_moment(command, finished, inline, moment):
    trial, words = command
    for number in range(2):  # killed once, and once more as it goes on
        later = random.Random(f"{moment} {number}").random() * 0.3
        stop_at(words, trial.folder, moment, signal.SIGKILL, later)
        nothing_is_half_there(trial)
    run(trial)
    assert outcomes(trial.folder) == outcomes(finished.folder)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_sigkill_at_a_random_time(command, finished, seed):
    trial, words = command
    process = start(words)
    time.sleep(random.Random(seed).uniform(1, 25))
    process.kill()
    process.communicate()
    until(lambda: not alive(process.pid))
    if trial.folder.exists():
        nothing_is_half_there(trial)
    again = subprocess.run(words, cwd=ROOT, capture_output=True, timeout=PATIENCE_S, check=False)
    assert again.returncode == 0, again.stderr.decode()
    assert outcomes(trial.folder) == outcomes(finished.folder)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("moment", "number"),
    [
        ("text", signal.SIGINT),
        ("drills", signal.SIGTERM),
        ("pretrain", signal.SIGTERM),
        ("export", signal.SIGINT),
        ("eval_pretrain", signal.SIGTERM),
    ],
)
def test_a_signal_at_other_moments(tiny, tmp_path, undisturbed, inline, moment, number):
    trial, words = written(tiny(tmp_path / "run", "seeds=[1]", "workers=1"), tmp_path)
    code, message = stop_at(words, trial.folder, moment, number)
    assert code == 75, message
    assert f"stopped by {number.name}; the same command resumes from here" in message
    assert "Traceback" not in message
    nothing_is_half_there(trial)
    assert not (trial.folder / "comparison_report.json").exists()
    assert run(trial)["outcomes"] == undisturbed
    assert not list(trial.folder.rglob("*.partial"))


@pytest.mark.slow
def test_ctrl_c_reaches_the_whole_group_and_the_parent_decides(command):
    """A terminal sends SIGINT to workers too: none prints a traceback of its own."""
    trial, words = command
    code, message = stop_at(words, trial.folder, "pretrain", signal.SIGINT, send=os.killpg)
    assert code == 75, message
    assert "Traceback" not in message


@pytest.mark.slow
def test_a_stop_leaves_checkpoints_of_the_running_cells_alone(tiny, tmp_path):
    """18 cells on two workers, stopped in the second."""
    trial = tiny(tmp_path / "run", f"seeds={list(range(1, 10))}", "pretrain.steps=300", "corpus.epochs=30", "workers=2")
    assert len(trial.seeds) * len(trial.arms) == 18
    _, words = written(trial, tmp_path)
    process = start(words)
    until(lambda: any(trial.folder.glob("mul_tokens/seed1/pretrain.partial/metrics.jsonl")), process)
    process.terminate()
    begun = time.monotonic()
    said = process.communicate(timeout=PATIENCE_S)[1].decode()
    took = time.monotonic() - begun
    assert process.returncode == 75, said
    assert {path.parent.name for path in trial.folder.glob("*/*/pretrain.checkpoints")} == {"seed1"}
    assert {path.parent.name for path in trial.folder.glob("*/*/pretrain.partial")} == {"seed1"}
    assert took < 5
