"""Muon (Jordan et al. 2024): momentum whose matrix is brought near an orthogonal one before it is applied.

The same arithmetic as `torch.optim.Muon`, which does its Newton-Schulz iteration in bf16 on every device. A processor
without AVX-512 emulates bf16 products: there they took two thirds of a small model's training. A CPU iterates in fp32.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

# the quintic whose slope at zero is steepest: five rounds bring singular values of 0.003 and more near 1
_A, _B, _C = 3.4445, -4.7750, 2.0315
_ROUNDS = 5
_MOMENTUM = 0.95
_LEAST_NORM = 1e-7


def orthogonal(matrices: Sequence[Tensor]) -> list[Tensor]:
    """The Newton-Schulz iteration x <- (a + b xx' + c (xx')^2) x of each matrix [rows, columns], rows <= columns, in
    its dtype: U S V' comes out as about U V', with singular values of 0.7 to 1.2 for 1, which trains as well."""
    found = []
    for x in map(_scaled, matrices):
        for _ in range(_ROUNDS):
            gram = x @ x.mT  # [rows, rows]
            x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=_B, alpha=_C), x, beta=_A)
        found.append(x)
    return found


def orthogonal_by_gram(matrices: Sequence[Tensor]) -> list[Tensor]:
    """The same, iterated on xx' alone, as each round multiplies x from the left by a polynomial of xx': two thirds of
    the products where a matrix is four times as wide as high, and those of like height in one stack. Squared singular
    values need the digits of fp32: in bf16 the small ones drown."""
    found, by_rows = list(matrices), defaultdict[int, list[int]](list)
    for number, matrix in enumerate(matrices):
        by_rows[matrix.shape[0]].append(number)
    for numbers in by_rows.values():
        start = [_scaled(matrices[number]) for number in numbers]
        gram = torch.stack([x @ x.mT for x in start])  # [matrices, rows, rows]
        product: Tensor | None = None
        for step in range(_ROUNDS):
            factor = torch.baddbmm(gram, gram, gram, beta=_B, alpha=_C)
            factor.diagonal(dim1=1, dim2=2).add_(_A)
            product = factor if product is None else factor @ product
            if step + 1 < _ROUNDS:
                gram = factor @ gram @ factor
        assert product is not None
        for number, left, x in zip(numbers, product, start, strict=True):
            found[number] = left @ x
    return found


def _scaled(matrix: Tensor) -> Tensor:
    """By the Frobenius norm no singular value is beyond 1, where the quintic would diverge."""
    return torch.div(matrix, matrix.norm().clamp(min=_LEAST_NORM))


class Muon(torch.optim.Optimizer):
    """Muon for matrices: Nesterov momentum, decoupled weight decay, steps of `lr` times sqrt(max(1, rows / columns)).
    Its state is that of `torch.optim.Muon`: one `momentum_buffer` a parameter."""

    def __init__(self, parameters: Iterable[Tensor], lr: float, weight_decay: float) -> None:
        super().__init__(parameters, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """One step on the gradients that are there; parameters without one are left alone."""
        for group in self.param_groups:
            weights = [weight for weight in group["params"] if weight.grad is not None]
            wide = []
            for weight in weights:
                state = self.state[weight]
                if not state:
                    state["momentum_buffer"] = torch.zeros_like(weight.grad)
                momentum = state["momentum_buffer"].lerp_(weight.grad, 1 - _MOMENTUM)
                update = weight.grad.lerp(momentum, _MOMENTUM)
                wide.append(update if update.shape[0] <= update.shape[1] else update.mT)
            if wide and wide[0].device.type == "cpu":
                steps = orthogonal_by_gram(wide)
            else:
                steps = orthogonal([matrix.bfloat16() for matrix in wide])
            for weight, step in zip(weights, steps, strict=True):
                rows, columns = weight.shape
                weight.mul_(1 - group["lr"] * group["weight_decay"])
                weight.add_(step if rows <= columns else step.mT, alpha=-group["lr"] * max(1, rows / columns) ** 0.5)
