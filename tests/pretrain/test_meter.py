"""What pretraining shows while it goes: speed and use of the hardware from their definitions, in every place."""

import json
from types import SimpleNamespace
from unittest.mock import MagicMock

import pytest
import torch
from accelerate import tracking

from tokentrial.pretrain import meter
from tokentrial.pretrain.gpt import GPT, Config
from tokentrial.pretrain.meter import Meter, peak_flops
from tokentrial.pretrain.ranks import Ranks
from tokentrial.trial.pretraining import Pretrain

SHAPE = Config(vocab=621, n_layer=2, n_head=2, n_embd=32, context=64)
SETTINGS = {"n_layer": 2, "n_head": 2, "n_embd": 32, "context": 64, "batch_tokens": 1024, "micro_batch": 4, "steps": 10}
FLOPS = Pretrain(**SETTINGS).flops_per_token(SHAPE.vocab)


@pytest.fixture
def clock(monkeypatch):
    """A clock that tests set: `clock.now`, in seconds."""
    held = SimpleNamespace(now=100.0)
    monkeypatch.setattr(meter.time, "perf_counter", lambda: held.now)
    monkeypatch.setattr(meter, "peak_flops", lambda device: 1e9)
    return held


@pytest.fixture
def new_meter(tmp_path):
    """`new_meter(world, done, records, progress, device, **settings)`: a meter that writes into the test's folder."""

    def build(world=1, done=0, records=(), progress=None, device="cpu", **changed):
        settings = Pretrain(**SETTINGS | changed)
        ranks = Ranks(0, world, torch.device(device))
        return Meter(tmp_path, settings, SHAPE.vocab, ranks, "cell", done, list(records), progress)

    return build


def records(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_bytes().splitlines()]


def test_flops_are_six_for_each_weight_of_a_product_and_attention():
    """Counted from the model: every matrix but the positions', the tied head once; and 12 L d T for attention. Of
    GPT-2's 124M at context 1024 about 0.86 GFLOP a token (llm.c's and nanoGPT's 6N + 12LdT)."""
    weights = sum(p.numel() for name, p in GPT(SHAPE, 0).named_parameters() if p.ndim == 2 and name.startswith("h."))
    assert 6 * (weights + 621 * 32) + 12 * 2 * 32 * 64 == FLOPS
    assert Pretrain().flops_per_token(50_257) == pytest.approx(0.855e9, rel=0.01)


def test_the_speed_is_tokens_over_seconds_and_goes_on_after_a_stop(clock, new_meter, tmp_path):
    # step 3 was logged, then came two more, and a probe of the model after the sixth
    before = [{"step": 3, "loss": 6.5, "seconds": 20.0}, {"step": 6, "asked": 0.5, "seconds": 30.0}]
    lines = []
    seen = new_meter(done=6, records=before, progress=lambda share, text: lines.append(text))
    clock.now += 2.0
    seen.step(6, 6.0, 1e-3, 1.0)
    clock.now += 3.0
    with seen.excluding():
        clock.now += 1.0
    seen.step(9, 5.0, 1e-3, 1.0)
    *again, first, second = records(tmp_path)
    assert again == before
    assert lines[0].endswith("6 s left")  # for the other three steps of ten
    assert first["tokens_per_s"] == pytest.approx(1024 / 2.0)
    assert second["tokens_per_s"] == pytest.approx(3 * 1024 / 3.0)
    assert second["tflops_per_s"] == pytest.approx(1024 * FLOPS / 1e12)
    assert second["mfu"] == pytest.approx(1024 * FLOPS / 1e9)
    assert second["seconds"] == pytest.approx(36.0)
    assert 0.01 < second["memory_gb"] < 100


