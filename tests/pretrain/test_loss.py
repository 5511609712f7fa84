"""The loss of padded rows, in chunks or masked, is cross-entropy over the real ids; its gradient too."""

import pytest
import torch
import torch.nn.functional as F

from tokentrial.pretrain import gpt
from tokentrial.pretrain.gpt import GPT, Config


def masked(model, ids, targets):
    """As a GPU computes it."""
    return gpt.masked_loss(model.hidden(ids).flatten(0, 1), model.wte.weight, model.mask, targets.flatten())


@pytest.mark.parametrize("way", ["chunked", "chunked without PyTorch's own", "masked"])
@pytest.mark.parametrize("rows", [1, 3, 5])
def test_the_loss_is_plain_cross_entropy_over_the_real_ids(monkeypatch, rows, way):
    """5 x 128 positions are more than one chunk of 512; 300 ids leave 84 of the 384 rows padded."""
    monkeypatch.setattr(gpt, "_LARGE", 0)
    if way == "chunked without PyTorch's own":  # as before 2.13
        monkeypatch.delattr(F, "linear_cross_entropy", raising=False)
    model = GPT(Config(300, 1, 2, 32, 128), 1)
    generator = torch.Generator().manual_seed(0)
    ids, targets = (torch.randint(300, (rows, 128), generator=generator) for _ in range(2))
    loss = (masked if way == "masked" else GPT.forward)(model, ids, targets)
    loss.backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    plain = F.cross_entropy(model.logits(ids).flatten(0, 1), targets.flatten())
    plain.backward()
    assert loss.item() == pytest.approx(plain.item(), rel=1e-6)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(gradients[name], parameter.grad, rtol=1e-4, atol=1e-7, msg=name)
    assert torch.count_nonzero(gradients["wte.weight"][300:]) == 0


def test_a_loss_curve_is_that_of_nanogpt_s_formulae():
    """20 steps of AdamW from the same weights and batches, GPT-2 written out with plain tensor operations."""
    torch.manual_seed(0)
    model = GPT(Config(97, 2, 2, 16, 24), 3)
    w = {name: p.detach().clone().requires_grad_() for name, p in model.named_parameters()}

    def layer_norm(x, name):
        centred = x - x.mean(-1, keepdim=True)
        scaled = centred / torch.sqrt(centred.square().mean(-1, keepdim=True) + 1e-5)
        return scaled * w[f"{name}.weight"] + w[f"{name}.bias"]

    def linear(x, name):
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    def formula(ids, targets):
        x = w["wte.weight"][ids] + w["wpe.weight"][: ids.shape[1]]
        for i in range(2):
            q, k, v = (
                part.reshape(*part.shape[:2], 2, 8).transpose(1, 2)
                for part in linear(layer_norm(x, f"h.{i}.ln_1"), f"h.{i}.attn.c_attn").split(16, -1)
            )
            scores, future = q @ k.transpose(-1, -2) / 8**0.5, torch.ones(24, 24).triu(1).bool()
            mixed = scores.masked_fill(future, -torch.inf).softmax(-1) @ v
            x = x + linear(mixed.transpose(1, 2).reshape(x.shape), f"h.{i}.attn.c_proj")
            inner = linear(layer_norm(x, f"h.{i}.ln_2"), f"h.{i}.mlp.c_fc")
            gelu = 0.5 * inner * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (inner + 0.044715 * inner**3)))
            x = x + linear(gelu, f"h.{i}.mlp.c_proj")
        logits = layer_norm(x, "ln_f") @ w["wte.weight"][:97].T
        return -logits.log_softmax(-1).gather(-1, targets[..., None]).mean()

    how = {"lr": 6e-4, "betas": (0.9, 0.95), "eps": 1e-8, "weight_decay": 0.0}
    pairs = [(torch.optim.AdamW(model.parameters(), **how), model), (torch.optim.AdamW(w.values(), **how), formula)]
    for _ in range(20):
        ids, losses = torch.randint(97, (4, 25)), []
        for optimizer, loss in pairs:
            value = loss(ids[:, :-1], ids[:, 1:])
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
            losses.append(value.item())
        assert losses[0] == pytest.approx(losses[1], abs=1e-4)
