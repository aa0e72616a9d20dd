"""Linear layers in 8-bit floating point, `Linear8`, for GPUs whose matrix units multiply it at twice the speed.

Weights are scaled by output channel, inputs by row, in the pass that computes them (`fused_operations`); sums are in
float32. Pictures change: 8 bits hold three digits of a binary number.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from serve_app.pipelines.fused_operations import Scaled
from serve_app.pipelines.fused_transformer import FusedTransformer

_MULTIPLE = 16  # sides of a matrix that the device's 8-bit product takes


class Linear8(nn.Module):
    """An `nn.Linear` with its weights in 8 bits.

    Args:
        linear: Whose weights it takes; bfloat16, since the device's product answers in no other type.
    """

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        scaled = Scaled.of(linear.weight.detach())
        self.register_buffer("weight", scaled.values)
        self.register_buffer("scale", scaled.scales.t().contiguous())
        self.bias = linear.bias
        self.out_features = linear.out_features

    def forward(self, x: Scaled) -> torch.Tensor:
        """As the layer's own, for (..., channels) in 8 bits."""
        weight: Any = self.weight
        scale: Any = self.scale
        shape = (*x.values.shape[:-1], self.out_features)
        if not x.values.is_cuda:  # for tests: the same numbers, multiplied in 32 bits
            rows: torch.Tensor = x.values.flatten(0, -2).float() @ weight.float().t() * x.scales * scale
            if self.bias is not None:
                rows = rows + self.bias.float()
            return rows.to(torch.bfloat16).view(shape)
        answer: torch.Tensor = torch._scaled_mm(
            x.values.flatten(0, -2),
            weight.t(),
            scale_a=x.scales,
            scale_b=scale,
            bias=self.bias,
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
            widen = layers.ff.net[0]
            parts = [(layers.attn2, "to_q"), (widen, "proj"), (layers.ff.net, "2")]
            if layers.attn1.fused_projections:
                parts.append((layers.attn1, "to_qkv"))
            else:
                parts += [(layers.attn1, name) for name in ("to_q", "to_k", "to_v")]
            if not all(_fits(getattr(owner, name)) for owner, name in parts):
                continue
            for owner, name in parts:
                setattr(owner, name, Linear8(getattr(owner, name)))
            count += len(parts)
    return count


def _fits(linear: Any) -> bool:
    return (
        isinstance(linear, nn.Linear)
        and linear.in_features % _MULTIPLE == 0
        and linear.out_features % _MULTIPLE == 0
    )
