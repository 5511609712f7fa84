"""Muon (Jordan et al. 2024): momentum whose matrix is made nearly orthogonal before it is applied.

The same arithmetic as `torch.optim.Muon`, which does its Newton-Schulz iteration in bf16 on every device. A processor
without AVX-512 emulates bf16 products: there they took two thirds of a small model's training. Here a CPU iterates in
fp32, and matrices of one shape go through the iteration in one stack, as small products cost mostly their launch.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

# the quintic whose slope at zero is steepest: five rounds bring singular values of 0.003 and more near 1
_A, _B, _C = 3.4445, -4.7750, 2.0315
_ROUNDS = 5
_MOMENTUM = 0.95
_LEAST_NORM = 1e-7


def orthogonal(matrices: Tensor) -> Tensor:
    """The Newton-Schulz iteration on a stack [n, rows, columns], rows <= columns, in its dtype: U S V' to about U V',
    with singular values of 0.7 to 1.2 in place of 1, which trains as well."""
    # by the Frobenius norm no singular value is beyond 1, where the quintic would diverge
    x: Tensor = matrices / matrices.norm(dim=(1, 2), keepdim=True).clamp(min=_LEAST_NORM)
    for _ in range(_ROUNDS):
        gram = x @ x.mT  # [n, rows, rows]: the iteration's products are on the short side
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=_B, alpha=_C), x, beta=_A)
    return x


class Muon(torch.optim.Optimizer):
    """Muon for matrices: Nesterov momentum, decoupled weight decay, steps of `lr` times sqrt(max(1, rows / columns)).
    Its state is that of `torch.optim.Muon`: one `momentum_buffer` a parameter."""

    def __init__(self, parameters: Iterable[Tensor], lr: float, weight_decay: float) -> None:
        super().__init__(parameters, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """One step on the gradients that are there; parameters without one are left alone."""
        for group in self.param_groups:
            stacks: defaultdict[tuple[int, int], list[tuple[Tensor, Tensor]]] = defaultdict(list)
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                state = self.state[weight]
                if not state:
                    state["momentum_buffer"] = torch.zeros_like(weight.grad)
                momentum = state["momentum_buffer"].lerp_(weight.grad, 1 - _MOMENTUM)
                update = weight.grad.lerp(momentum, _MOMENTUM)
                wide = update if update.shape[0] <= update.shape[1] else update.mT
                stacks[wide.shape[0], wide.shape[1]].append((weight, wide))
            for members in stacks.values():
                stack = torch.stack([wide for _, wide in members])
                steps = orthogonal(stack if stack.device.type == "cpu" else stack.bfloat16())
                for (weight, _), step in zip(members, steps, strict=True):
                    rows, columns = weight.shape
                    weight.mul_(1 - group["lr"] * group["weight_decay"])
                    weight.add_(
                        step if rows <= columns else step.mT, alpha=-group["lr"] * max(1, rows / columns) ** 0.5
                    )
