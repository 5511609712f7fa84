"""Pretraining of one cell: what is the same in every arm, what may differ by machine, and what is written down."""

import math
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from tests.pretrain.conftest import STEPS, metrics, results
from tokentrial.corpus.stream import Stream
from tokentrial.errors import TrialError
from tokentrial.pretrain.export import load_gpt
from tokentrial.pretrain.gpt import GPT
from tokentrial.pretrain.loader import Loader

STILL = {"lr": 1e-30, "muon_lr": 1e-30, "weight_decay": 0.0}  # steps too small for fp32: weights stay as they began


def losses(folder):
    return results(folder)["train_losses"]


def test_a_cell_learns(train, tmp_path):
    first, *_, last = losses(train(tmp_path / "a", steps=20))
    assert first == pytest.approx(math.log(621), rel=0.02)  # at the start it knows nothing
    assert last < first - 1


def test_the_same_run_again_is_the_same_bit_for_bit_and_no_probe_changes_it(train, trained, tmp_path):
    again = train(tmp_path / "a", "mul_tokens", seed=2, probe=lambda step, model: {"drawn": float(torch.rand(1))})
    assert (losses(again), results(again)["val_losses"]) == (losses(trained), results(trained)["val_losses"])
    [name] = (path.name for path in trained.glob("model_*"))
    assert (again / name).read_bytes() == (trained / name).read_bytes()
    assert losses(train(tmp_path / "other", "mul_tokens", seed=1)) != losses(trained)


@pytest.mark.parametrize("arm", ["baseline", "mul_tokens"])
def test_every_arm_starts_from_the_seed_s_weights_and_each_step_has_its_own_batch(train, plan, tmp_path, arm):
    """Independent of the training loop: loss and gradient of the initial weights on each batch of the stream."""
    folder = train(tmp_path / "still", arm, 2, steps=3, **STILL)
    loader = Loader(Stream.of(plan.trial, plan.folder, plan.vocabulary, arm, 2), 16, 64)
    model = GPT(load_gpt(folder).config, seed=2)
    for record in metrics(folder):
        x, y = map(torch.from_numpy, loader.next()[:2])
        model.zero_grad()
        loss = F.cross_entropy(model.logits(x).flatten(0, 1), y.flatten())
        loss.backward()
        norm = torch.sqrt(sum((p.grad**2).sum() for p in model.parameters()))
        assert (record["loss"], record["norm"]) == pytest.approx((loss.item(), norm.item()), rel=1e-4)
    for name, parameter in load_gpt(folder).named_parameters():
        torch.testing.assert_close(parameter, model.get_parameter(name), rtol=0, atol=1e-28)


def test_what_is_accumulated_is_one_batch(train, tmp_path):
    """micro_batch says how a step is computed, not what it is: losses and gradient norms agree to fp32."""
    whole, quarters = (metrics(train(tmp_path / str(n), micro_batch=n, optimizer="adamw", lr=1e-3)) for n in (16, 4))
    for a, b in zip(whole, quarters, strict=True):
        assert (a["loss"], a["norm"]) == pytest.approx((b["loss"], b["norm"]), rel=1e-3)
    assert whole[0]["loss"] == pytest.approx(quarters[0]["loss"], rel=1e-6)


def test_gradients_are_clipped_and_the_norm_before_is_written_down(train, tmp_path):
    loose, tight = (metrics(train(tmp_path / str(clip), grad_clip=clip)) for clip in (1e9, 1e-4))
    assert loose[0]["norm"] == tight[0]["norm"] > 0.1
    assert loose[-1]["loss"] != tight[-1]["loss"]


def test_what_a_cell_writes_down(train, tmp_path):
    asked, shares = [], []

    def probe(step, model):
        asked.append(step)
        return {"asked": 0.5}

    rate = {"schedule": "wsd", "warmup_ratio": 0.0, "decay_ratio": 0.5, "lr": 0.01}
    folder = train(tmp_path / "a", "mul_tokens", 2, probe, lambda s, text: shares.append(s), steps=10, probes=5,
                   log_every=3, **rate)  # fmt: skip
    found, logged = results(folder), metrics(folder)
    assert [record["step"] for record in logged] == [0, 3, 6, 9]  # every so often and at the end
    assert [record["lr"] for record in logged] == pytest.approx([0.01, 0.01, 0.008, 0.002])
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
    assert asked == [2, 4, 6, 8, 10]
    assert found["curve"] == [{"step": step, "tokens": step * 1024, "asked": 0.5} for step in asked]
    # the original report's fields
    assert (found["condition"], found["seed"], found["vocab_size"]) == ("mul_tokens", 2, 576 + 45)
    assert (found["total_steps"], found["total_tokens"]) == (10, 10 * 1024)
    assert found["gpt_config"] == {"block_size": 64, "vocab_size": 621, "n_layer": 1, "n_head": 2, "n_embd": 32}
    # 12 n^2 + 13 n a block, two embeddings, a last norm
    assert found["num_params"] == 12 * 32**2 + 13 * 32 + (621 + 64) * 32 + 2 * 32
    assert found["config"]["lr"] == 0.01
    assert found["train_losses"] == [record["loss"] for record in logged]
    assert found["final_train_loss"] == found["train_losses"][-1]
    assert found["final_val_loss"] == found["val_losses"][-1]


def test_the_rows_beyond_the_vocabulary_stay_zero(trained):
    assert torch.count_nonzero(load_gpt(trained).wte.weight[621:]) == 0


@pytest.mark.parametrize("lr", [1e30, 1e4])
def test_a_loss_that_is_no_number_stops_with_the_setting_to_lower(train, tmp_path, lr):
    explodes = (
        r"the loss is .* at step [0-9]+, after shard \w+ [0-9]+, document [0-9]+; .*checkpoint.* lower pretrain\.lr"
    )
    with pytest.raises(TrialError, match=explodes):
        train(tmp_path / "a", optimizer="adamw", lr=lr, warmup_ratio=0.0, steps=STEPS + 3)
    assert not (tmp_path / "a" / "results.json").exists()


def test_too_little_memory_or_disk_is_said_before_the_first_step(train, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("tokentrial.pretrain.train.psutil.virtual_memory", lambda: SimpleNamespace(available=1_000_000))
        with pytest.raises(
            TrialError, match=r"parameters need .* GB for weights, gradients and moments alone, but 0\.0 GB"
        ):
            train(tmp_path / "a", n_embd=128)
    monkeypatch.setattr("tokentrial.store.disk.shutil.disk_usage", lambda path: SimpleNamespace(free=10_000))
    with pytest.raises(TrialError, match=r"the checkpoints of pretraining needs .* GB are free"):
        train(tmp_path / "a", stop=bool, checkpoint={"interval": 3})
