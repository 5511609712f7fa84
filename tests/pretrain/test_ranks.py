"""Several processes of one cell: the same losses as one, whatever their number."""

import json
import signal
import socket
import subprocess
import sys
import time
from datetime import timedelta

import psutil
import pytest
import torch
import torch.distributed as dist

from tokentrial.errors import SettingsError, TrialError
from tokentrial.pretrain.launch import launch, print_error
from tokentrial.pretrain.ranks import Ranks, process_group
from tokentrial.trial.pretraining import Pretrain

GENTLE = (
    "seeds=[1]",
    "verdict.secondary=[]",
    "pretrain.optimizer=adamw",
    "pretrain.lr=0.0006",
    "pretrain.steps=50",
    "pretrain.batch_tokens=1024",
    "pretrain.micro_batch=2",
    "pretrain.log_every=1",
    "pretrain.probes=1",
    "pretrain.dtype=fp32",
)


@pytest.fixture
def cell_command(tiny, source, tmp_path, inline):
    """`cell_command(name, *overrides)`: the folder of a cell of the gentle trial, whose corpus is there, and the
    command that pretrains it."""
    from tests.conftest import TINY
    from tokentrial.run.run import run

    def prepare(name, *overrides):
        folder = tmp_path / name
        if not folder.exists():
            run(tiny(folder, *GENTLE, *overrides), ("corpus",))
        given = [*TINY, f"corpus.source=jsonl:{source}", f"output={folder}", *GENTLE, *overrides]
        words = ["pretrain", "smoke", *given, "--arm", "baseline", "--seed", "1"]
        return folder / "baseline" / "seed1", [sys.executable, "-m", "tokentrial", *words]

    return prepare


def finish(cell_command, *given):
    """Run a cell's command to its end: what it has in results.json."""
    folder, command = cell_command(*given)
    subprocess.run(command, check=True, capture_output=True)
    return json.loads((folder / "pretrain" / "results.json").read_bytes())


def gap(one, other):
    assert one["documents"] == other["documents"]
    return max(abs(a - b) for a, b in zip(one["train_losses"], other["train_losses"], strict=True))


@pytest.mark.slow
def test_one_two_and_four_ranks_give_the_same_losses(cell_command):
    one, *others = (finish(cell_command, f"run{ranks}", f"pretrain.nproc_per_node={ranks}") for ranks in (1, 2, 4))
    assert len(one["train_losses"]) == 50
    assert [one["ranks"], *(other["ranks"] for other in others)] == [1, 2, 4]
    assert max(gap(one, other) for other in others) < 1e-5


