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
from tokentrial.pretrain.optim import TrainStep, build_optimizers, lr_scale
from tokentrial.pretrain.ranks import Ranks
from tokentrial.trial.pretraining import Pretrain

SHAPE = Config(vocab=621, n_layer=2, n_head=2, n_embd=32, context=16)


def settings(**changed):
    return Pretrain(**{"steps": 200, "warmup_ratio": 0.05, "min_lr_ratio": 0.1, **changed})


def scales(chosen):
    return [lr_scale(step, chosen) for step in range(chosen.steps + 1)]


def train_step(next_batch=None, **changed):
    """A TrainStep of a small model on batches of 4 x 16 random ids."""
    ids = np.random.default_rng(0).integers(SHAPE.vocab, size=(4, 17))
    batch = Batch(ids[:, :-1], ids[:, 1:], Position(0, 0, ""))
    chosen = settings(context=16, batch_tokens=64, micro_batch=4, n_embd=32, n_head=2, **changed)
    return TrainStep(GPT(SHAPE, seed=1), next_batch or (lambda: batch), chosen, Ranks())


# schedules


@pytest.mark.parametrize("schedule", ["cosine", "wsd"])
def test_the_warm_up_is_linear_and_ends_at_the_peak(schedule):
    # 5 % of 200 steps: ten equal steps up, the eleventh has the whole rate
    assert scales(settings(schedule=schedule))[:11] == pytest.approx([(step + 1) / 11 for step in range(11)])


def test_cosine_falls_from_the_peak_to_the_least_rate():
    """Loshchilov & Hutter 2017, equation 5; FACTS: the original report's rates are 6e-4 to 6e-5."""
    for step, scale in enumerate(scales(settings(schedule="cosine"))[10:]):
        assert scale == pytest.approx(0.1 + 0.9 * (1 + math.cos(math.pi * step / 190)) / 2)
    reference = Pretrain(warmup_ratio=0.05)
    assert reference.steps == 190
    assert reference.lr * max(scales(reference)) == pytest.approx(6e-4, rel=1e-3)
    assert reference.lr * lr_scale(190, reference) == pytest.approx(6e-5)


@pytest.mark.parametrize("decay", [0.4, 0.1, 1.0])
def test_warm_up_stable_decay(decay):
    found, falls = (
        scales(settings(schedule="wsd", decay_ratio=decay, min_lr_ratio=0, warmup_ratio=0)),
        round(decay * 200),
    )
    assert found[: 201 - falls] == pytest.approx([1] * (201 - falls))
    assert found[200 - falls :] == pytest.approx([left / falls for left in range(falls, -1, -1)])
    assert lr_scale(200, settings(schedule="wsd", decay_ratio=decay)) == pytest.approx(0.1)  # min_lr_ratio


@pytest.mark.parametrize("schedule", ["cosine", "wsd"])
@pytest.mark.parametrize(("steps", "warmup", "decay"), [(1, 0.0, 0.4), (1, 1.0, 1.0), (3, 0.5, 0.0), (7, 0.0, 0.0)])
def test_no_schedule_breaks_on_a_short_run(schedule, steps, warmup, decay):
    chosen = settings(schedule=schedule, steps=steps, warmup_ratio=warmup, decay_ratio=decay)
    assert all(0 < scale <= 1 for scale in scales(chosen)[:-1])


# optimizers


def stepped(chosen, gradient):
    """(before, after) of every parameter, for one step on gradients of this value; none is zero before."""
    model = GPT(SHAPE, seed=1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(0.5)
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, gradient)
    for optimizer in build_optimizers(model, chosen):
        optimizer.step()
    return {name: (torch.full_like(after, 0.5), after.detach()) for name, after in model.named_parameters()}


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
    step = train_step(optimizer="muon", lr=0.008, muon_lr=0.05, betas=(0.8, 0.99))
    names = {id(parameter): name for name, parameter in step.model.named_parameters()}
    groups = [(type(o).__name__, group) for o in step.optimizers for group in o.param_groups]
    owned = [(names[id(p)], kind) for kind, group in groups for p in group["params"]]
    assert len(owned) == len(names)
    for name, kind in owned:
        assert (kind == "Muon") == (name.startswith("h.") and step.model.get_parameter(name).ndim == 2), name
    step(0.25)
    step(0.5)  # of each group's peak, not of the rate before
    assert {(kind, group["lr"]) for kind, group in groups} == {("AdamW", 0.004), ("Muon", 0.025)}
    assert {group["betas"] for kind, group in groups if kind == "AdamW"} == {(0.8, 0.99)}


