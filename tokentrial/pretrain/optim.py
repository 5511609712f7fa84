"""Optimizers and schedules: AdamW as in the reference, or Muon on the matrices and AdamW on the rest."""

import math

import torch

from tokentrial.pretrain.gpt import GPT
from tokentrial.settings import Pretrain


def optimizers(model: GPT, settings: Pretrain) -> list[torch.optim.Optimizer]:
    """The optimizers of a model, their peak rate kept in each group as `peak_lr`.

    `adamw`: one AdamW, weight decay on matrices and embeddings only (GPT-2's way in nanoGPT). `muon`: torch's Muon
    (Jordan et al. 2024) on the matrices of the blocks, AdamW on embeddings, biases and norms.
    """
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and name.startswith("h.")]
    embeddings = [model.wte.weight, model.wpe.weight]
    vectors = [p for p in model.parameters() if p.ndim < 2]
    decayed = embeddings if settings.optimizer == "muon" else [*matrices, *embeddings]
    adamw = torch.optim.AdamW(
        [
            {"params": decayed, "weight_decay": settings.weight_decay},
            {"params": vectors, "weight_decay": 0.0},
        ],
        lr=settings.lr,
        betas=settings.betas,
        eps=1e-8,
        fused=True,
    )
    made: list[torch.optim.Optimizer] = [adamw]
    if settings.optimizer == "muon":
        made.append(torch.optim.Muon(matrices, lr=settings.muon_lr, weight_decay=settings.weight_decay))
    for optimizer in made:
        for group in optimizer.param_groups:
            group["peak_lr"] = group["lr"]
    return made


def lr_share(step: int, settings: Pretrain) -> float:
    """Share of the peak rate at a step: linear warm-up, then cosine (Loshchilov & Hutter 2017) to `min_lr`, or flat
    and a linear fall over the last `decay` of the steps (warm-up-stable-decay, Hu et al. 2024)."""
    warmup = settings.warmup * settings.steps
    if step < warmup:
        return (step + 1) / (warmup + 1)
    if settings.schedule == "cosine":
        progress = (step - warmup) / max(1.0, settings.steps - warmup)
        return settings.min_lr + (1 - settings.min_lr) * 0.5 * (1 + math.cos(math.pi * progress))
    left = (settings.steps - step) / max(1.0, settings.decay * settings.steps)
    return settings.min_lr + (1 - settings.min_lr) * min(1.0, left)


def set_rates(made: list[torch.optim.Optimizer], share: float) -> None:
    """Set every group's rate to `share` of its peak."""
    for optimizer in made:
        for group in optimizer.param_groups:
            group["lr"] = group["peak_lr"] * share
