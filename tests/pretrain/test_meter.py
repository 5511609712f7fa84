"""What pretraining shows while it goes: speed and use of the hardware from their definitions, in every place."""

import json
from types import SimpleNamespace

import pytest
import torch
from accelerate import tracking

from tokentrial.pretrain import meter
from tokentrial.pretrain.gpt import GPT, Config
from tokentrial.pretrain.meter import Meter, peak_flops
from tokentrial.pretrain.ranks import Ranks
from tokentrial.trial.settings import Pretrain

SHAPE = Config(vocab=621, n_layer=2, n_head=2, n_embd=32, context=64)
SETTINGS = {"n_layer": 2, "n_head": 2, "n_embd": 32, "context": 64, "batch_tokens": 1024, "micro_batch": 4, "steps": 10}


@pytest.fixture
def clock(monkeypatch):
    """A clock that tests set: `clock.now`, in seconds."""
    held = SimpleNamespace(now=100.0)
    monkeypatch.setattr(meter.time, "perf_counter", lambda: held.now)
    monkeypatch.setattr(meter, "peak_flops", lambda device: 1e9)
    return held


@pytest.fixture
def made(tmp_path):
    """`made(world, records, progress, **settings)`: a meter that writes into the test's folder."""

    def make(world=1, records=(), progress=None, **changed):
        settings = Pretrain(**SETTINGS | changed)
        return Meter(tmp_path, settings, SHAPE.vocab, Ranks(0, world), "cell", list(records), progress)

    return make


def records(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_bytes().splitlines()]


def test_flops_are_six_for_each_weight_of_a_product_and_attention():
    """Counted from the model: every matrix but the positions', the tied head once; and 12 L d T for attention."""
    model = GPT(SHAPE, 0)
    weights = sum(p.numel() for name, p in model.named_parameters() if p.ndim == 2 and name.startswith("h."))
    expected = 6 * (weights + 621 * 32) + 12 * 2 * 32 * 64
    assert Pretrain(**SETTINGS).flops_per_token(621) == expected


def test_gpt2s_flops_are_those_of_the_literature():
    """124M at context 1024: about 0.86 GFLOP a token (llm.c's and nanoGPT's 6N + 12LdT)."""
    assert Pretrain().flops_per_token(50_257) == pytest.approx(0.855e9, rel=0.01)


def test_the_speed_is_tokens_over_seconds_and_leaves_out_what_was_set_aside(clock, made, tmp_path):
    seen = made()
    clock.now += 2.0
    seen.step(0, 6.0, 1e-3, 1.0)
    clock.now += 4.0
    with seen.aside():
        clock.now += 1.0
    seen.step(4, 5.0, 1e-3, 1.0)
    first, second = records(tmp_path)
    assert first["tokens_per_s"] == pytest.approx(1024 / 2.0)
    assert second["tokens_per_s"] == pytest.approx(4 * 1024 / 4.0)
    assert second["tflops_per_s"] == pytest.approx(1024 * Pretrain(**SETTINGS).flops_per_token(621) / 1e12)
    assert second["mfu"] == pytest.approx(1024 * Pretrain(**SETTINGS).flops_per_token(621) / 1e9)
    assert second["seconds"] == pytest.approx(7.0)
    assert 0.01 < second["memory_gb"] < 100


def test_with_several_ranks_the_peak_is_that_of_all(clock, made, tmp_path):
    seen = made(world=4)
    clock.now += 1.0
    seen.step(0, 6.0, 1e-3, 1.0)
    assert records(tmp_path)[0]["mfu"] == pytest.approx(1024 * Pretrain(**SETTINGS).flops_per_token(621) / 4e9)


def test_a_line_says_loss_rate_norm_speed_use_memory_and_time_left(clock, made):
    told = []
    seen = made(progress=lambda share, text: told.append((share, text)))
    clock.now += 1.0
    seen.step(3, 5.25, 2e-3, 0.75)
    [(share, text)] = told
    assert share == pytest.approx(0.4)
    for part in ("step 4", "loss 5.250", "lr 2.0e-03", "norm 0.75", "4,096 tokens/s", "TFLOP/s", "mfu", "GB"):
        assert part in text
    assert text.endswith("2 s left")  # 6 steps of 1,024 tokens at 4,096 a second: 1.5


