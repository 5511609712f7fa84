"""Processes that are killed, run twice, or are given no memory: the run says so in one message, and the same command
ends as a run that nobody disturbed. That of the main process, at any moment: tests/test_interrupted_run.py."""

import os
import resource
import signal
from pathlib import Path

import pytest

from tests.pretrain.test_ranks import finish
from tests.test_interrupted_run import alive, nothing_is_half_there, outcomes, start, until, written
from tokentrial.errors import TrialError
from tokentrial.executors.local import LocalExecutor
from tokentrial.executors.worker import Call
from tokentrial.run.cells import run_cell
from tokentrial.run.run import run
from tokentrial.steps.cell import Cell

PATIENCE_S = 240
pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for processes in Linux's /proc")


def those_of(session, word):
    """Processes of a session whose command line holds a word."""
    return [pid for pid in alive(session) if word in Path(f"/proc/{pid}/cmdline").read_bytes()]


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["pretrain.partial/metrics.jsonl", "hf.partial", "eval_pretrain.partial"])
def test_a_worker_that_is_killed(tiny, undisturbed, tmp_path, inline, moment):
    """As the kernel kills one where memory runs out."""
    trial, words = written(tiny(tmp_path / "run", "seeds=[1]", "workers=1"), tmp_path)
    process = start(words)
    until(lambda: any(trial.folder.glob(f"*/seed1/{moment}")), process)
    for worker in those_of(process.pid, b"spawn_main"):
        os.kill(worker, signal.SIGKILL)
    printed = process.communicate(timeout=PATIENCE_S)[1].decode()
    assert process.returncode == 1, printed
    assert "/seed1: a worker process died (killed, or out of memory); what is finished is kept" in printed
    assert "run the same command again, with fewer workers=N if memory is short" in printed
    assert "Traceback" not in printed
    until(lambda: not alive(process.pid))
    nothing_is_half_there(trial)
    assert run(trial)["outcomes"] == undisturbed


@pytest.mark.slow
def test_a_rank_that_is_killed(cell_command):
    long = [
        "pretrain.steps=100",
        "corpus.epochs=20",
        "pretrain.nproc_per_node=2",
        "pretrain.checkpoint={interval: 1000}",
    ]
    folder, command = cell_command("hurt", *long)
    process = start(command)
    metrics = folder / "pretrain.partial" / "metrics.jsonl"
    until(lambda: metrics.exists() and len(metrics.read_bytes().splitlines()) > 4, process)
    os.kill(max(every_rank()), signal.SIGKILL)
    printed = process.communicate(timeout=PATIENCE_S)[1].decode()
    assert process.returncode == 1, printed
    assert "a rank of pretraining was killed" in printed
    assert "run the same command again" in printed
    assert "Traceback" not in printed
    until(lambda: not every_rank())
    resumed, whole = (finish(cell_command, name, *long) for name in ("hurt", "whole"))
    assert resumed["train_losses"] == whole["train_losses"]


def every_rank():
    """Ranks are in a session of torchrun's own: found by the folder that they were given."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            words = (entry / "cmdline").read_bytes().split(b"\0")
        except (FileNotFoundError, ProcessLookupError):
            continue
        if (
            b"tokentrial.run.rank" in words
            and b"torch.distributed.run" not in words
            and any(b"/hurt" in w for w in words)
        ):
            found.append(int(entry.name))
    return found


@pytest.mark.slow
def test_two_writers_at_once_and_one_is_refused(tiny, undisturbed, tmp_path):
    """Both start together: whoever comes second is refused, and the first ends as if it had been alone."""
    trial, words = written(tiny(tmp_path / "run", "seeds=[1]", "workers=1"), tmp_path)
    both = [start(words), start(words)]
    printed = [process.communicate(timeout=PATIENCE_S)[1].decode() for process in both]
    assert sorted(process.returncode for process in both) == [0, 1], printed
    refusal = printed[0] if both[0].returncode else printed[1]
    assert refusal.count("\n") == 1
    assert "in use by another tokentrial; wait for it, or give output=OTHER_FOLDER" in refusal
    assert outcomes(trial.folder) == undisturbed


# memory


def starved(*given):
    """A cell in a worker that may hold little more than it does."""
    import trl.trainer.sft_trainer  # noqa: F401 - imports want memory too, and are not what is short here

    held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (held + (64 << 20), resource.RLIM_INFINITY))
    run_cell(*given)


@pytest.mark.slow
def test_memory_that_is_refused(tiny, plan, tmp_path, hashes):
    """128 sequences of 64 among 616 ids take 20 MB of logits a copy; at 16 times the width, 300 MB and more."""
    import shutil

    shutil.copytree(plan.folder.parent, tmp_path / "run")
    trial = tiny(
        tmp_path / "run",
        "arms=[baseline,mul_tokens,mul_append]",
        "seeds=[1,2,3]",
        "pretrain.n_embd=1024",
        "pretrain.batch_tokens=16384",
        "pretrain.micro_batch=256",
    )
    before = hashes(trial.folder)
    with pytest.raises(TrialError) as caught, LocalExecutor(1) as executor:
        executor.run([Call("baseline/seed1", starved, (trial, Cell("baseline", 1), ["pretrain"]))], lambda _: None)
    assert str(caught.value) == (
        f"{trial.folder}/baseline/seed1/pretrain: out of memory; give fewer workers=N, or a smaller "
        "pretrain.micro_batch or evaluate.batch; then run the same command again: what is done is kept"
    )
    assert hashes(trial.folder) == before
