"""The optimizer step: AdamW as in the reference, or Muon on the matrices and AdamW on the rest; schedules; one step."""

import math
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from tokentrial.pretrain.device import resolve_dtype
from tokentrial.pretrain.gpt import GPT
from tokentrial.pretrain.loader import Batch, Position
from tokentrial.pretrain.muon import Muon
from tokentrial.pretrain.ranks import Ranks
from tokentrial.trial.settings import Pretrain


def optimizers(model: GPT, settings: Pretrain) -> list[torch.optim.Optimizer]:
    """The optimizers of a model, their peak rate kept in each group as `peak_lr`.

    `adamw`: one AdamW, weight decay on matrices and embeddings only (GPT-2's way in nanoGPT). `muon`: Muon on the
    matrices of the blocks, AdamW on embeddings, biases and norms.
    """
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and name.startswith("h.")]
    embeddings = [model.wte.weight, model.wpe.weight]
    vectors = [p for p in model.parameters() if p.ndim < 2]
    muon, decay = settings.optimizer == "muon", settings.weight_decay
    decayed = embeddings if muon else [*matrices, *embeddings]
    groups = [{"params": decayed, "weight_decay": decay}, {"params": vectors, "weight_decay": 0.0}]
    made: list[torch.optim.Optimizer] = [
        torch.optim.AdamW(groups, lr=settings.lr, betas=settings.betas, eps=1e-8, fused=True)
    ]
    if muon:
        made.append(Muon(matrices, lr=settings.muon_lr, weight_decay=decay))
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


class Joint:
    """The optimizers of a model as GradScaler asks one of them. It keeps what it found of infinities by optimizer; one
    that found none would step on gradients that the joint clip has made zero or NaN by an infinity in the other's."""

    def __init__(self, members: Sequence[torch.optim.Optimizer]) -> None:
        self.members = members

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        return [group for optimizer in self.members for group in optimizer.param_groups]

    def step(self) -> None:
        for optimizer in self.members:
            optimizer.step()


class Step:
    """Takes optimizer steps: gradients of the mean loss of the batch that `following` gives, of the whole group of
    ranks, `micro_batch` rows of each rank at a time. `position` is how far in the text the batches that were taken go:
    the loader itself may be a batch ahead."""

    def __init__(self, model: GPT, following: Callable[[], Batch], settings: Pretrain, ranks: Ranks) -> None:
        self.following, self.settings, self.ranks = following, settings, ranks
        self.optimizers, self.parameters = optimizers(model, settings), list(model.parameters())
        self.joint: Any = Joint(self.optimizers)
        self.position = Position(0, 0, "the beginning")
        self.rows, self.micro_batch = ranks.rows(settings.batch_tokens // settings.context, settings.micro_batch)
        device, dtype = ranks.device.type, resolve_dtype(settings)
        # the model itself stays as it is: validation and probes ask it with other shapes, each to be compiled anew
        trained: Any = torch.compile(model) if settings.compiles(device, model.config.vocab) else model
        self.model = ranks.wrap(trained)
        kinds = {"bf16": torch.bfloat16, "fp16": torch.float16}
        self.autocast = torch.autocast(device, kinds[dtype]) if dtype in kinds else nullcontext()
        self.scaler = torch.amp.GradScaler(device, enabled=dtype == "fp16")
        # on a GPU the next batch is made while this one is computed; on a CPU it would only take from the same cores
        self.ahead = ThreadPoolExecutor(1) if device == "cuda" else None
        self.coming: Future[Batch] | None = None

    def __call__(self, share: float) -> tuple[torch.Tensor, torch.Tensor]:
        """Take a step at a share of the peak rates. Returns this rank's mean loss and the norm of the gradient before
        it was clipped."""
        set_rates(self.optimizers, share)
        inputs, targets, self.position = self._next()
        parts = len(self.rows) // self.micro_batch
        total = torch.zeros((), device=self.ranks.device)
        for part in range(parts):
            first = self.rows.start + part * self.micro_batch
            x, y = (self._there(side[first : first + self.micro_batch]) for side in (inputs, targets))
            waits = self.ranks.world > 1 and part + 1 < parts
            no_sync: Any = self.model.no_sync if waits else nullcontext
            with no_sync(), self.autocast:
                loss: torch.Tensor = self.model(x, y) / parts
                self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
            total += loss.detach()
        self.scaler.unscale_(self.joint)
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, self.settings.clip)
        self.scaler.step(self.joint)
        self.scaler.update()
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
        return total, norm

    def _next(self) -> Batch:
        if self.ahead is None:
            return self.following()
        batch = self.coming.result() if self.coming else self.following()
        self.coming = self.ahead.submit(self.following)
        return batch

    def _there(self, side: NDArray[np.int64]) -> torch.Tensor:
        tensor = torch.from_numpy(side)
        if self.ranks.device.type != "cuda":
            return tensor
        return tensor.pin_memory().to(self.ranks.device, non_blocking=True)
