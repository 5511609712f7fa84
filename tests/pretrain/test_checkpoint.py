"""Going on: what was stopped and went on is what was never stopped, bit for bit on a CPU."""

from itertools import pairwise
from threading import Event

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from tests.pretrain.conftest import metrics, results, stop_after
from tokentrial.errors import Interrupted, TrialError
from tokentrial.pretrain import checkpoint
from tokentrial.pretrain.gpt import GPT, Config
from tokentrial.pretrain.optim import build_optimizers
from tokentrial.store.folders import step
from tokentrial.trial.pretraining import Checkpoint, Pretrain

STEPS = 12
SETTINGS = {"steps": STEPS, "micro_batch": 8, "log_every": 3, "validations": 3, "probes": 4}
SMALL = Config(100, 1, 2, 8, 16)


@pytest.fixture
def cell(train, tmp_path):
    """`cell(name, answers, **settings)`: a cell that is told to stop when it asks once more than so many times."""

    def train_cell(name, answers=STEPS, probe=None, **changed):
        settings = SETTINGS | {"checkpoint": {"interval": 100}} | changed
        progress = lambda share, text: None  # noqa: E731 - as in a run: what is left is told from the speed
        return train(tmp_path / name, "mul_tokens", 1, probe, progress, stop=stop_after(answers), **settings)

    return train_cell


def interrupted(cell, *given, **changed):
    with pytest.raises(Interrupted, match=r"stopped after step \d+, the last checkpoint is at step \d+"):
        cell(*given, **changed)


def outcome(folder):
    """All that a cell writes, but for what a clock says."""
    timed = ("seconds", "config")
    files = [(folder / name).read_bytes() for name in ("log.txt", f"model_{STEPS - 1:05d}.safetensors")]
    return {key: value for key, value in results(folder).items() if key not in timed}, metrics(folder), files


@pytest.mark.parametrize(
    ("optimizer", "schedule", "dtype", "answers"),
    [
        ("muon", "wsd", "fp16", [5]),
        ("adamw", "cosine", "fp32", [0] * (STEPS - 1)),  # after every single step
        pytest.param("adamw", "wsd", "fp16", [5], marks=pytest.mark.slow),
        pytest.param("muon", "cosine", "fp32", [5], marks=pytest.mark.slow),
    ],
)
def test_stopped_and_gone_on_is_the_whole_bit_for_bit(cell, optimizer, schedule, dtype, answers):
    asked = []

    def probe(step, model):
        asked.append(step)
        return {"asked": float(model.wte.weight.detach().sum())}

    how = {"optimizer": optimizer, "schedule": schedule, "dtype": dtype, "probe": probe}
    whole = cell("whole", **how)
    for number in answers:
        interrupted(cell, "stopped", number, **how)
    assert outcome(cell("stopped", **how)) == outcome(whole)
    assert asked == [3, 6, 9, 12] * 2  # the probes before a stop are not asked again


def test_checkpoints_are_pruned_those_to_keep_are_copied_and_a_broken_one_is_passed_over(cell, tmp_path):
    kept, checkpoints = Checkpoint(interval=2, keep_last=2, keep_every=4).model_dump(), tmp_path / "a.checkpoints"
    interrupted(cell, "a", 10, checkpoint=kept)
    assert sorted(path.name for path in checkpoints.iterdir()) == [f"step_{n:06d}" for n in (4, 8, 10, 11)]
    newest = checkpoints / "step_000011" / "model.safetensors"
    newest.write_bytes(newest.read_bytes()[:-100])
    (checkpoints / "step_000013.partial").mkdir()
    assert checkpoint.checkpoint_steps(checkpoints) == [4, 8, 10]
    folder = cell("a", checkpoint=kept)
    assert outcome(folder) == outcome(cell("whole", checkpoint=kept))
    assert sorted(path.name for path in folder.glob("model_*")) == [
        f"model_{n - 1:05d}.safetensors" for n in (4, 8, 12)
    ]
    assert load_file(folder / "model_00003.safetensors")["wte.weight"].shape == (640, 32)


def test_beyond_a_damaged_checkpoint_training_goes_on_although_one_alone_is_kept(cell, tmp_path):
    alone = Checkpoint(interval=4, keep_last=1).model_dump()
    interrupted(cell, "a", 9, checkpoint=alone)
    newest = max((tmp_path / "a.checkpoints").iterdir()) / "model.safetensors"
    newest.write_bytes(bytes([newest.read_bytes()[0] ^ 1]) + newest.read_bytes()[1:])
    assert outcome(cell("a", checkpoint=alone)) == outcome(cell("whole", checkpoint=alone))


def test_weights_are_kept_at_the_steps_that_were_asked_for_whatever_the_interval(cell):
    folder = cell("a", checkpoint=Checkpoint(interval=100, keep_every=5).model_dump())
    names = [f"model_{n - 1:05d}.safetensors" for n in (5, 10, 12)]
    assert sorted(path.name for path in folder.glob("model_*")) == names


