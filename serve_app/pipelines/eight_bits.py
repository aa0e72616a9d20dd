"""Linear layers in 8-bit floating point, `Linear8`, for GPUs whose matrix units multiply it at twice the speed.

What they read is rounded in the pass that computes it (`fused_operations`): norms with a factor of the layer's own,
since what a norm can be is known beforehand, GEGLU's answers with a scale for each row. Weights have one scale for the
whole layer, because cuBLAS has its fast products for such alone: on an H100 20 us instead of 29 for 2048 x 5120 x 1280.
Sums are in float32. Pictures change: 8 bits hold four digits of a binary number.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from serve_app.pipelines.fused_operations import EIGHT_BITS, LARGEST, Scaled, factor_of
from serve_app.pipelines.fused_transformer import FusedTransformer

_MULTIPLE = 16  # sides of a matrix that the device's 8-bit product takes


class Linear8(nn.Module):
    """An `nn.Linear` with its weights in 8 bits.

    Args:
        linear: Whose weights it takes; bfloat16, since the device's product answers in no other type.
        factor: What the inputs were multiplied by; None where each row has a scale of its own.

    Attributes:
        factor: The same.
    """

    def __init__(self, linear: nn.Linear, factor: float | None) -> None:
        super().__init__()
        weight = linear.weight.detach().float()
        scale = (weight.abs().max() / LARGEST).clamp(min=1e-12)
        self.factor = factor
        self.register_buffer("weight", (weight / scale).to(EIGHT_BITS))
        self.register_buffer("scale", scale)
        self.register_buffer("input_scale", torch.full_like(scale, 1.0 if factor is None else 1.0 / factor))
        self.bias = linear.bias
        self.out_features = linear.out_features

    def forward(self, x: torch.Tensor | Scaled) -> torch.Tensor | Scaled:
        """As the layer's own, (..., out_features) in bfloat16.

        Args:
            x: (..., channels) in 8 bits; `Scaled` where there is no factor.

        Returns:
            Of `Scaled` the same, each row still to be multiplied by its scale, and without the layer's bias, which
            is to be added after that.
        """
        if isinstance(x, Scaled):
            return Scaled(self._product(x.values, None), x.scales)
        return self._product(x, self.bias)

    def _product(self, x: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        weight: Any = self.weight
        scale: Any = self.scale
        input_scale: Any = self.input_scale
        shape = (*x.shape[:-1], self.out_features)
        if not x.is_cuda:  # for tests: the same numbers, multiplied in 32 bits
            rows: torch.Tensor = x.flatten(0, -2).float() @ weight.float().t() * (input_scale * scale)
            if bias is not None:
                rows = rows + bias.float()
            return rows.to(torch.bfloat16).view(shape)
        answer: torch.Tensor = torch._scaled_mm(
            x.flatten(0, -2),
            weight.t(),
            scale_a=input_scale,
            scale_b=scale,
            bias=bias,
            out_dtype=torch.bfloat16,
            use_fast_accum=True,
        )
        return answer.view(shape)


def to_eight_bits(unet: nn.Module) -> int:
    """Puts `Linear8` in the place of the linear layers of all `FusedTransformer` blocks that read a norm or GEGLU.

    These are eight ninths of the blocks' linear arithmetic. Those that read an attention's answer stay.

    Args:
        unet: After `fuse_layers`; changed in place.

    Returns:
        How many layers were replaced.
    """
    count = 0
    for transformer in [module for module in unet.modules() if isinstance(module, FusedTransformer)]:
        for block in transformer.transformer_blocks:
            layers: Any = block
            own = ("to_qkv",) if layers.attn1.fused_projections else ("to_q", "to_k", "to_v")
            parts = [
                *((layers.attn1, name, layers.norm1) for name in own),
                (layers.attn2, "to_q", layers.norm2),
                (layers.ff.net[0], "proj", layers.norm3),
                (layers.ff.net, "2", None),
            ]
            if not all(_fits(getattr(owner, name)) for owner, name, _ in parts):
                continue
            for owner, name, norm in parts:
                factor = None if norm is None else factor_of(norm)
                setattr(owner, name, Linear8(getattr(owner, name), factor))
            count += len(parts)
    return count


def _fits(linear: Any) -> bool:
    return (
        isinstance(linear, nn.Linear)
        and linear.in_features % _MULTIPLE == 0
        and linear.out_features % _MULTIPLE == 0
    )
