"""Going on: what was stopped and went on is what was never stopped, bit for bit on a CPU."""

import json
from threading import Event
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from tokentrial.corpus.stream import Stream
from tokentrial.errors import Interrupted, TrialError
from tokentrial.pretrain import checkpoint
from tokentrial.pretrain.gpt import GPT, Config
from tokentrial.pretrain.optim import optimizers
from tokentrial.pretrain.train import pretrain
from tokentrial.trial.settings import Checkpoint, Pretrain

STEPS = 12


class Stop:
    """Says stop when it is asked for the n-th time."""

    def __init__(self, after):
        self.left = after

    def __call__(self):
        self.left -= 1
        return self.left < 0


@pytest.fixture
def train(plan, tmp_path):
    """`train(name, stop, **settings)`: a cell of the tiny corpus with checkpoints in `name.checkpoints`."""

    def make(name, stop=lambda: False, arm="mul_tokens", probe=None, **changed):
        settings = plan.trial.pretrain.model_dump() | {
            "steps": STEPS,
            "batch_tokens": 1024,
            "micro_batch": 8,
            "log_every": 3,
            "validations": 3,
            "probes": 4,
            "checkpoint": {"interval": 100},
        }
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        stream = Stream.of(plan.trial, plan.folder, plan.vocabulary, arm, 1)
        checkpoints = tmp_path / f"{name}.checkpoints"
        pretrain(folder, stream, Pretrain(**settings | changed), probe, None, checkpoints, None, stop)
        return folder

    return make


def results(folder):
    found = json.loads((folder / "results.json").read_bytes())
    return {key: value for key, value in found.items() if key not in ("seconds", "config")}


def measured(folder):
    timed = {"seconds", "tokens_per_s", "tflops_per_s", "mfu", "memory_gb"}
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_bytes().splitlines()]
    return [{key: value for key, value in line.items() if key not in timed} for line in lines]


@pytest.mark.parametrize(
    ("optimizer", "schedule", "dtype"),
    [
        ("adamw", "cosine", "fp32"),
        ("muon", "wsd", "fp32"),
        ("adamw", "wsd", "fp16"),
        pytest.param("adamw", "wsd", "fp32", marks=pytest.mark.slow),
        pytest.param("muon", "wsd", "fp16", marks=pytest.mark.slow),
        pytest.param("muon", "cosine", "fp32", marks=pytest.mark.slow),
    ],
)
def test_half_stop_and_half_is_the_whole_bit_for_bit(train, optimizer, schedule, dtype):
    asked = []

    def probe(step, model):
        asked.append(step)
        return {"asked": float(model.wte.weight.detach().sum())}

    how = {"optimizer": optimizer, "schedule": schedule, "dtype": dtype, "probe": probe}
    whole = train("whole", **how)
    with pytest.raises(Interrupted, match=r"stopped after step 6, the last checkpoint is of step 6"):
        train("halves", Stop(5), **how)
    halves = train("halves", **how)
    assert results(halves) == results(whole)
    assert measured(halves) == measured(whole)
    assert (halves / "log.txt").read_bytes() == (whole / "log.txt").read_bytes()
    name = f"model_{STEPS - 1:05d}.safetensors"
    assert (halves / name).read_bytes() == (whole / name).read_bytes()
    assert asked == [3, 6, 9, 12] * 2  # the probes before the stop are not asked again


def test_stopped_again_and_again_it_still_ends_the_same(train):
    whole = train("whole")
    for _ in range(STEPS - 1):
        with pytest.raises(Interrupted):
            train("often", Stop(0))
    assert results(train("often")) == results(whole)


def test_checkpoints_are_pruned_and_those_to_keep_are_handed_over(train, tmp_path):
    settings = Checkpoint(interval=2, keep_last=2, keep_every=4).model_dump()
    with pytest.raises(Interrupted):
        train("a", Stop(10), checkpoint=settings)
    there = sorted(path.name for path in (tmp_path / "a.checkpoints").iterdir())
    assert there == [f"step_{number:06d}" for number in (4, 8, 10, 11)]
    folder = train("a", checkpoint=settings)
    assert sorted(path.name for path in folder.glob("model_*")) == [
        f"model_{steps - 1:05d}.safetensors" for steps in (4, 8, 12)
    ]
    kept = load_file(folder / "model_00003.safetensors")
    assert kept["wte.weight"].shape == (640, 32)


