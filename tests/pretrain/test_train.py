"""Pretraining of one cell: what is the same in every arm, what may differ by machine, and what is written down."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tokentrial.corpus.stream import Stream
from tokentrial.errors import TrialError
from tokentrial.pretrain import train
from tokentrial.pretrain.export import load_gpt
from tokentrial.pretrain.loader import Loader
from tokentrial.pretrain.train import pretrain
from tokentrial.trial.settings import Pretrain

STEPS = 5


@pytest.fixture
def cell(plan, tmp_path):
    """`cell(name, arm, seed, **settings)`: the folder of one trained cell of the tiny corpus."""

    def make(name, arm="baseline", seed=1, probe=None, progress=None, **changed):
        settings = plan.trial.pretrain.model_dump() | {"steps": STEPS, "batch_tokens": 1024, "micro_batch": 16}
        folder = tmp_path / name
        folder.mkdir()
        stream = Stream.of(plan.trial, plan.folder, plan.vocabulary, arm, seed)
        pretrain(folder, stream, Pretrain(**settings | {"log_every": 1} | changed), probe, progress)
        return folder

    return make


def results(folder):
    return json.loads((folder / "results.json").read_bytes())


def metrics(folder):
    """The records of training steps."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_bytes().splitlines()]
    return [line for line in lines if "loss" in line]


def weights(folder):
    [path] = folder.glob("*.safetensors")
    return load_file(path)


def test_a_cell_learns(cell):
    losses = results(cell("a", steps=20))["train_losses"]
    assert losses[0] == pytest.approx(math.log(621), rel=0.02)  # at the start it knows nothing
    assert losses[-1] < losses[0] - 1


def test_the_same_run_again_has_the_same_losses_bit_for_bit(cell):
    first, again = cell("first"), cell("again")
    assert results(first)["train_losses"] == results(again)["train_losses"]
    assert results(first)["val_losses"] == results(again)["val_losses"]
    assert (first / f"model_{STEPS - 1:05d}.safetensors").read_bytes() == (
        again / f"model_{STEPS - 1:05d}.safetensors"
    ).read_bytes()


def test_another_seed_has_other_weights_and_losses(cell):
    assert results(cell("a", seed=1))["train_losses"] != results(cell("b", seed=2))["train_losses"]


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_every_arm_starts_from_the_same_weights(cell, optimizer):
    """A step of 1e-30 is too small for fp32: it leaves the weights as they began, biases of zero aside."""
    still = {"optimizer": optimizer, "steps": 1, "lr": 1e-30, "muon_lr": 1e-30, "weight_decay": 0.0}
    arms = [weights(cell(arm, arm, **still)) for arm in ("baseline", "mul_tokens", "mul_append")]
    for other in arms[1:]:
        assert all(torch.allclose(arms[0][name], other[name], rtol=0, atol=1e-28) for name in arms[0])
    assert not torch.allclose(arms[0]["wte.weight"], weights(cell("other", seed=2, **still))["wte.weight"])


def test_what_is_accumulated_is_one_batch(cell):
    """micro_batch says how a step is computed, not what it is: losses and gradient norms agree to fp32."""
    gentle = {"optimizer": "adamw", "lr": 1e-3}
    whole, quarters = cell("whole", micro_batch=16, **gentle), cell("quarters", micro_batch=4, **gentle)
    for a, b in zip(metrics(whole), metrics(quarters), strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-4)
        assert a["norm"] == pytest.approx(b["norm"], rel=1e-3)
    assert metrics(whole)[0]["loss"] == pytest.approx(metrics(quarters)[0]["loss"], rel=1e-6)


def test_the_first_loss_is_that_of_the_first_batch(cell, plan):
    """Independent of the training loop: the initial model on the stream's first tokens."""
    settings = {"steps": 1, "lr": 1e-30, "muon_lr": 1e-30, "weight_decay": 0.0}
    folder = cell("still", "mul_tokens", 2, **settings)
    stream = Stream.of(plan.trial, plan.folder, plan.vocabulary, "mul_tokens", 2)
    ids = np.empty(0, np.int64)
    for document in stream.documents():
        ids = np.concatenate([ids, document.ids])
        if len(ids) > 1024:
            break
    model = load_gpt(folder)
    x, y = torch.from_numpy(ids[:1024]).view(16, 64), torch.from_numpy(ids[1:1025]).view(16, 64)
    logprobs = model.logits(x).log_softmax(-1)
    expected = -logprobs.gather(2, y[..., None]).mean().item()
    assert results(folder)["train_losses"] == pytest.approx([expected], rel=1e-5)


