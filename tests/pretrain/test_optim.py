"""Optimizers and schedules, against their formulas."""

import itertools
import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from tokentrial.pretrain import muon
from tokentrial.pretrain.gpt import GPT, Config
from tokentrial.pretrain.loader import Batch, Position
from tokentrial.pretrain.muon import Muon
from tokentrial.pretrain.optim import Step, lr_share, optimizers, set_rates
from tokentrial.pretrain.ranks import Ranks
from tokentrial.trial.settings import Pretrain

SHAPE = Config(vocab=621, n_layer=2, n_head=2, n_embd=32, context=16)


def settings(**changed):
    return Pretrain(**{"steps": 200, "warmup": 0.05, "min_lr": 0.1, **changed})


def shares(chosen):
    return [lr_share(step, chosen) for step in range(chosen.steps + 1)]


# schedules


@pytest.mark.parametrize("schedule", ["cosine", "wsd"])
def test_the_warm_up_is_linear_and_ends_at_the_peak(schedule):
    rates = shares(settings(schedule=schedule))
    # 5 % of 200 steps: ten equal steps up, the eleventh has the whole rate
    assert rates[:11] == pytest.approx([(step + 1) / 11 for step in range(11)])


def test_cosine_falls_from_the_peak_to_the_least_rate():
    rates = shares(settings(schedule="cosine"))
    assert max(rates) == rates[10] == 1
    assert rates[200] == pytest.approx(0.1)
    assert rates[105] == pytest.approx(0.55)  # half way, half of the fall
    for step in range(10, 201):  # Loshchilov & Hutter 2017, equation 5
        assert rates[step] == pytest.approx(0.1 + 0.9 * (1 + math.cos(math.pi * (step - 10) / 190)) / 2)


def test_the_reference_s_rates():
    """FACTS: lr 6e-4 to 6e-5 by cosine."""
    chosen = Pretrain(warmup=0.05)
    assert chosen.steps == 190
    assert chosen.lr * max(shares(chosen)) == pytest.approx(6e-4, rel=1e-3)
    assert chosen.lr * lr_share(190, chosen) == pytest.approx(6e-5)


@pytest.mark.parametrize("decay", [0.4, 0.1, 1.0])
def test_warm_up_stable_decay(decay):
    rates = shares(settings(schedule="wsd", decay=decay, min_lr=0, warmup=0))
    falls = round(decay * 200)
    assert rates[: 201 - falls] == pytest.approx([1] * (201 - falls))
    assert rates[200 - falls :] == pytest.approx([left / falls for left in range(falls, -1, -1)])


def test_warm_up_stable_decay_ends_at_the_least_rate():
    assert lr_share(200, settings(schedule="wsd", min_lr=0.1)) == pytest.approx(0.1)


@pytest.mark.parametrize("schedule", ["cosine", "wsd"])
@pytest.mark.parametrize(("steps", "warmup", "decay"), [(1, 0.0, 0.4), (1, 1.0, 1.0), (3, 0.5, 0.0), (7, 0.0, 0.0)])
def test_no_schedule_breaks_on_a_short_run(schedule, steps, warmup, decay):
    chosen = settings(schedule=schedule, steps=steps, warmup=warmup, decay=decay)
    assert all(0 < rate <= 1 for rate in shares(chosen)[:-1])


# optimizers


