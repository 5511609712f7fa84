"""Compiled and in 16 bits, training loses what fp32 on a CPU loses, and goes on after a stop as if there were none.

Without a GPU what concerns one is skipped; `pytest tests/pretrain/test_gpu.py` on a machine that has one runs it.
"""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file

from tokentrial.corpus.stream import Stream
from tokentrial.errors import Interrupted
from tokentrial.pretrain.ranks import joined
from tokentrial.pretrain.train import pretrain
from tokentrial.trial.settings import Pretrain

STEPS = 20
on_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")
compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="compiling for a CPU needs g++")


@pytest.fixture
def train(plan, tmp_path):
    """`train(name, stop, **settings)`: results and weights of a cell of the tiny corpus."""

    def make(name, stop=lambda: False, **changed):
        settings = Pretrain(
            **plan.trial.pretrain.model_dump()
            | {"steps": STEPS, "batch_tokens": 1024, "micro_batch": 8, "log_every": 1, "optimizer": "adamw", "lr": 3e-3}
            | changed
        )
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        stream = Stream.of(plan.trial, plan.folder, plan.vocabulary, "mul_tokens", 1)
        with joined(settings) as ranks:
            pretrain(folder, stream, settings, None, None, tmp_path / f"{name}.checkpoints", ranks, stop)
        [weights] = folder.glob("*.safetensors")
        return json.loads((folder / "results.json").read_bytes()), load_file(weights)

    return make


@pytest.mark.parametrize(
    ("how", "tolerance"),
    [
        pytest.param({"compile": "on"}, 1e-4, marks=[pytest.mark.slow, compiler]),
        pytest.param({"device": "cuda", "compile": "on", "dtype": "fp32"}, 3e-3, marks=on_gpu),  # in TF32
        pytest.param({"device": "cuda", "compile": "on", "dtype": "bf16"}, 2e-2, marks=on_gpu),
        pytest.param({"device": "cuda", "compile": "on", "dtype": "fp16"}, 2e-2, marks=on_gpu),
        pytest.param({"device": "cuda", "compile": "off"}, 2e-2, marks=on_gpu),
    ],
)
def test_the_losses_are_those_of_plain_fp32_on_a_cpu(train, how, tolerance):
    plain, plain_weights = train("plain")
    other, weights = train("other", **how)
    assert other["train_losses"] == pytest.approx(plain["train_losses"], abs=tolerance)
    assert other["val_losses"] == pytest.approx(plain["val_losses"], abs=tolerance)
    assert plain["train_losses"][-1] < plain["train_losses"][0] - 0.5
    assert weights.keys() == plain_weights.keys()  # compiling leaves the parameters their names
    assert {tensor.dtype for tensor in weights.values()} == {torch.float32}


@on_gpu
@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_a_stopped_cell_goes_on_on_a_gpu(train, dtype):
    """Sums of a GPU come in no fixed order, so not bit for bit."""
    whole, _ = train("whole", device="cuda", dtype=dtype)
    asked = iter(range(STEPS))
    with pytest.raises(Interrupted, match="stopped after step 8"):
        train("stopped", lambda: next(asked) == 7, device="cuda", dtype=dtype)
    went_on, _ = train("stopped", device="cuda", dtype=dtype)
    assert went_on["train_losses"] == pytest.approx(whole["train_losses"], abs=2e-2)
    assert len(went_on["train_losses"]) == STEPS