def test_log_txt_has_the_references_lines(clock, made, tmp_path):
    seen = made()
    seen.step(0, 6.0, 1e-3, 1.0)
    seen.add({"step": 0, "val_loss": 6.25})
    seen.close()
    assert (tmp_path / "log.txt").read_text() == "0 train 6.000000\n0 val 6.2500\n"


def test_what_was_recorded_before_a_stop_is_written_again_and_its_seconds_count(clock, made, tmp_path):
    before = [{"step": 0, "loss": 6.0, "seconds": 30.0}]
    seen = made(records=before)
    clock.now += 1.0
    seen.step(2, 5.0, 1e-3, 1.0)
    first, second = records(tmp_path)
    assert first == before[0]
    assert second["seconds"] == pytest.approx(31.0)
    assert second["tokens_per_s"] == pytest.approx(2 * 1024)


@pytest.mark.parametrize(
    ("name", "tflops"),
    [
        ("NVIDIA A40", 149.7),
        ("NVIDIA A100-SXM4-80GB", 312.0),
        ("NVIDIA H100 80GB HBM3", 989.0),
        ("NVIDIA H100 PCIe", 756.0),
        ("NVIDIA H200", 989.0),
        ("NVIDIA GeForce RTX 4090", 165.2),
        ("NVIDIA L4", 121.0),
        ("NVIDIA L40S", 362.0),
    ],
)
def test_a_gpus_peak_is_its_makers(monkeypatch, name, tflops):
    monkeypatch.setattr(meter.torch.cuda, "get_device_name", lambda device: name)
    assert peak_flops(torch.device("cuda")) == tflops * 1e12


def test_of_an_unknown_gpu_no_use_is_claimed(monkeypatch, made, tmp_path):
    monkeypatch.setattr(meter.torch.cuda, "get_device_name", lambda device: "Somebody's GPU")
    assert peak_flops(torch.device("cuda")) is None
    monkeypatch.setattr(meter, "peak_flops", lambda device: None)
    made().step(0, 6.0, 1e-3, 1.0)
    assert records(tmp_path)[0]["mfu"] is None


def test_a_cpus_peak_is_measured():
    assert 1e8 < peak_flops(torch.device("cpu")) < 1e14


class Recorder(tracking.GeneralTracker):
    """A tracker of accelerate's kind that keeps what it is given."""

    name, requires_logging_directory = "recorder", True
    begun: list["Recorder"] = []  # noqa: RUF012 - what tests look at

    def __init__(self, run_name, logging_dir=None):
        super().__init__()
        self.run_name, self.logging_dir, self.logged, self.finished = run_name, logging_dir, [], False
        Recorder.begun.append(self)

    @property
    def tracker(self):
        return self

    def start(self):
        pass

    def store_init_configuration(self, values):
        self.configuration = values

    def log(self, values, step=None, **kwargs):
        self.logged.append((step, values))

    def finish(self):
        self.finished = True


@pytest.mark.parametrize("name", ["tensorboard", "trackio", "wandb"])
def test_one_setting_hands_all_numbers_to_a_tracker_of_accelerate(clock, made, tmp_path, monkeypatch, name):
    assert name in tracking.LOGGER_TYPE_TO_CLASS
    monkeypatch.setitem(tracking.LOGGER_TYPE_TO_CLASS, name, Recorder)
    seen = made(track=name)
    tracker = Recorder.begun[-1]
    clock.now += 1.0
    seen.step(0, 6.0, 1e-3, 1.0)
    seen.add({"step": 4, "val_loss": 5.5, "asked": 0.25})
    seen.close()
    assert tracker.run_name == "cell"
    assert tracker.logging_dir == str(tmp_path / "tracking")
    assert tracker.configuration["n_layer"] == 2
    assert [step for step, _ in tracker.logged] == [0, 4]
    assert tracker.logged[0][1]["loss"] == 6.0
    assert tracker.logged[0][1]["tokens_per_s"] == 1024
    assert tracker.logged[1][1] == {"val_loss": 5.5, "asked": 0.25, "seconds": 1.0}
    assert tracker.finished


def test_without_the_setting_no_tracker_is_begun(clock, made):
    before = len(Recorder.begun)
    assert made().tracker is None
    assert len(Recorder.begun) == before