@pytest.mark.slow
def test_two_nodes_give_the_same_losses_and_the_first_owns_the_step(cell_command):
    """As docs/scaling.md has it typed on each node; here both are this machine, and 127.0.0.1 is the first's name."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    nodes = "pretrain.nnodes=2", "pretrain.nproc_per_node=1", f"pretrain.rdzv_endpoint=127.0.0.1:{port}"
    folder, command = cell_command("spread", *nodes)
    first = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    words = f"--nnodes=2 --node-rank=1 --master-addr=127.0.0.1 --master-port={port} --nproc-per-node=1".split()
    rank = ["-m", "tokentrial.run.rank", folder.parents[1], "baseline", "1"]
    torchrun = [sys.executable, "-m", "torch.distributed.run", *words, *rank]
    second = subprocess.run(torchrun, capture_output=True, text=True, timeout=240, check=False)
    _, errors = first.communicate(timeout=240)
    assert first.returncode == 0, errors
    assert second.returncode == 0, second.stderr
    manifest = (folder / "pretrain" / "manifest.json").read_bytes()
    spread = finish(cell_command, "spread")  # the step is done, for any number of nodes
    assert (folder / "pretrain" / "manifest.json").read_bytes() == manifest
    assert spread["ranks"] == 2
    assert gap(finish(cell_command, "alone"), spread) < 1e-5


@pytest.mark.slow
def test_ranks_that_are_told_to_stop_save_and_any_number_goes_on(cell_command):
    long = ["pretrain.steps=200", "corpus.epochs=20"]
    folder, command = cell_command("stopped", *long, "pretrain.nproc_per_node=2")
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    metrics = folder / "pretrain.partial" / "metrics.jsonl"
    while not metrics.exists() or len(metrics.read_bytes().splitlines()) < 5:
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.05)
    # as srun sends it: to every process of the job, torchrun and ranks among them
    for each in (*psutil.Process(process.pid).children(recursive=True), process):
        each.send_signal(signal.SIGUSR1)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 75, errors
    assert list((folder / "pretrain.checkpoints").glob("*/step_*/manifest.json"))
    assert gap(finish(cell_command, "whole", *long), finish(cell_command, "stopped", *long)) < 1e-4


@pytest.mark.parametrize(("rows", "micro", "world", "expected"), [(16, 4, 1, 4), (16, 16, 2, 8), (16, 3, 16, 1)])
def test_a_rank_takes_its_rows_of_the_global_batch(rows, micro, world, expected):
    taken = []
    for rank in range(world):
        mine, micro_batch = Ranks(rank, world).rows(rows, micro)
        taken += mine
        assert micro_batch == expected
    assert taken == list(range(rows))


@pytest.mark.parametrize("ranks", [1, 2])
def test_the_error_of_ranks_comes_whole_and_once(tmp_path, monkeypatch, capsys, ranks):
    print_error(TrialError("weights.safetensors: broken\n  expected a model"))
    said = capsys.readouterr().out
    fails(tmp_path, monkeypatch, f"of torchrun\n{said * ranks}of torchrun")
    with pytest.raises(TrialError, match=r"\Aweights\.safetensors: broken\n  expected a model\Z"):
        launch(ranks, Pretrain(), ["run", "baseline", "1"], print)


def test_a_killed_rank_and_what_torchrun_says_name_the_cell(tmp_path, monkeypatch):
    for said, message in (
        ("exitcode -9 SIGKILL", "a rank of pretraining was killed"),
        ("bad", "torchrun failed:\nbad"),
    ):
        fails(tmp_path, monkeypatch, said)
        with pytest.raises(TrialError, match=f"^baseline/seed1: {message}"):
            launch(2, Pretrain(), ["run", "baseline", "1"], print)


def fails(folder, monkeypatch, said):
    """In place of Python, which would run torchrun: what says this and fails."""
    (folder / "said").write_text(said)
    (folder / "python").write_text(f"#!/bin/sh\ncat '{folder}/said'\nexit 1\n")
    (folder / "python").chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(folder / "python"))


@pytest.mark.parametrize(("rows", "micro", "world", "name"), [(16, 4, 3, "nproc_per_node"), (12, 4, 2, "micro_batch")])
def test_rows_that_do_not_divide_name_the_setting(rows, micro, world, name):
    with pytest.raises(SettingsError, match=rf"pretrain\.{name}\b"):
        Ranks(0, world).rows(rows, micro)


def test_one_rank_is_no_group():
    alone, model = Ranks(), torch.nn.Linear(2, 2)
    assert alone.wrap(model) is model
    assert (alone.any(True), alone.any(False)) == (True, False)
    assert alone.mean(torch.tensor(3.0)) == 3.0
    alone.barrier()


def test_ranks_wait_for_the_first_one_s_probes_and_uploads_and_leave_the_group(monkeypatch):
    """torch's own ten minutes would end a run that is only uploading."""
    calls = []
    monkeypatch.setattr(dist, "init_process_group", lambda kind, timeout: calls.append((kind, timeout)))
    monkeypatch.setattr(dist, "destroy_process_group", lambda: calls.append("left"))
    monkeypatch.setattr(dist, "get_rank", lambda: 1)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with process_group(Pretrain(device="cpu")) as ranks:
        assert (ranks.rank, ranks.world) == (1, 2)
    [(kind, timeout), left] = calls
    assert (kind, left) == ("gloo", "left")
    assert timeout >= timedelta(hours=1)