def test_each_step_takes_the_gradient_of_its_own_batch(cell, plan):
    """Independent of the training loop: weights that stay as they began, their gradient on each batch alone."""
    folder = cell("still", steps=3, lr=1e-30, muon_lr=1e-30, weight_decay=0.0)
    loader = Loader(Stream.of(plan.trial, plan.folder, plan.vocabulary, "baseline", 1), 16, 64)
    model, norms = load_gpt(folder), []
    for _ in range(3):
        x, y = map(torch.from_numpy, loader.next()[:2])
        model.zero_grad()
        loss = torch.nn.functional.cross_entropy(model.logits(x).flatten(0, 1), y.flatten())
        loss.backward()
        norms.append(torch.sqrt(sum((p.grad**2).sum() for p in model.parameters())).item())
    assert [m["norm"] for m in metrics(folder)] == pytest.approx(norms, rel=1e-4)


def test_gradients_are_clipped_to_their_norm(cell):
    """With AdamW's second moment out of play, clipping to a tenth of the norm is another run than not clipping."""
    loose, tight = metrics(cell("loose", clip=1e9)), metrics(cell("tight", clip=1e-4))
    assert loose[0]["norm"] == tight[0]["norm"] > 0.1  # the norm before clipping is what is written down
    assert [m["loss"] for m in loose] != [m["loss"] for m in tight]


def test_results_json_has_the_reference_s_fields(cell):
    found = results(cell("a", "mul_tokens", 2))
    assert found["condition"] == "mul_tokens"
    assert found["seed"] == 2
    assert found["vocab_size"] == 576 + 45
    assert found["total_steps"] == STEPS
    assert found["total_tokens"] == STEPS * 1024
    assert found["gpt_config"] == {"block_size": 64, "vocab_size": 621, "n_layer": 1, "n_head": 2, "n_embd": 32}
    # 12 n^2 + 13 n a block, two embeddings, a last norm
    assert found["num_params"] == 12 * 32**2 + 13 * 32 + (621 + 64) * 32 + 2 * 32
    assert found["config"]["lr"] == 0.008
    assert len(found["train_losses"]) == STEPS
    assert found["final_train_loss"] == found["train_losses"][-1]
    assert found["final_val_loss"] == found["val_losses"][-1]


def test_the_rows_beyond_the_vocabulary_stay_zero(cell):
    assert torch.count_nonzero(weights(cell("a"))["wte.weight"][621:]) == 0


def test_losses_are_logged_every_so_often_and_at_the_end(cell):
    steps = [m["step"] for m in metrics(cell("a", steps=8, log_every=3))]
    assert steps == [0, 3, 6, 7]


def test_the_logged_rate_follows_the_schedule(cell):
    rates = [m["lr"] for m in metrics(cell("a", steps=10, schedule="wsd", warmup=0.0, decay=0.5, lr=0.01))]
    assert rates == pytest.approx([0.01] * 6 + [0.008, 0.006, 0.004, 0.002])


def test_a_loss_that_is_no_number_stops_with_the_setting_to_lower(cell, tmp_path):
    with pytest.raises(TrialError, match=r"the loss is (nan|inf) at step [0-9]+, after shard .* lower pretrain\.lr"):
        cell("a", optimizer="adamw", lr=1e30, warmup=0.0, steps=8)
    assert not (tmp_path / "a" / "results.json").exists()


def test_probes_are_asked_evenly_and_at_the_end(cell):
    asked = []

    def probe(step, model):
        asked.append(step)
        return {"asked": 0.5}

    folder = cell("a", steps=20, probes=10, log_every=20, probe=probe)
    assert asked == list(range(2, 21, 2))
    curve = results(folder)["curve"]
    assert [point["step"] for point in curve] == asked
    assert [point["tokens"] for point in curve] == [step * 1024 for step in asked]
    assert all(point["asked"] == 0.5 for point in curve)


def test_a_probe_changes_nothing_of_the_training(cell):
    def probe(step, model):
        torch.rand(3)
        return {}

    assert results(cell("a"))["train_losses"] == results(cell("b", probe=probe, probes=5))["train_losses"]


def test_no_probes_where_none_are_asked_for(cell):
    folder = cell("a", probes=0, probe=lambda step, model: pytest.fail("asked"))
    assert results(folder)["curve"] == []


def test_progress_ends_at_one(cell):
    told = []
    cell("a", progress=lambda share, text: told.append(share))
    assert told == sorted(told)
    assert told[-1] == 1.0


def test_the_arms_read_the_same_text_and_differ_in_how_much(cell):
    read = {arm: results(cell(arm, arm, steps=20)) for arm in ("baseline", "mul_tokens", "mul_append")}
    documents = {arm: found["documents"] for arm, found in read.items()}
    assert documents["mul_append"] < documents["baseline"] < documents["mul_tokens"]
    assert {found["total_tokens"] for found in read.values()} == {20 * 1024}


def test_text_that_runs_out_is_an_error_and_no_result(cell, plan, tmp_path, monkeypatch):
    of = Stream.of
    monkeypatch.setattr(train.Stream, "of", lambda *given: replace(of(*given), share=0.0))
    with pytest.raises(TrialError, match="ran out"):
        cell("a", steps=200)
    assert not (tmp_path / "a" / "results.json").exists()
