"""GPT-2 (Radford et al. 2019), alone: learned positions, pre-norm blocks, GELU tanh, tied embeddings.

    model = GPT(Config(vocab=877, n_layer=2, n_head=3, n_embd=96, context=64), seed=1)
    loss = model(inputs, targets)

The embedding has its rows padded to a multiple of 128 (defect R16); the rows beyond `vocab` never enter the softmax.
Same seed, same config: same weights, whatever the arm.
"""

import math
from collections import OrderedDict
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

_CHUNK = 512  # positions whose logits are in memory at once, of a large vocabulary on a CPU
_LARGE = 2_000_000  # weights of the embedding from which on chunks pay


@dataclass(frozen=True)
class Config:
    """Shape of a GPT-2. `vocab` is the number of real ids."""

    vocab: int
    n_layer: int
    n_head: int
    n_embd: int
    context: int

    @property
    def rows(self) -> int:
        """Rows of the embedding: `vocab` padded to a multiple of 128."""
        return -(-self.vocab // 128) * 128


class Attention(nn.Module):
    """Causal self-attention, (B, T, C) to the same: batch, time, n_embd."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.n_head = config.n_head
        self.c_attn = nn.Linear(config.n_embd, 3 * config.n_embd)
        self.c_proj = nn.Linear(config.n_embd, config.n_embd)

    def forward(self, x: Tensor) -> Tensor:
        batch, time, width = x.shape
        query, key, value = (
            part.view(batch, time, self.n_head, width // self.n_head).transpose(1, 2)  # (B, heads, T, C / heads)
            for part in self.c_attn(x).split(width, dim=2)
        )
        # one fused kernel, flash attention on a GPU: the (T, T) scores are never whole in memory
        y: Tensor = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        out: Tensor = self.c_proj(y.transpose(1, 2).reshape(batch, time, width))
        return out


class Block(nn.Module):
    """Attention, then two layers with GELU tanh between, four times as wide inside; each takes the normed stream and
    adds to it."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        width = config.n_embd
        self.ln_1 = nn.LayerNorm(width)
        self.attn = Attention(config)
        self.ln_2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(
            OrderedDict(
                c_fc=nn.Linear(width, 4 * width), gelu=nn.GELU(approximate="tanh"), c_proj=nn.Linear(4 * width, width)
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.ln_1(x))
        out: Tensor = x + self.mlp(self.ln_2(x))
        return out


def masked_loss(hidden: Tensor, head: Tensor, mask: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy of hidden states (N, C) and targets (N,): of the logits of all rows of the head (rows, C), `mask`
    (rows,) added to them."""
    return F.cross_entropy(F.linear(hidden, head) + mask, targets)


def chunked_loss(hidden: Tensor, head: Tensor, mask: Tensor, targets: Tensor) -> Tensor:
    """The same, of so many positions at a time that the logits are never whole."""
    if hasattr(F, "linear_cross_entropy"):
        # torch's own choice of a chunk costs a CPU thread 5 to 10 times plain cross-entropy; this one less than it
        options = nn.LinearCrossEntropyOptions(chunking_method=None, batch_chunk_size=_CHUNK, acc_policy="compact")
        return F.linear_cross_entropy(hidden, head, targets, linear_bias=mask, options=options)
    # PyTorch before 2.13, as clusters have it: each chunk's logits are computed once more for its gradient
    parts = [
        # its sum, as the last chunk may be shorter than the others
        checkpoint(masked_loss, some, head, mask, wanted, use_reentrant=False) * len(wanted)
        for some, wanted in zip(torch.split(hidden, _CHUNK), torch.split(targets, _CHUNK), strict=True)
    ]
    return torch.stack(parts).sum() / len(targets)


class GPT(nn.Module):
    """GPT-2 with tied embeddings; its parameters bear the names they have in transformers."""

    mask: Tensor

    def __init__(self, config: Config, seed: int, init: str = "normal") -> None:
        super().__init__()
        self.config = config
        self.wte = nn.Embedding(config.rows, config.n_embd)
        self.wpe = nn.Embedding(config.context, config.n_embd)
        self.h = nn.ModuleList(Block(config) for _ in range(config.n_layer))
        self.ln_f = nn.LayerNorm(config.n_embd)
        mask = torch.zeros(config.rows)
        mask[config.vocab :] = -1e30  # its exp is 0; not -inf, which times 0 is NaN
        # not persistent: a checkpoint holds what transformers' GPT-2 has, and nothing that follows from the shape
        self.register_buffer("mask", mask, persistent=False)
        # a generator of its own: the weights depend on the seed, not on what else was drawn in this process
        self._init_weights(torch.Generator().manual_seed(seed), init)

    @torch.no_grad()
    def _init_weights(self, generator: torch.Generator, init: str) -> None:
        """Normal 0.02, projections into the stream scaled by 1/sqrt(2 n_layer) or zero, biases zero, norms one."""
        for name, parameter in self.named_parameters():
            if parameter.ndim == 2:
                # 2 n_layer projections add to the residual stream: by this its variance does not grow with depth
                into_stream = name.endswith("c_proj.weight")
                std = 0.02 / math.sqrt(2 * self.config.n_layer) if into_stream else 0.02
                parameter.normal_(0, std, generator=generator)
                if into_stream and init == "zero_projections":
                    parameter.zero_()  # each block begins as the identity; the draws of the others stay as they are
            else:
                parameter.fill_(0 if name.endswith("bias") else 1)
        self.wte.weight[self.config.vocab :] = 0

    def hidden(self, ids: Tensor) -> Tensor:
        """Last hidden states (B, T, C) of ids (B, T)."""
        x = self.wte(ids) + self.wpe(torch.arange(ids.shape[1], device=ids.device))  # (B, T, C) + (T, C)
        for block in self.h:
            x = block(x)
        out: Tensor = self.ln_f(x)
        return out

    def logits(self, ids: Tensor) -> Tensor:
        """Logits (B, T, vocab); the padded rows are trimmed."""
        return F.linear(self.hidden(ids), self.wte.weight[: self.config.vocab])

    def forward(self, ids: Tensor, targets: Tensor) -> Tensor:
        """Mean cross-entropy in nats, a scalar, of targets (B, T); the padded rows stay out of the softmax.

        On a CPU they are cut off, or, of a large vocabulary, the logits are made, used and their gradient taken in
        chunks of positions: all of them together would be the largest tensor by far, and the gradient of a large part
        is costly. On a GPU the rows are masked: a compiled step passes over the logits once or twice, and whole rows
        keep its matrix products aligned."""
        hidden, head, targets = self.hidden(ids).flatten(0, 1), self.wte.weight, targets.flatten()  # (B T, C), (B T,)
        if head.device.type != "cpu":
            return masked_loss(hidden, head, self.mask, targets)
        if head.numel() <= _LARGE:
            return F.cross_entropy(F.linear(hidden, head[: self.config.vocab]), targets)
        return chunked_loss(hidden, head, self.mask, targets)
