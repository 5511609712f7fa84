"""Muon (Jordan et al. 2024): momentum whose matrix is brought near an orthogonal one before it is applied.

The same arithmetic as `torch.optim.Muon`, which does its Newton-Schulz iteration in bf16 on every device. A processor
without AVX-512 emulates bf16 products: there they took two thirds of a small model's training. A CPU iterates in fp32.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

# the quintic whose slope at zero is steepest: five iterations bring singular values of 0.003 and more near 1
_A, _B, _C = 3.4445, -4.7750, 2.0315
_ITERATIONS = 5
_MOMENTUM = 0.95
_MIN_NORM = 1e-7


def newton_schulz(matrices: Sequence[Tensor]) -> list[Tensor]:
    """The iteration x <- (a + b xx' + c (xx')^2) x of each matrix [rows, columns], rows <= columns, in its dtype:
    U S V' comes out as about U V', with singular values of 0.7 to 1.2 for 1, which trains as well."""
    updates = []
    for x in map(_unit_norm, matrices):
        for _ in range(_ITERATIONS):
            gram = x @ x.mT  # (rows, rows)
            # a x + (b gram + c gram^2) x, each line one fused product
            x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=_B, alpha=_C), x, beta=_A)
        updates.append(x)
    return updates


def newton_schulz_gram(matrices: Sequence[Tensor]) -> list[Tensor]:
    """The same, iterated on xx' alone, as each iteration multiplies x from the left by a polynomial of xx': two thirds
    of the products where a matrix is four times as wide as high. Squared singular values need the digits of fp32: in
    bf16 the small ones drown."""
    updates, by_rows = list(matrices), defaultdict[int, list[int]](list)
    for index, matrix in enumerate(matrices):
        by_rows[matrix.shape[0]].append(index)
    for indices in by_rows.values():  # Gram matrices of one size go through as one stack: fewer, larger products
        start = [_unit_norm(matrices[index]) for index in indices]
        gram = torch.stack([x @ x.mT for x in start])  # (matrices, rows, rows)
        product: Tensor | None = None  # of the factors so far, (matrices, rows, rows)
        for iteration in range(_ITERATIONS):
            factor = torch.baddbmm(gram, gram, gram, beta=_B, alpha=_C)
            factor.diagonal(dim1=1, dim2=2).add_(_A)
            product = factor if product is None else factor @ product
            if iteration + 1 < _ITERATIONS:
                gram = factor @ gram @ factor  # of the next x = factor x; both commute and are symmetric
        assert product is not None
        for index, left, x in zip(indices, product, start, strict=True):
            updates[index] = left @ x
    return updates


def _unit_norm(matrix: Tensor) -> Tensor:
    """By the Frobenius norm no singular value is beyond 1, where the quintic would diverge."""
    return torch.div(matrix, matrix.norm().clamp(min=_MIN_NORM))


class Muon(torch.optim.Optimizer):
    """Muon for matrices: Nesterov momentum, decoupled weight decay, steps of `lr` times sqrt(max(1, rows / columns)).
    Its state is that of `torch.optim.Muon`: one `momentum_buffer` a parameter."""

    def __init__(self, parameters: Iterable[Tensor], lr: float, weight_decay: float) -> None:
        super().__init__(parameters, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """One step of every parameter that has a gradient."""
        for group in self.param_groups:
            weights = [weight for weight in group["params"] if weight.grad is not None]
            updates = []
            for weight in weights:
                state = self.state[weight]
                if not state:
                    state["momentum_buffer"] = torch.zeros_like(weight.grad)
                momentum = state["momentum_buffer"].lerp_(weight.grad, 1 - _MOMENTUM)
                update = weight.grad.lerp(momentum, _MOMENTUM)  # Nesterov: the momentum one step ahead
                # the side of xx' is the matrix's height: tall ones go through transposed, so that it is the shorter
                updates.append(update if update.shape[0] <= update.shape[1] else update.mT)
            if updates and updates[0].device.type != "cuda":
                updates = newton_schulz_gram(updates)
            else:
                updates = newton_schulz([update.bfloat16() for update in updates])
            for weight, update in zip(weights, updates, strict=True):
                rows, columns = weight.shape
                weight.mul_(1 - group["lr"] * group["weight_decay"])  # decoupled: it is no part of the momentum
                # by this factor an entry's mean square is 1 / columns, the inputs', however tall the matrix is
                weight.add_(
                    update if rows <= columns else update.mT, alpha=-group["lr"] * max(1, rows / columns) ** 0.5
                )
