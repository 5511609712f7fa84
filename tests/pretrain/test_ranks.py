"""Several processes of one cell: the same losses as one, whatever their number."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from datetime import timedelta

import pytest
import torch
import torch.distributed as dist

from tokentrial.errors import SettingsError
from tokentrial.pretrain.ranks import Ranks, joined
from tokentrial.trial.settings import Pretrain

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


def command(folder, source, *more):
    from tests.conftest import TINY

    overrides = [*TINY, f"corpus.source=jsonl:{source}", f"output={folder}", *GENTLE, *more]
    return [sys.executable, "-m", "tokentrial", "pretrain", "smoke", *overrides, "--arm", "baseline", "--seed", "1"]


@pytest.fixture
def prepared(tiny, tmp_path, inline):
    """`prepared(name, *overrides)`: the run folder of the gentle trial with its corpus."""
    from tokentrial.run.run import run

    def make(name, *overrides):
        run(tiny(tmp_path / name, *GENTLE, *overrides), ("corpus",))
        return tmp_path / name

    return make


def losses(folder):
    return json.loads((folder / "baseline/seed1/pretrain/results.json").read_bytes())


@pytest.mark.slow
def test_one_two_and_four_ranks_give_the_same_losses(prepared, source):
    found = {}
    for ranks in (1, 2, 4):
        folder = prepared(f"run{ranks}")
        subprocess.run(command(folder, source, f"pretrain.ranks={ranks}"), check=True, capture_output=True)
        found[ranks] = losses(folder)
        assert found[ranks]["ranks"] == ranks
    assert len(found[1]["train_losses"]) == 50
    for ranks in (2, 4):
        gaps = [abs(a - b) for a, b in zip(found[1]["train_losses"], found[ranks]["train_losses"], strict=True)]
        assert max(gaps) < 1e-5
        assert found[ranks]["documents"] == found[1]["documents"]


@pytest.mark.slow
def test_two_nodes_give_the_same_losses_and_the_first_owns_the_step(prepared, source):
    """As docs/scaling.md has it typed on each node; here both are this machine, and 127.0.0.1 is the first's name."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    alone, spread = prepared("alone"), prepared("spread")
    subprocess.run(command(alone, source), check=True, capture_output=True)
    nodes = "pretrain.nodes=2", "pretrain.ranks=1", f"pretrain.endpoint=127.0.0.1:{port}"
    first = subprocess.Popen(command(spread, source, *nodes), stderr=subprocess.PIPE, text=True)
    words = f"--nnodes=2 --node-rank=1 --master-addr=127.0.0.1 --master-port={port} --nproc-per-node=1".split()
    joins = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        *words,
        "-m",
        "tokentrial.run.rank",
        spread,
        "baseline",
        "1",
    ]
    second = subprocess.run(joins, capture_output=True, text=True, timeout=240, check=False)
    said = first.communicate(timeout=240)[1]
    assert first.returncode == 0, said
    assert second.returncode == 0, second.stderr
    assert losses(spread)["ranks"] == 2
    gaps = [abs(a - b) for a, b in zip(losses(alone)["train_losses"], losses(spread)["train_losses"], strict=True)]
    assert len(gaps) == 50
    assert max(gaps) < 1e-5
    manifest = spread / "baseline/seed1/pretrain/manifest.json"
    made = manifest.read_bytes()
    subprocess.run(command(spread, source), check=True, capture_output=True)
    assert manifest.read_bytes() == made  # the step is done, for any number of nodes


@pytest.mark.slow
def test_ranks_that_are_told_to_stop_save_and_any_number_goes_on(prepared, source):
    long = ["pretrain.steps=200", "corpus.epochs=20"]
    whole, stopped = prepared("whole", *long), prepared("stopped", *long)
    subprocess.run([*command(whole, source, *long)], check=True, capture_output=True)
    process = subprocess.Popen(command(stopped, source, *long, "pretrain.ranks=2"), stderr=subprocess.PIPE, text=True)
    metrics = stopped / "baseline/seed1/pretrain.partial/metrics.jsonl"
    while not metrics.exists() or len(metrics.read_bytes().splitlines()) < 5:
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 75, said
    assert list((stopped / "baseline/seed1/pretrain.checkpoints").glob("*/step_*/manifest.json"))
    subprocess.run(command(stopped, source, *long), check=True, capture_output=True)
    gaps = [abs(a - b) for a, b in zip(losses(whole)["train_losses"], losses(stopped)["train_losses"], strict=True)]
    assert max(gaps) < 1e-4


@pytest.mark.parametrize(("rows", "micro", "world", "expected"), [(16, 4, 1, 4), (16, 16, 2, 8), (16, 3, 16, 1)])
def test_a_rank_takes_its_rows_of_the_global_batch(rows, micro, world, expected):
    taken = []
    for rank in range(world):
        mine, micro_batch = Ranks(rank, world).rows(rows, micro)
        taken += mine
        assert micro_batch == expected
    assert taken == list(range(rows))


@pytest.mark.parametrize(("rows", "micro", "world", "name"), [(16, 4, 3, "ranks"), (12, 4, 2, "micro_batch")])
def test_rows_that_do_not_divide_name_the_setting(rows, micro, world, name):
    with pytest.raises(SettingsError, match=rf"pretrain\.{name} is"):
        Ranks(0, world).rows(rows, micro)


def test_one_rank_is_no_group():
    alone, model = Ranks(), torch.nn.Linear(2, 2)
    assert alone.wrap(model) is model
    assert alone.any(True)
    assert not alone.any(False)
    assert alone.mean(torch.tensor(3.0)) == 3.0
    alone.wait()
    assert os.environ.get("WORLD_SIZE", "1") == "1"


def test_ranks_wait_for_the_first_one_s_probes_and_uploads_and_leave_the_group(monkeypatch):
    """torch's own ten minutes would end a run that is only uploading."""
    calls = []
    monkeypatch.setattr(dist, "init_process_group", lambda kind, timeout: calls.append((kind, timeout)))
    monkeypatch.setattr(dist, "destroy_process_group", lambda: calls.append("left"))
    monkeypatch.setattr(dist, "get_rank", lambda: 1)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with joined(Pretrain(device="cpu")) as ranks:
        assert (ranks.rank, ranks.world) == (1, 2)
    [(kind, timeout), left] = calls
    assert (kind, left) == ("gloo", "left")
    assert timeout >= timedelta(hours=1)
