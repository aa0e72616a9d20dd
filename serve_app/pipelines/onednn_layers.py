"""Single layers in oneDNN's own weight layouts, and the two shapes that pass between them."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional

from serve_app.pipelines.upsampling import is_twice, quarter_weights

_SMALL_WEIGHTS = 2**18
"""Weights of a convolution that may be kept once more for each size."""

_MAX_SIZES = 16
"""Sizes for which a small convolution keeps its weights laid out."""


class PackedLinear(nn.Module):
    """`torch.nn.Linear` with its weights laid out for oneDNN.

    Args:
        weight: (out, in); not kept.
        bias: (out,), or None.
    """

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        super().__init__()
        self._packed = torch.ops.mkldnn._reorder_linear_weight(weight.detach().contiguous())
        self._bias = None if bias is None else bias.detach().clone()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(..., in) to (..., out)."""
        y: torch.Tensor = torch.ops.mkldnn._linear_pointwise(x, self._packed, self._bias, "none", [], "")
        return y

    def gelu(self, x: torch.Tensor) -> torch.Tensor:
        """The exact (error function's) GELU of the result."""
        y: torch.Tensor = torch.ops.mkldnn._linear_pointwise(x, self._packed, self._bias, "gelu", [], "none")
        return y

    def plus(self, x: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        """The result plus `other`, of the same shape and dtype."""
        y: torch.Tensor = torch.ops.mkldnn._linear_pointwise.binary(x, other, self._packed, self._bias, "add")
        return y

    def times(self, x: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        """The result times `other`, of the same shape and dtype."""
        y: torch.Tensor = torch.ops.mkldnn._linear_pointwise.binary(x, other, self._packed, self._bias, "mul")
        return y


class PackedConv2d(nn.Module):
    """`torch.nn.Conv2d` with its weights laid out for oneDNN; answers channels_last.

    Which layout suits depends on the picture's size too, where the channels are no multiple of 64: 48 and 96 of them
    are 40 times slower at 8x8 in the layout of 16x16, since oneDNN then changes it in every call. Small weights are
    therefore laid out for each size; of large ones, whose channels are such multiples in any SDXL, there is one copy.

    Args:
        conv: The layer; its weights are not kept.
    """

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self._geometry = [list(conv.padding), list(conv.stride), list(conv.dilation), conv.groups]
        weight = conv.weight.detach().contiguous(memory_format=torch.channels_last)
        self._plain = weight.clone() if weight.numel() <= _SMALL_WEIGHTS else None
        self._by_size: dict[tuple[int, int], torch.Tensor] = {}
        self._packed = None if self._plain is not None else self._pack(weight)
        self._bias = None if conv.bias is None else conv.bias.detach().clone()

    def _pack(self, weight: torch.Tensor, input_size: list[int] | None = None) -> torch.Tensor:
        packed: torch.Tensor = torch.ops.mkldnn._reorder_convolution_weight(
            weight, *self._geometry, input_size
        )
        return packed

    def _weight(self, x: torch.Tensor) -> torch.Tensor:
        if self._plain is None:
            assert self._packed is not None
            return self._packed
        size = (x.shape[-2], x.shape[-1])
        packed = self._by_size.get(size)
        if packed is None:
            packed = self._pack(self._plain, list(x.shape))
            if len(self._by_size) >= _MAX_SIZES:
                # Two decodes at once may both find it full.
                self._by_size.pop(next(iter(self._by_size)), None)
            self._by_size[size] = packed
        return packed

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(batch, in, height, width) to (batch, out, ...)."""
        x = x.contiguous(memory_format=torch.channels_last)
        y: torch.Tensor = torch.ops.mkldnn._convolution_pointwise(
            x, self._weight(x), self._bias, *self._geometry, "none", [], ""
        )
        return y

    def plus(self, x: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        """The result plus `other`, of the same shape and dtype."""
        if other.shape[-2:] == (1, 1):  # torch 2.8 cannot tell the layout of a single pixel
            return self.forward(x).add_(other)
        x = x.contiguous(memory_format=torch.channels_last)
        other = other.contiguous(memory_format=torch.channels_last)
        y: torch.Tensor = torch.ops.mkldnn._convolution_pointwise.binary(
            x, other, self._weight(x), self._bias, *self._geometry, "add", None, None, [], None
        )
        return y


class PackedUpsample(nn.Module):
    """An `Upsample2D` as convolutions of the small picture, in half the time; see `serve_app.pipelines.upsampling`.

    One makes the even rows and one the odd ones, each odd columns before even ones: what follows a row's first odd
    column, which lies outside of the picture, is then in the order of the picture's row.

    Args:
        block: The block; its weights are not kept.
    """

    def __init__(self, block: Any) -> None:
        super().__init__()
        conv = block.conv
        parts = quarter_weights(conv.weight).chunk(4)
        self._rows = nn.ModuleList(
            PackedConv2d(
                _with_weights(torch.cat([parts[2 * down + 1], parts[2 * down]]), conv.bias.repeat(2))
            )
            for down in (0, 1)
        )
        self._whole = PackedConv2d(conv)

    def forward(self, hidden_states: torch.Tensor, output_size: Any = None, **_: Any) -> torch.Tensor:
        """As `Upsample2D.forward`.

        Args:
            hidden_states: (batch, channels, height, width).
            output_size: (height, width) of the answer, where it isn't exactly twice as large.
        """
        if not is_twice(hidden_states, output_size):
            answer: torch.Tensor = self._whole(
                functional.interpolate(hidden_states, size=output_size, mode="nearest")
            )
            return answer
        batch, channels, height, width = hidden_states.shape
        flat: torch.Tensor | None = None
        for down, rows in enumerate(self._rows):
            made = rows(hidden_states).permute(0, 2, 3, 1)
            channels = made.shape[-1] // 2
            if flat is None:
                flat = made.new_empty((batch, height, 2, 2 * width * channels))
            made = made.reshape(batch, height + 1, -1)
            flat[:, :, down] = made[:, down : height + down, channels : channels + 2 * width * channels]
        assert flat is not None
        return flat.view(batch, 2 * height, 2 * width, -1).permute(0, 3, 1, 2)


def _with_weights(weight: torch.Tensor, bias: torch.Tensor) -> nn.Conv2d:
    """A convolution with one pixel of padding."""
    out, into, height, width = weight.shape
    conv = nn.Conv2d(into, out, (height, width), padding=1, device="meta", dtype=weight.dtype)
    conv.weight = nn.Parameter(weight, requires_grad=False)
    conv.bias = nn.Parameter(bias.detach(), requires_grad=False)
    return conv


class PackedPointwise(nn.Module):
    """A convolution of one pixel as a matrix product over the pixels; answers channels_last.

    oneDNN lays weights of such a convolution out for one size of pictures, and with any other is 20 times slower.

    Args:
        conv: The layer; its weights are not kept.
    """

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.product = PackedLinear(conv.weight.flatten(1), conv.bias)

    @staticmethod
    def knows(conv: nn.Conv2d) -> bool:
        """Whether `conv` is a product over the pixels."""
        return conv.kernel_size == conv.stride == (1, 1) and conv.padding == (0, 0) and conv.groups == 1

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(batch, in, height, width) to (batch, out, height, width)."""
        return as_picture(self.product(as_tokens(x)), x)


def as_tokens(x: torch.Tensor) -> torch.Tensor:
    """(batch, channels, height, width) to (batch, positions, channels), without a copy where `x` is channels_last."""
    return x.permute(0, 2, 3, 1).flatten(1, 2)


def as_picture(tokens: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """(batch, positions, channels) to (batch, channels, height, width) channels_last, without a copy."""
    return tokens.view(tokens.shape[0], *like.shape[-2:], -1).permute(0, 3, 1, 2)
