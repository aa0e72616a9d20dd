"""SDXL's residual blocks, upsampling and last norm with fewer operations, each over the tensor once.

Biases are added where the next operation reads anyway: cuDNN adds none to 16-bit convolutions by itself, so PyTorch
would in a pass of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as functional
from diffusers.models.resnet import ResnetBlock2D
from torch import nn

from serve_app.pipelines.fused_operations import add_with_bias, group_norm, interleave
from serve_app.pipelines.upsampling import is_twice, quarter_weights


class FusedNorm(nn.Module):
    """A group norm and the SiLU after it.

    Args:
        norm: Whose weights it takes.
    """

    def __init__(self, norm: nn.GroupNorm) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Both."""
        return group_norm(x, self.norm, silu=True)


class FusedResnet(nn.Module):
    """A `ResnetBlock2D`.

    Args:
        block: Whose layers it takes.
    """

    def __init__(self, block: Any) -> None:
        super().__init__()
        self.norm1, self.conv1 = block.norm1, block.conv1
        self.norm2, self.conv2 = block.norm2, block.conv2
        self.time_emb_proj, self.conv_shortcut = block.time_emb_proj, block.conv_shortcut
        self.times: TimeStates | None = None
        self.place = 0
        last = self.conv2.bias.detach().float()
        if self.conv_shortcut is not None:
            last = last + self.conv_shortcut.bias.detach().float()
        self.register_buffer("last_bias", last.to(self.conv2.bias.dtype))

    def forward(self, input_tensor: torch.Tensor, temb: torch.Tensor | None = None) -> torch.Tensor:
        """As the block's own."""
        # The first convolution's bias and the time go into the second norm, the other biases into the last sum.
        if self.times is not None and temb is not None:
            time = self.times(temb)[self.place]
        else:
            time = self.conv1.bias.expand(len(input_tensor), -1)
            if self.time_emb_proj is not None and temb is not None:
                time = time + self.time_emb_proj(functional.silu(temb))
        hidden = _without_bias(self.conv1, group_norm(input_tensor, self.norm1, silu=True))
        hidden = group_norm(hidden, self.norm2, add=time, silu=True)
        hidden = _without_bias(self.conv2, hidden)
        if self.conv_shortcut is not None:
            input_tensor = _without_bias(self.conv_shortcut, input_tensor)
        bias: Any = self.last_bias
        return add_with_bias(input_tensor, hidden, bias)


class TimeStates(nn.Module):
    """What all of a UNet's residual blocks make of the time, by one product for all instead of one each.

    Args:
        blocks: From now on each takes its part; their own projections are given up.
    """

    def __init__(self, blocks: Sequence[FusedResnet]) -> None:
        super().__init__()
        layers = [block.time_emb_proj for block in blocks]
        weight = torch.cat([layer.weight.detach() for layer in layers])
        bias = torch.cat([layer.bias.detach() for layer in layers])
        bias += torch.cat([block.conv1.bias.detach() for block in blocks])
        self.all_parts = nn.Linear(weight.shape[1], weight.shape[0], device="meta", dtype=weight.dtype)
        self.all_parts.weight = nn.Parameter(weight, requires_grad=False)
        self.all_parts.bias = nn.Parameter(bias, requires_grad=False)
        self.widths = [len(layer.weight) for layer in layers]
        self._of: torch.Tensor | None = None
        self._parts: Sequence[torch.Tensor] = ()
        for place, block in enumerate(blocks):
            block.times, block.place, block.time_emb_proj = self, place, None

    def forward(self, temb: torch.Tensor) -> Sequence[torch.Tensor]:
        """Each block's part, of (rows, channels) of that block, its first convolution's bias within.

        Args:
            temb: (rows, channels) of the time embedding. The blocks of one call of the UNet all give the same tensor,
                and the parts are computed for the first of them.
        """
        if self._of is not temb:
            self._of, self._parts = temb, self.all_parts(functional.silu(temb)).split(self.widths, dim=1)
        return self._parts


class FusedUpsample(nn.Module):
    """An `Upsample2D` as one convolution of the small picture; see `serve_app.pipelines.upsampling`.

    Args:
        block: Whose convolution it takes.
    """

    def __init__(self, block: Any) -> None:
        super().__init__()
        self.conv = block.conv
        quarters = quarter_weights(self.conv.weight)
        if self.conv.weight.is_contiguous(memory_format=torch.channels_last):
            quarters = quarters.contiguous(memory_format=torch.channels_last)
        self.register_buffer("quarters", quarters)

    def forward(self, hidden_states: torch.Tensor, output_size: Any = None, **unused: Any) -> torch.Tensor:
        """As the block's own.

        Args:
            hidden_states: (rows, channels, height, width).
            output_size: (height, width) of the answer, where it isn't exactly twice as large.
            **unused: What diffusers' blocks pass on to others.
        """
        if not is_twice(hidden_states, output_size):
            larger = functional.interpolate(hidden_states, size=output_size, mode="nearest")
            answer: torch.Tensor = self.conv(larger)
            return answer
        quarters: Any = self.quarters
        return interleave(functional.conv2d(hidden_states, quarters, None, 1, 1), self.conv.bias)


def _without_bias(convolution: nn.Conv2d, x: torch.Tensor) -> torch.Tensor:
    return functional.conv2d(x, convolution.weight, None, convolution.stride, convolution.padding)


def ends_with_norm(model: Any) -> bool:
    """Whether a norm and SiLU come before its last convolution."""
    return type(getattr(model, "conv_norm_out", None)) is nn.GroupNorm and isinstance(
        getattr(model, "conv_act", None), nn.SiLU
    )


def is_plain_resnet(block: Any) -> bool:
    """Whether it is a residual block of the kind that SDXL has."""
    return bool(
        isinstance(block, ResnetBlock2D)
        and block.upsample is None
        and block.downsample is None
        # VAEs say "group", which without an embedding of time means nothing.
        and (block.time_embedding_norm == "default" or block.time_emb_proj is None)
        and block.time_embedding_norm in ("default", "group")
        and not block.skip_time_act
        and block.output_scale_factor == 1.0
        and isinstance(block.nonlinearity, nn.SiLU)
        and block.dropout.p == 0.0
        and all(_plain_convolution(one) for one in (block.conv1, block.conv2))
        and (block.conv_shortcut is None or _plain_convolution(block.conv_shortcut))
        and all(type(norm) is nn.GroupNorm and norm.affine for norm in (block.norm1, block.norm2))
    )


def _plain_convolution(convolution: Any) -> bool:
    return (
        isinstance(convolution, nn.Conv2d)
        and convolution.bias is not None
        and convolution.groups == 1
        and convolution.dilation == (1, 1)
        and convolution.padding_mode == "zeros"
    )