def test_the_memory_of_a_gpu_is_the_cell_s_own(clock, new_meter, tmp_path, monkeypatch):
    """A worker trains one cell after the other, and torch's peak is of the process."""
    peak = [80e9]
    monkeypatch.setattr(meter.torch.cuda, "max_memory_allocated", lambda device: peak[-1])
    monkeypatch.setattr(meter.torch.cuda, "reset_peak_memory_stats", lambda device: peak.append(5e9))
    seen = new_meter(device="cuda")
    clock.now += 1.0
    seen.step(0, 6.0, 1e-3, 1.0)
    assert records(tmp_path)[0]["memory_gb"] == 5.0


@pytest.mark.parametrize(("world", "peak", "mfu"), [(4, 1e9, 1024 * FLOPS / 4e9), (1, None, None)])
def test_the_peak_is_that_of_all_ranks_and_of_an_unknown_gpu_no_use_is_claimed(
    clock, new_meter, tmp_path, monkeypatch, world, peak, mfu
):
    monkeypatch.setattr(meter, "peak_flops", lambda device: peak)
    seen = new_meter(world)
    clock.now += 1.0
    seen.step(0, 6.0, 1e-3, 1.0)
    assert records(tmp_path)[0]["mfu"] == (mfu and pytest.approx(mfu))


def test_a_line_says_loss_rate_norm_speed_use_memory_and_time_left(clock, new_meter):
    lines = []
    seen = new_meter(progress=lambda share, text: lines.append((share, text)))
    clock.now += 1.0
    seen.step(3, 5.25, 2e-3, 0.75)
    [(share, text)] = lines
    assert share == pytest.approx(0.4)
    for part in ("step 4", "loss 5.250", "lr 2.0e-03", "norm 0.75", "4,096 tokens/s", "TFLOP/s", "mfu", "GB"):
        assert part in text
    assert text.endswith("2 s left")  # 6 steps of 1,024 tokens at 4,096 a second: 1.5


@pytest.mark.parametrize(
    ("name", "tflops"),
    [
        ("NVIDIA A100-SXM4-80GB", 312.0),
        ("NVIDIA H100 80GB HBM3", 989.0),
        ("NVIDIA H100 PCIe", 756.0),
        ("NVIDIA L4", 121.0),  # and not L40S
        ("Somebody's GPU", None),
    ],
)
def test_a_gpus_peak_is_its_makers(monkeypatch, name, tflops):
    monkeypatch.setattr(meter.torch.cuda, "get_device_name", lambda device: name)
    assert peak_flops(torch.device("cuda")) == (tflops and tflops * 1e12)


def test_a_cpus_peak_is_measured():
    assert 1e8 < peak_flops(torch.device("cpu")) < 1e14


@pytest.mark.parametrize("name", ["tensorboard", "trackio", "wandb", "none"])
def test_one_setting_hands_all_numbers_to_a_tracker_of_accelerate(clock, new_meter, tmp_path, monkeypatch, name):
    kind = MagicMock(requires_logging_directory=True)
    if name != "none":
        assert name in tracking.LOGGER_TYPE_TO_CLASS
    monkeypatch.setattr(tracking, "LOGGER_TYPE_TO_CLASS", {name: kind})
    seen = new_meter(report_to=name)
    clock.now += 1.0
    seen.step(0, 6.0, 1e-3, 1.0)
    seen.add({"step": 4, "val_loss": 5.5, "asked": 0.25})
    seen.close()
    assert (tmp_path / "log.txt").read_text() == "0 train 6.000000\n4 val 5.5000\n"  # the original report's lines
    if name == "none":
        assert not kind.called
        return
    kind.assert_called_once_with("cell", logging_dir=str(tmp_path / "tracking"))
    tracker = kind.return_value
    assert tracker.store_init_configuration.call_args.args[0]["n_layer"] == 2
    (first,), (second,) = (call.args for call in tracker.log.call_args_list)
    assert (first["loss"], first["tokens_per_s"]) == (6.0, 1024)
    assert second == {"val_loss": 5.5, "asked": 0.25, "seconds": 1.0}
    assert [call.kwargs for call in tracker.log.call_args_list] == [{"step": 0}, {"step": 4}]
    tracker.finish.assert_called_once_with()