@pytest.mark.parametrize("shape", [(32, 32), (96, 32), (32, 128)])
def test_muon_in_bf16_is_torch_s(monkeypatch, shape):
    """torch.optim.Muon iterates in bf16 everywhere; ours in fp32 on a CPU, so that is what is replaced here."""
    monkeypatch.setattr(muon, "newton_schulz_gram", lambda all_: muon.newton_schulz([x.bfloat16() for x in all_]))
    generator = torch.Generator().manual_seed(0)
    weights = [torch.randn(shape, generator=generator) for _ in range(2)]
    weights_of_ours, torch_weights = ([weight.clone() for weight in weights] for _ in range(2))
    pair = Muon(weights_of_ours, lr=0.02, weight_decay=0.1), torch.optim.Muon(torch_weights, lr=0.02, weight_decay=0.1)
    for _ in range(3):
        for one, other in zip(weights_of_ours, torch_weights, strict=True):
            one.grad = other.grad = torch.randn(shape, generator=generator)
        for optimizer in pair:
            optimizer.step()
    assert not torch.equal(weights_of_ours[0], weights[0])
    torch.testing.assert_close(weights_of_ours, torch_weights, rtol=0, atol=0)
    states = [optimizer.state_dict()["state"] for optimizer in pair]
    torch.testing.assert_close(*states, rtol=0, atol=0)


@pytest.mark.parametrize("way", [muon.newton_schulz, muon.newton_schulz_gram])
def test_newton_schulz_is_its_polynomial_of_the_singular_values(way):
    """Jordan et al. 2024: x <- 3.4445 x - 4.7750 x^3 + 2.0315 x^5, five times, of each singular value over the norm."""
    matrix = torch.randn(24, 40, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    u, values, v = torch.linalg.svd(matrix, full_matrices=False)
    values = values / values.square().sum().sqrt()
    for _ in range(5):
        values = 3.4445 * values - 4.7750 * values**3 + 2.0315 * values**5
    others = [torch.eye(24, dtype=torch.float64), torch.eye(5, 7, dtype=torch.float64)]  # in the same call
    torch.testing.assert_close(way([others[0], matrix, others[1]])[1], u @ torch.diag(values) @ v)


def test_muon_s_step_has_singular_values_near_its_rate():
    """Jordan et al. 2024: 0.7 to 1.2 of lr after five iterations, times sqrt(max(1, rows / columns))."""
    weight = torch.zeros(96, 32)
    weight.grad = torch.randn(96, 32, generator=torch.Generator().manual_seed(0))
    Muon([weight], lr=0.02, weight_decay=0.0).step()
    singular = torch.linalg.svdvals(weight) / (0.02 * 3**0.5)
    assert 0.5 < singular.min() <= singular.max() < 1.3


@pytest.mark.parametrize("infinite", ["wte.weight", "h.0.mlp.c_fc.weight"])
@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_an_infinity_in_one_optimizer_s_gradients_stops_the_step_of_both(infinite, value):
    """fp16 overflows now and then: the scaler then leaves the whole step out and lowers its scale."""
    step = train_step(optimizer="muon", dtype="fp16")
    step(1.0)  # momentum that a wrong step would go on with
    before = {name: parameter.detach().clone() for name, parameter in step.model.named_parameters()}
    scale = step.scaler.get_scale()
    hook = step.model.get_parameter(infinite).register_hook(lambda gradient: torch.full_like(gradient, value))
    step(1.0)
    hook.remove()
    torch.testing.assert_close(before, {n: p.detach() for n, p in step.model.named_parameters()}, rtol=0, atol=0)
    assert step.scaler.get_scale() == scale / 2
    step(1.0)
    assert not torch.equal(before["h.0.mlp.c_fc.weight"], step.model.get_parameter("h.0.mlp.c_fc.weight"))


def test_what_is_counted_as_read_is_what_was_trained_on():
    """On a GPU the loader is a batch ahead."""
    served, ids = itertools.count(1), np.zeros((4, 16), np.int64)
    step = train_step(lambda: Batch(ids, ids, Position(next(served), 0, "")))
    step.prefetcher = ThreadPoolExecutor(1)
    for number in (1, 2, 3):
        step(1.0)
        assert step.position.documents == number