@pytest.mark.parametrize("answers", [[], [10], [7, 1]])
def test_the_checkpoints_to_be_averaged_over_are_those_of_any_training_however_often_it_was_stopped(
    cell, tmp_path, answers
):
    for number in answers:
        interrupted(cell, "a", number, averaged=3)
    folder = cell("a", averaged=3)
    names = [f"model_{n - 1:05d}.safetensors" for n in (10, 11, 12)]
    assert sorted(path.name for path in folder.glob("model_*")) == names
    assert outcome(folder) == outcome(cell("whole"))
    every = cell("every", checkpoint={"interval": 1, "keep_every": 1})
    assert all((folder / name).read_bytes() == (every / name).read_bytes() for name in names)


def test_no_mean_is_taken_over_what_is_left_of_them(cell, tmp_path):
    interrupted(cell, "a", 10, averaged=3)
    (tmp_path / "a.checkpoints" / "step_000010" / "model.safetensors").write_bytes(b"")
    with pytest.raises(TrialError, match=r"step_000010: damaged or gone, and evaluate.checkpoints asks"):
        cell("a", averaged=3)


@given(st.integers(1, 20), st.integers(1, 10**6))
def test_the_last_steps_are_evenly_spaced_within_the_last_tenth(number, steps):
    steps = max(steps, 10 * number)
    found = Pretrain(steps=steps).last_steps(number)
    assert (len(found), found[-1]) == (number, steps)
    assert len({later - earlier for earlier, later in pairwise(found)}) <= 1
    assert found[0] > 0.9 * steps


def test_optimizers_come_back_as_they_were(tmp_path):
    settings = Pretrain(optimizer="muon", n_embd=8, n_head=2, context=16, batch_tokens=64, micro_batch=1)
    model, other = GPT(SMALL, 1), GPT(SMALL, 2)
    optimizers, others = build_optimizers(model, settings), build_optimizers(other, settings)
    ids = torch.arange(16)[None]
    for _ in range(2):
        model(ids, ids).backward()
        for optimizer in optimizers:
            optimizer.step()
    scaler = torch.amp.GradScaler("cpu", init_scale=3.0)
    scaler.scale(torch.ones(1))  # which gives it a state
    assert checkpoint.restore(tmp_path, other, others, scaler) == (0, [])  # nothing to go on from
    with checkpoint.CheckpointWriter(tmp_path, Checkpoint()) as writer:
        writer.save(1_234_567, model, optimizers, scaler, [{"step": 1}])  # more digits than a folder's name has
    scaler = torch.amp.GradScaler("cpu")
    assert checkpoint.restore(tmp_path, other, others, scaler) == (1_234_567, [{"step": 1}])
    assert scaler.get_scale() == 3.0
    for one, two in zip(optimizers, others, strict=True):
        torch.testing.assert_close(one.state_dict()["state"], two.state_dict()["state"], rtol=0, atol=0)
    torch.testing.assert_close(model.state_dict(), other.state_dict(), rtol=0, atol=0)


def test_training_goes_on_while_a_checkpoint_is_written(tmp_path):
    model, before = GPT(SMALL, 1), GPT(SMALL, 1)
    may_end, sent = Event(), []

    def slow_upload(folder):
        sent.append(folder.name)
        assert may_end.wait(10)

    with checkpoint.CheckpointWriter(tmp_path, Checkpoint(keep_last=2), slow_upload) as writer:
        writer.save(1, model, [], torch.amp.GradScaler("cpu"), [])
        with torch.no_grad():
            model.wte.weight.add_(1.0)  # what is written stays as it was when it was saved
        may_end.set()
        writer.save(2, model, [], torch.amp.GradScaler("cpu"), [])
    assert sent == ["step_000001", "step_000002"]
    for number, offset in ((1, 0.0), (2, 1.0)):
        written = load_file(tmp_path / f"step_{number:06d}" / "model.safetensors")
        torch.testing.assert_close(written["wte.weight"], before.wte.weight.detach() + offset)


def test_a_checkpoint_that_cannot_be_written_ends_training(tmp_path):
    def full(folder):
        raise OSError(28, "No space left on device")

    writer = checkpoint.CheckpointWriter(tmp_path, Checkpoint(), full)
    with pytest.raises(OSError, match="No space"), writer:
        writer.save(1, GPT(SMALL, 1), [], torch.amp.GradScaler("cpu"), [])


def test_checkpoints_beyond_step_999_999_are_found_in_order(tmp_path):
    """Seven digits: by name they would stand before six, or not be looked for."""
    for steps in (999_500, 1_000_000, 2_000_000):
        with step(tmp_path / f"step_{steps:06d}", checkpoint._fingerprint(steps)):
            pass
    assert checkpoint.checkpoint_steps(tmp_path) == [999_500, 1_000_000, 2_000_000]
