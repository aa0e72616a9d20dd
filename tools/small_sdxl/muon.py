"""Muon: momentum whose direction is made orthogonal, for weight matrices; equal shapes are done as one batch.

After Keller Jordan, "Muon: an optimizer for hidden layers in neural networks" (2024). Convolutions count as
matrices of (out, in * height * width).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

STEPS = 5


def orthogonalise(matrices: Tensor) -> Tensor:
    """Push the singular values of a batch of matrices (batch, rows, columns) towards one.

    Newton-Schulz multiplies X by polynomials of its Gram matrix from the left. Those commute, so they are
    gathered on the small side first and X, which is up to ten times longer, is multiplied once.
    """
    x = matrices / (matrices.norm(dim=(1, 2), keepdim=True) + 1e-7)
    flipped = x.shape[1] > x.shape[2]
    if flipped:
        x = x.transpose(1, 2)
    gram = x @ x.transpose(1, 2)
    one = torch.eye(gram.shape[1], device=gram.device, dtype=gram.dtype).expand_as(gram)
    total: Tensor = one
    for step in range(STEPS):
        factor: Tensor = 3.4445 * one + (-4.7750 * gram + 2.0315 * gram @ gram)
        total = factor @ total if step else factor
        if step < STEPS - 1:
            gram = factor @ gram @ factor
    answer: Tensor = total @ x
    return answer.transpose(1, 2) if flipped else answer


class Muon(torch.optim.Optimizer):
    """Updates scaled to the size that AdamW's would have, so that one learning rate serves both.

    The rate may be a tensor on the weights' device, as a recorded CUDA graph needs it.
    """

    def __init__(
        self, params: Iterable[Tensor], lr: float | Tensor, momentum: float = 0.95, weight_decay: float = 0.01
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Apply one update."""
        for group in self.param_groups:
            rate, decay = group["lr"], 1 - group["lr"] * group["weight_decay"]
            weights = [weight for weight in group["params"] if weight.grad is not None]
            for weight in weights:
                if "momentum" not in self.state[weight]:
                    self.state[weight]["momentum"] = torch.zeros_like(weight)
            momenta = [self.state[weight]["momentum"] for weight in weights]
            gradients = [weight.grad for weight in weights]
            torch._foreach_lerp_(momenta, gradients, 1 - group["momentum"])
            shapes: defaultdict[tuple[int, int], list[tuple[Tensor, Tensor]]] = defaultdict(list)
            for weight, ahead in zip(
                weights, torch._foreach_lerp(gradients, momenta, group["momentum"]), strict=True
            ):
                shapes[(len(ahead), ahead[0].numel())].append((weight, ahead.reshape(len(ahead), -1)))
            torch._foreach_mul_(weights, decay)
            for (rows, columns), pairs in shapes.items():
                scale = -rate * (0.2 * max(rows, columns) ** 0.5)
                updates = orthogonalise(torch.stack([ahead for _, ahead in pairs])) * scale
                torch._foreach_add_(
                    [weight for weight, _ in pairs],
                    [
                        update.reshape(weight.shape)
                        for (weight, _), update in zip(pairs, updates, strict=True)
                    ],
                )
