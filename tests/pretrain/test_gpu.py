"""Compiled and in 16 bits, training loses what fp32 on a CPU loses, and goes on after a stop as if there were none.

Without a GPU what concerns one is skipped; `pytest tests/pretrain/test_gpu.py` on a machine that has one runs it.
"""

import shutil

import pytest
import torch

from tests.pretrain.conftest import results, stop_after
from tokentrial.errors import Interrupted
from tokentrial.pretrain.device import later_device, ranks_of, resolve_dtype
from tokentrial.pretrain.export import load_gpt
from tokentrial.pretrain.ranks import process_group
from tokentrial.trial.pretraining import Pretrain

STEPS = 20
on_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")
on_apple = pytest.mark.skipif(not torch.mps.is_available(), reason="there is no Apple GPU here")
compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="compiling for a CPU needs g++")


@pytest.fixture
def run(train, tmp_path):
    """`run(name, stop, **settings)`: folder and results of a cell of the tiny corpus."""

    def run_cell(name, stop=bool, **changed):
        settings = {"steps": STEPS, "micro_batch": 8, "optimizer": "adamw", "lr": 3e-3} | changed
        with process_group(Pretrain(device=changed.get("device", "cpu"))) as ranks:
            folder = train(tmp_path / name, "mul_tokens", ranks=ranks, stop=stop, **settings)
        return folder, results(folder)

    return run_cell


@pytest.mark.parametrize(
    ("how", "tolerance"),
    [
        pytest.param({"compile": "on"}, 1e-4, marks=[pytest.mark.slow, compiler]),
        pytest.param({"device": "cuda", "compile": "on", "dtype": "fp32"}, 3e-3, marks=on_gpu),  # in TF32
        pytest.param({"device": "cuda", "compile": "on", "dtype": "bf16"}, 2e-2, marks=on_gpu),
        pytest.param({"device": "cuda", "compile": "on", "dtype": "fp16"}, 2e-2, marks=on_gpu),
        pytest.param({"device": "cuda", "compile": "off"}, 2e-2, marks=on_gpu),
        pytest.param({"device": "mps"}, 1e-3, marks=on_apple),
    ],
)
def test_the_losses_are_those_of_plain_fp32_on_a_cpu(run, how, tolerance):
    (_, plain), (folder, other) = run("plain"), run("other", **how)
    assert other["train_losses"] == pytest.approx(plain["train_losses"], abs=tolerance)
    assert other["val_losses"] == pytest.approx(plain["val_losses"], abs=tolerance)
    assert plain["train_losses"][-1] < plain["train_losses"][0] - 0.5
    model = load_gpt(folder)  # which fails where compiling has renamed a parameter
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def test_apple_s_gpu_trains_in_fp32_and_the_stages_after_it_use_the_cpu():
    """Their scores are sums in double, which it does not have."""
    settings = Pretrain(device="mps")
    assert (resolve_dtype(settings), ranks_of(settings), later_device(settings)) == ("fp32", 1, "cpu")


@on_gpu
@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_a_stopped_cell_goes_on_on_a_gpu(run, dtype):
    """Sums of a GPU come in no fixed order, so not bit for bit."""
    _, whole = run("whole", device="cuda", dtype=dtype)
    with pytest.raises(Interrupted, match="stopped after step 8"):
        run("stopped", stop_after(7), device="cuda", dtype=dtype)
    _, resumed = run("stopped", device="cuda", dtype=dtype)
    assert resumed["train_losses"] == pytest.approx(whole["train_losses"], abs=2e-2)
    assert len(resumed["train_losses"]) == STEPS