def stepped(chosen, gradient):
    """(before, after) of every parameter, for one step on gradients of this value; none is zero before."""
    model = GPT(SHAPE, seed=1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(0.5)
    made = optimizers(model, chosen)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, gradient)
    for optimizer in made:
        optimizer.step()
    return {name: (before[name], parameter.detach()) for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_weight_decay_falls_on_matrices_and_embeddings_only(optimizer):
    chosen = settings(optimizer=optimizer, weight_decay=0.1, lr=0.01, muon_lr=0.02)
    for name, (before, after) in stepped(chosen, 0.0).items():
        if before.ndim == 2:
            # decoupled decay (Loshchilov & Hutter 2019): w <- (1 - lr * decay) w, where the gradient is zero
            rate = 0.02 if optimizer == "muon" and name.startswith("h.") else 0.01
            torch.testing.assert_close(after, before * (1 - rate * 0.1), msg=name)
        else:
            assert torch.equal(after, before), name


def test_adamw_s_first_step_is_its_rate():
    """Kingma & Ba 2015: with bias correction the first step is lr * sign(gradient), whatever its size."""
    for name, (before, after) in stepped(settings(weight_decay=0.0, lr=0.01), 3.0).items():
        torch.testing.assert_close(before - after, torch.full_like(before, 0.01), rtol=1e-4, atol=0, msg=name)


def test_muon_is_for_the_blocks_matrices_and_every_parameter_has_one_optimizer():
    model = GPT(SHAPE, seed=1)
    made = optimizers(model, settings(optimizer="muon"))
    owners = {}
    for optimizer in made:
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                assert id(parameter) not in owners
                owners[id(parameter)] = type(optimizer).__name__
    for name, parameter in model.named_parameters():
        muon = name.startswith("h.") and parameter.ndim == 2
        assert ("Muon" in owners[id(parameter)]) == muon, name


@pytest.mark.parametrize("shape", [(32, 32), (96, 32), (32, 128)])
def test_muon_in_bf16_is_torch_s(monkeypatch, shape):
    """torch.optim.Muon iterates in bf16 everywhere; ours in fp32 on a CPU, so that is what is exchanged here."""
    monkeypatch.setattr(muon, "orthogonal_by_gram", lambda all_: muon.orthogonal([one.bfloat16() for one in all_]))
    generator = torch.Generator().manual_seed(0)
    weights = [torch.randn(shape, generator=generator) for _ in range(2)]
    ours, theirs = ([weight.clone() for weight in weights] for _ in range(2))
    pair = Muon(ours, lr=0.02, weight_decay=0.1), torch.optim.Muon(theirs, lr=0.02, weight_decay=0.1)
    for _ in range(3):
        for one, other in zip(ours, theirs, strict=True):
            one.grad = other.grad = torch.randn(shape, generator=generator)
        for optimizer in pair:
            optimizer.step()
    for one, other, weight in zip(ours, theirs, weights, strict=True):
        assert torch.equal(one, other)
        assert not torch.equal(one, weight)
    mine, torchs = (optimizer.state_dict()["state"] for optimizer in pair)
    assert {key: set(state) for key, state in mine.items()} == {key: set(state) for key, state in torchs.items()}
    assert all(torch.equal(mine[i]["momentum_buffer"], torchs[i]["momentum_buffer"]) for i in range(2))


@pytest.mark.parametrize("way", [muon.orthogonal, muon.orthogonal_by_gram])
def test_newton_schulz_is_its_polynomial_of_the_singular_values(way):
    """Jordan et al. 2024: x <- 3.4445 x - 4.7750 x^3 + 2.0315 x^5, five times, of each singular value over the norm."""
    matrix = torch.randn(24, 40, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    u, values, v = torch.linalg.svd(matrix, full_matrices=False)
    values = values / values.square().sum().sqrt()
    for _ in range(5):
        values = 3.4445 * values - 4.7750 * values**3 + 2.0315 * values**5
    others = [torch.eye(24, dtype=torch.float64), torch.eye(5, 7, dtype=torch.float64)]  # go through beside it
    torch.testing.assert_close(way([others[0], matrix, others[1]])[1], u @ torch.diag(values) @ v)


@pytest.mark.parametrize("infinite", ["wte.weight", "h.0.mlp.c_fc.weight"])
@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_an_infinity_in_one_optimizer_s_gradients_stops_the_step_of_both(infinite, value):
    """fp16 overflows now and then: the scaler then leaves the whole step out and lowers its scale."""
    model = GPT(SHAPE, seed=1)
    chosen = settings(optimizer="muon", dtype="fp16", context=16, batch_tokens=64, micro_batch=4, n_embd=32, n_head=2)
    ids = np.random.default_rng(0).integers(SHAPE.vocab, size=(4, 17))
    take = Step(model, lambda: Batch(ids[:, :-1], ids[:, 1:], Position(0, 0, "")), chosen, Ranks())
    take(1.0)  # momentum that a wrong step would go on with
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    scale = take.scaler.get_scale()
    hook = model.get_parameter(infinite).register_hook(lambda gradient: torch.full_like(gradient, value))
    take(1.0)
    hook.remove()
    assert all(torch.equal(before[name], parameter) for name, parameter in model.named_parameters())
    assert take.scaler.get_scale() == scale / 2
    take(1.0)
    assert not torch.equal(before["h.0.mlp.c_fc.weight"], model.get_parameter("h.0.mlp.c_fc.weight"))


def test_what_is_counted_as_read_is_what_was_trained_on():
    """On a GPU the loader is a batch ahead."""
    served = itertools.count(1)
    ids = np.zeros((4, 17), np.int64)
    chosen = settings(context=16, batch_tokens=64, micro_batch=4, n_embd=32, n_head=2)
    take = Step(
        GPT(SHAPE, seed=1), lambda: Batch(ids[:, :-1], ids[:, 1:], Position(next(served), 0, "")), chosen, Ranks()
    )
    take.ahead = ThreadPoolExecutor(1)
    for number in (1, 2, 3):
        take(1.0)
        assert take.position.documents == number


def test_muon_s_step_is_a_rotation_of_its_rate():
    """Jordan et al. 2024: the step's singular values all lie near lr (0.7 to 1.2 after five iterations), times
    sqrt(max(1, rows / columns))."""
    model = GPT(SHAPE, seed=1)
    made = optimizers(model, settings(optimizer="muon", muon_lr=0.02, weight_decay=0.0))
    weight = model.h[0].attn.c_proj.weight
    before = weight.detach().clone()
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator)
    for optimizer in made:
        optimizer.step()
    singular = torch.linalg.svdvals(before - weight.detach())
    assert singular[-5:].min() > 0.02 * 0.5
    assert singular.max() < 0.02 * 1.3


def test_rates_are_shares_of_each_group_s_peak():
    made = optimizers(GPT(SHAPE, seed=1), settings(optimizer="muon", lr=0.008, muon_lr=0.05))
    set_rates(made, 0.25)
    set_rates(made, 0.5)  # of the peak, not of the rate before
    rates = {type(optimizer).__name__: {group["lr"] for group in optimizer.param_groups} for optimizer in made}
    assert rates == {"AdamW": {0.004}, "Muon": {0.025}}


def test_betas_are_as_set():
    for optimizer in optimizers(GPT(SHAPE, seed=1), settings(betas=(0.8, 0.99))):
        assert {group["betas"] for group in optimizer.param_groups} == {(0.8, 0.99)}
