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
from tokentrial.trial.pretraining import Pretrain


def build_optimizers(model: GPT, settings: Pretrain) -> list[torch.optim.Optimizer]:
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
    adamw = torch.optim.AdamW(groups, lr=settings.lr, betas=settings.betas, eps=1e-8, fused=True)
    optimizers: list[torch.optim.Optimizer] = [adamw]
    if muon:
        optimizers.append(Muon(matrices, lr=settings.muon_lr, weight_decay=decay))
    for group in JointOptimizer(optimizers).param_groups:
        group["peak_lr"] = group["lr"]
    return optimizers


def lr_scale(step: int, settings: Pretrain) -> float:
    """Share of the peak rate at a step: linear warm-up, then cosine (Loshchilov & Hutter 2017) to `min_lr`, or flat
    and a linear fall over the last `decay` of the steps (warm-up-stable-decay, Hu et al. 2024)."""
    warmup = settings.warmup_ratio * settings.steps
    if step < warmup:
        return (step + 1) / (warmup + 1)  # from the first step on above 0: a step at rate 0 would be wasted
    if settings.schedule == "cosine":
        progress = (step - warmup) / max(1.0, settings.steps - warmup)
        return settings.min_lr_ratio + (1 - settings.min_lr_ratio) * 0.5 * (1 + math.cos(math.pi * progress))
    left = (settings.steps - step) / max(1.0, settings.decay_ratio * settings.steps)
    return settings.min_lr_ratio + (1 - settings.min_lr_ratio) * min(1.0, left)


class JointOptimizer:
    """The optimizers of a model as one, which is what GradScaler asks for. GradScaler remembers by optimizer whether it
    found an infinity. An optimizer without one would step, on gradients that the joint clip had made zero or NaN
    because of an infinity in the other's."""

    def __init__(self, optimizers: Sequence[torch.optim.Optimizer]) -> None:
        self.optimizers = optimizers

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        return [group for optimizer in self.optimizers for group in optimizer.param_groups]

    def step(self) -> None:
        for optimizer in self.optimizers:
            optimizer.step()


class TrainStep:
    """Takes optimizer steps: gradients of the mean loss of the batch that `next_batch` gives, of the whole group of
    ranks, `micro_batch` rows of each rank at a time. `position` is how far in the text the batches that were taken go:
    the loader itself may be a batch ahead."""

    def __init__(self, model: GPT, next_batch: Callable[[], Batch], settings: Pretrain, ranks: Ranks) -> None:
        self.next_batch, self.settings, self.ranks = next_batch, settings, ranks
        self.optimizers, self.parameters = build_optimizers(model, settings), list(model.parameters())
        self.joint: Any = JointOptimizer(self.optimizers)
        self.position = Position(0, 0, "the beginning")
        self.rows, self.micro_batch = ranks.rows(settings.batch_tokens // settings.context, settings.micro_batch)
        device, dtype = ranks.device.type, resolve_dtype(settings)
        # the model itself stays as it is: validation and probes ask it with other shapes, each to be compiled anew
        compiled: Any = torch.compile(model) if settings.compiles(device, model.config.vocab) else model
        self.model = ranks.wrap(compiled)
        low_precision = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(dtype)
        # weights and optimizer stay in fp32: an update of 1e-4 of a weight is lost in bf16's 8 bits
        self.autocast = torch.autocast(device, low_precision) if low_precision else nullcontext()
        # fp16 ends at 6e-5, where many gradients lie: the loss is scaled up, and a step that overflows is left out
        self.scaler = torch.amp.GradScaler(device, enabled=dtype == "fp16")
        # on a GPU the next batch is made while this one is computed; on a CPU it would only take from the same cores
        self.prefetcher = ThreadPoolExecutor(1) if device == "cuda" else None
        self.prefetched: Future[Batch] | None = None

    def __call__(self, scale: float) -> tuple[torch.Tensor, torch.Tensor]:
        """Take a step at `scale` of the peak rates. Returns this rank's mean loss and the norm of the gradient before
        it was clipped, both still on the device: reading them would make every step wait for the GPU."""
        for group in self.joint.param_groups:
            group["lr"] = group["peak_lr"] * scale
        inputs, targets, self.position = self._following_batch()
        parts = len(self.rows) // self.micro_batch
        total = torch.zeros((), device=self.ranks.device)
        for part in range(parts):
            first = self.rows.start + part * self.micro_batch
            x, y = (self._to_device(ids[first : first + self.micro_batch]) for ids in (inputs, targets))  # (B, T)
            # gradients travel between the ranks once a step, with the last micro-batch
            accumulating = self.ranks.world > 1 and part + 1 < parts
            no_sync: Any = self.model.no_sync if accumulating else nullcontext
            with no_sync(), self.autocast:
                loss: torch.Tensor = self.model(x, y) / parts  # all of one size, so the mean of means is the mean
                self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
            total += loss.detach()
        self.scaler.unscale_(self.joint)  # before clipping, whose threshold is of the true gradient
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, self.settings.grad_clip)
        self.scaler.step(self.joint)  # left out where a gradient is infinite: all ranks see the same sum, and agree
        self.scaler.update()  # halves the scale after an overflow, doubles it after 2,000 steps without one
        for parameter in self.parameters:
            parameter.grad = None  # not zeroed: the next backward pass writes it instead of adding to it
        return total, norm

    def _following_batch(self) -> Batch:
        if self.prefetcher is None:
            return self.next_batch()
        batch = self.prefetched.result() if self.prefetched else self.next_batch()
        self.prefetched = self.prefetcher.submit(self.next_batch)
        return batch

    def _to_device(self, ids: NDArray[np.int64]) -> torch.Tensor:
        tensor = torch.from_numpy(ids)
        if self.ranks.device.type != "cuda":
            return tensor.to(self.ranks.device)
        return tensor.pin_memory().to(self.ranks.device, non_blocking=True)  # from pinned memory the copy runs aside
