"""A step up to twice the size and the 3x3 convolution after it, as one convolution of the small picture.

Of the three neighbours in a row that the convolution reads two are copies of the same pixel. So each of the four
pixels that come of one is a convolution of 2x2 over the small picture, with sums of the weights: 16 products instead
of 36, and the large picture that diffusers makes in between is never written.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers.models.upsampling import Upsample2D
from torch import nn


def knows_upsample(block: Any) -> bool:
    """Whether it is an upsampling of the kind that SDXL has: nearest pixels, then a plain 3x3 convolution."""
    if not isinstance(block, Upsample2D) or block.use_conv_transpose or not block.use_conv:
        return False
    conv = getattr(block, "conv", None)
    return (
        block.norm is None
        and block.interpolate
        and isinstance(conv, nn.Conv2d)
        and conv.bias is not None
        and conv.kernel_size == (3, 3)
        and conv.stride == conv.padding == conv.dilation == (1, 1)
        and conv.groups == 1
        and conv.padding_mode == "zeros"
    )


def is_twice(hidden_states: torch.Tensor, output_size: Any) -> bool:
    """Whether the answer is exactly twice as large; diffusers asks for another size where a side is odd."""
    height, width = hidden_states.shape[-2:]
    return output_size is None or tuple(output_size) == (2 * height, 2 * width)


def quarter_weights(weight: torch.Tensor) -> torch.Tensor:
    """The weights of a convolution of 2x2 with one pixel of padding that answers what `interleave` puts together.

    Args:
        weight: (out, in, 3, 3).

    Returns:
        (4 * out, in, 2, 2) in the same dtype, summed in float32: for the pixels in even rows and even columns, even
        rows and odd columns, odd and even, odd and odd.
    """
    whole = weight.detach().float()
    # Even new rows read the row above and their own, odd ones their own and the one below.
    even = torch.cat([whole[:, :, :1], whole[:, :, 1:].sum(2, keepdim=True)], dim=2)
    odd = torch.cat([whole[:, :, :2].sum(2, keepdim=True), whole[:, :, 2:]], dim=2)
    parts = []
    for rows in (even, odd):
        parts.append(torch.cat([rows[..., :1], rows[..., 1:].sum(3, keepdim=True)], dim=3))
        parts.append(torch.cat([rows[..., :2].sum(3, keepdim=True), rows[..., 2:]], dim=3))
    return torch.cat(parts).to(weight.dtype)


def interleave(parts: torch.Tensor) -> torch.Tensor:
    """Puts a picture's four quarters together, pixel by pixel.

    Args:
        parts: (batch, 4 * channels, height + 1, width + 1), as of `quarter_weights`. Those of odd rows and columns
            begin at 1, the others end before the last.

    Returns:
        (batch, channels, 2 * height, 2 * width), channels last in memory.
    """
    batch, channels, height, width = parts.shape
    shape = (batch, channels // 4, 2 * height - 2, 2 * width - 2)
    out = torch.empty(shape, dtype=parts.dtype, device=parts.device, memory_format=torch.channels_last)
    for place, part in enumerate(parts.chunk(4, dim=1)):
        down, right = divmod(place, 2)
        out[:, :, down::2, right::2] = part[:, :, down : height - 1 + down, right : width - 1 + right]
    return out
