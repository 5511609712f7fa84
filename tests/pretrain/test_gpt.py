"""GPT-2, held against transformers' own and against the original report's numbers (FACTS, section 1)."""

import math

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from tokentrial.pretrain.gpt import GPT, Config

SMALL = Config(vocab=621, n_layer=3, n_head=4, n_embd=64, context=32)
TRANSPOSED = (".c_attn.weight", ".c_proj.weight", ".c_fc.weight")  # GPT-2's Conv1D keeps [in, out]


def peer(model):
    """The same weights in transformers, converted here."""
    shape, drops = model.config, dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0)
    size = {"n_positions": shape.context, "n_embd": shape.n_embd, "n_layer": shape.n_layer, "n_head": shape.n_head}
    other = GPT2LMHeadModel(GPT2Config(vocab_size=shape.vocab, activation_function="gelu_new", **size, **drops)).eval()
    with torch.no_grad():
        for name, parameter in other.transformer.named_parameters():
            ours = model.get_parameter(name)
            parameter.copy_(ours.T if name.endswith(TRANSPOSED) else ours[: len(parameter)])
    return other


def unlike_the_start(model, seed=0):
    """Weights as of a trained model: none is at a value that hides an error, such as a bias of zero."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.1)
    return model


def ids_of(config, rows=3, seed=1):
    return torch.randint(config.vocab, (rows, config.context), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("config", [SMALL, Config(vocab=640, n_layer=1, n_head=1, n_embd=16, context=8)])
def test_logits_loss_and_gradients_are_those_of_transformers(config):
    model, ids = unlike_the_start(GPT(config, seed=1)), ids_of(config)
    other = peer(model)
    expected = other(ids, labels=ids)
    torch.testing.assert_close(model.logits(ids), expected.logits, atol=1e-4, rtol=1e-4)
    loss = model(ids[:, :-1], ids[:, 1:])
    torch.testing.assert_close(loss, expected.loss, atol=1e-5, rtol=1e-5)
    loss.backward()
    expected.loss.backward()
    for name, parameter in other.transformer.named_parameters():
        gradient = parameter.grad.T if name.endswith(TRANSPOSED) else parameter.grad
        ours = model.get_parameter(name).grad[: len(gradient)]
        torch.testing.assert_close(ours, gradient, atol=1e-5, rtol=1e-3, msg=name)


def test_the_padded_rows_never_enter_the_softmax():
    """Defect R16's cure must not change the model: 621 ids stand in 640 rows."""
    model, ids = GPT(SMALL, seed=1), ids_of(SMALL)
    assert (SMALL.rows, len(model.wte.weight)) == (640, 640)
    before, logits = model(ids[:, :-1], ids[:, 1:]), model.logits(ids)
    with torch.no_grad():
        model.wte.weight[SMALL.vocab :] = 1000.0
    after = model(ids[:, :-1], ids[:, 1:])
    assert after.item() == before.item()
    assert torch.equal(model.logits(ids), logits)
    after.backward()
    assert torch.count_nonzero(model.wte.weight.grad[SMALL.vocab :]) == 0


@pytest.mark.parametrize("vocab", [1, 127, 128, 129, 621, 50_349])
def test_rows_are_padded_to_the_next_multiple_of_128(vocab):
    rows = Config(vocab, 1, 1, 8, 8).rows
    assert rows % 128 == 0
    assert vocab <= rows < vocab + 128


def test_initial_weights_are_gpt2s():
    config = Config(vocab=2000, n_layer=4, n_head=2, n_embd=128, context=64)
    model = GPT(config, seed=1)
    for name, parameter in model.named_parameters():
        values = parameter.detach()[: config.vocab] if name == "wte.weight" else parameter.detach()
        if parameter.ndim == 2:
            # the reference: 0.02, and 0.02 / sqrt(2 n_layer) where a block writes into the stream
            std = 0.02 / math.sqrt(2 * 4) if name.endswith("c_proj.weight") else 0.02
            deviation = std / math.sqrt(2 * values.numel())  # of a sample's standard deviation
            assert abs(values.std().item() - std) < 5 * deviation, name
            assert abs(values.mean().item()) < 5 * std / math.sqrt(values.numel()), name
        elif name.endswith("bias"):
            assert torch.count_nonzero(values) == 0, name
        else:
            assert torch.equal(values, torch.ones_like(values)), name


def test_the_same_seed_gives_the_same_weights_whatever_went_before():
    torch.manual_seed(1)
    first = GPT(SMALL, seed=7).state_dict()
    torch.manual_seed(2)
    torch.rand(10)
    again, other = GPT(SMALL, seed=7).state_dict(), GPT(SMALL, seed=8).state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["wte.weight"], other["wte.weight"])