def test_a_checkpoint_that_is_not_whole_is_never_taken(train, tmp_path):
    whole = train("whole")
    with pytest.raises(Interrupted):
        train("a", Stop(4), checkpoint={"interval": 3, "keep_last": 2})
    newest = tmp_path / "a.checkpoints" / "step_000005"
    (newest / "model.safetensors").write_bytes((newest / "model.safetensors").read_bytes()[:-100])
    (tmp_path / "a.checkpoints" / "step_000007.partial").mkdir()
    assert checkpoint.last_step(tmp_path / "a.checkpoints") == 3
    assert results(train("a")) == results(whole)


def test_a_loss_that_explodes_names_the_step_the_place_and_the_last_checkpoint(train):
    broken = {"optimizer": "adamw", "lr": 1e4, "warmup": 0.0, "log_every": 1, "checkpoint": {"interval": 1}}
    with pytest.raises(
        TrialError, match=r"the loss is .* at step [0-9]+, after shard \w+ [0-9]+, document [0-9]+; .*checkpoint.*lower"
    ):
        train("a", **broken)


def test_optimizers_come_back_as_they_were(tmp_path):
    config = Config(100, 1, 2, 8, 16)
    settings = Pretrain(optimizer="muon", n_embd=8, n_head=2, context=16, batch_tokens=64, micro_batch=1)
    model = GPT(config, 1)
    made = optimizers(model, settings)
    ids = torch.arange(16)[None]
    for _ in range(2):
        model(ids, ids).backward()
        for optimizer in made:
            optimizer.step()
    scaler = torch.amp.GradScaler("cpu", init_scale=3.0)
    scaler.scale(torch.ones(1))  # which gives it a state
    with checkpoint.Writer(tmp_path, Checkpoint()) as writer:
        writer.save(1_234_567, model, made, scaler, [{"step": 1, "loss": 1.0}])  # more digits than a folder's name has
    other = GPT(config, 2)
    others = optimizers(other, settings)
    scaler = torch.amp.GradScaler("cpu")
    assert checkpoint.restore(tmp_path, other, others, scaler) == (1_234_567, [{"step": 1, "loss": 1.0}])
    assert scaler.get_scale() == 3.0
    for one, two in zip(made, others, strict=True):
        first, second = one.state_dict()["state"], two.state_dict()["state"]
        assert first.keys() == second.keys()
        assert all(torch.equal(first[i][key], second[i][key]) for i in first for key in first[i])
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))


def test_training_goes_on_while_a_checkpoint_is_written(tmp_path):
    model, before = GPT(Config(100, 1, 2, 8, 16), 1), GPT(Config(100, 1, 2, 8, 16), 1)
    free, sent = Event(), []

    def slow(folder):
        sent.append(folder.name)
        assert free.wait(10)

    with checkpoint.Writer(tmp_path, Checkpoint(keep_last=2), slow) as writer:
        writer.save(1, model, [], torch.amp.GradScaler("cpu"), [])
        with torch.no_grad():
            model.wte.weight.add_(1.0)  # what is written stays as it was when it was saved
        free.set()
        writer.save(2, model, [], torch.amp.GradScaler("cpu"), [])
    assert sent == ["step_000001", "step_000002"]
    for number, offset in ((1, 0.0), (2, 1.0)):
        written = load_file(tmp_path / f"step_{number:06d}" / "model.safetensors")
        torch.testing.assert_close(written["wte.weight"], before.wte.weight.detach() + offset)


def test_a_checkpoint_that_cannot_be_written_ends_training(tmp_path):
    def full(folder):
        raise OSError(28, "No space left on device")

    model, scaler = GPT(Config(100, 1, 2, 8, 16), 1), torch.amp.GradScaler("cpu")
    with pytest.raises(OSError, match="No space"), checkpoint.Writer(tmp_path, Checkpoint(), full) as writer:
        writer.save(1, model, [], scaler, [])


def test_nothing_is_there_to_go_on_from(tmp_path):
    model = GPT(Config(100, 1, 2, 8, 16), 1)
    assert checkpoint.restore(tmp_path, model, [], torch.amp.GradScaler("cpu")) == (0, [])
    assert checkpoint.last_step(tmp_path) == 0


def test_too_little_memory_is_said_before_the_first_step(train, monkeypatch):
    memory = SimpleNamespace(available=1_000_000)
    monkeypatch.setattr("tokentrial.pretrain.train.psutil.virtual_memory", lambda: memory)
    with pytest.raises(TrialError, match=r"parameters need .* GB for weights, gradients and moments alone; 0\.0 GB"):
        train("a", n_embd=128)


def test_too_little_disk_is_said_before_the_first_step(train, monkeypatch):
    monkeypatch.setattr("tokentrial.store.disk.shutil.disk_usage", lambda path: type("Usage", (), {"free": 10_000})())
    with pytest.raises(TrialError, match=r"the checkpoints of pretraining needs .* GB are free"):
        train("a", checkpoint={"interval": 3})
