"""Kernels for NVIDIA GPUs in Triton, over channels-last pictures: group norm, sums with a bias, `interleave`.

PyTorch has no group norm for channels-last tensors on a GPU: it copies them to another layout and back, which took two
thirds of SDXL's VAE decode and a fifth of its UNet's step on an H100. Each kernel here reads and writes its tensors
once. All sums are in float32. How a picture is summed depends on its own shape alone, never on how many others are in
the batch, so a picture stays the same in any batch.

Only imported where Triton is. `serve_app.pipelines.fused_operations` chooses between this and PyTorch's own.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

_TILE_PIXELS = 64  # the fastest of five shapes on an H100, by a little
_TILE_CHANNELS = 64


@triton.jit
def _channel_sums(
    x, add, add_stride, sums, pixels, channels, splits, pixels_of_split,
    HAS_ADD: tl.constexpr, PIXELS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """Sums of (x - pivot) and of its square for each channel, over one part of a picture's pixels."""
    picture, split = tl.program_id(0), tl.program_id(1)
    channel = tl.program_id(2) * CHANNELS + tl.arange(0, CHANNELS)
    known = channel < channels
    start = x + picture.to(tl.int64) * pixels * channels
    shift = tl.zeros((CHANNELS,), tl.float32)
    if HAS_ADD:
        shift = tl.load(add + picture * add_stride + channel, mask=known, other=0.0).to(tl.float32)
    # The first pixel stands for the mean: squares of what is left lose no digits to a large mean.
    pivot = tl.load(start + channel, mask=known, other=0.0).to(tl.float32) + shift
    total = tl.zeros((PIXELS, CHANNELS), tl.float32)
    squares = tl.zeros((PIXELS, CHANNELS), tl.float32)
    first = split * pixels_of_split
    end = tl.minimum(first + pixels_of_split, pixels)
    for offset in range(0, pixels_of_split, PIXELS):
        pixel = first + offset + tl.arange(0, PIXELS)
        inside = (pixel < end)[:, None] & known[None, :]
        place = start + pixel.to(tl.int64)[:, None] * channels + channel[None, :]
        value = tl.load(place, mask=inside, other=0.0).to(tl.float32) + shift[None, :] - pivot[None, :]
        value = tl.where(inside, value, 0.0)
        total += value
        squares += value * value
    out = sums + ((picture * splits + split) * 2) * channels + channel
    tl.store(out, tl.sum(total, 0), mask=known)
    tl.store(out + channels, tl.sum(squares, 0), mask=known)


@triton.jit
def _factors(
    x, add, add_stride, sums, weight, bias, factors, pixels, channels, splits, eps,
    HAS_ADD: tl.constexpr, OF_GROUP: tl.constexpr, SPLITS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """What each channel is multiplied by and what is added to it, from its group's mean and variance."""
    picture, group = tl.program_id(0), tl.program_id(1)
    inner = tl.arange(0, CHANNELS)
    known = inner < OF_GROUP
    channel = group * OF_GROUP + inner
    split = tl.arange(0, SPLITS)
    start = sums + picture * splits * 2 * channels
    places = start + split[:, None] * 2 * channels + channel[None, :]
    there = (split < splits)[:, None] & known[None, :]
    total = tl.sum(tl.load(places, mask=there, other=0.0), 0)
    squares = tl.sum(tl.load(places + channels, mask=there, other=0.0), 0)
    shift = tl.zeros((CHANNELS,), tl.float32)
    if HAS_ADD:
        shift = tl.load(add + picture * add_stride + channel, mask=known, other=0.0).to(tl.float32)
    first = x + picture.to(tl.int64) * pixels * channels + channel
    pivot = tl.load(first, mask=known, other=0.0).to(tl.float32) + shift
    own_mean = pivot + total / pixels
    own_variance = squares / pixels - (total / pixels) * (total / pixels)
    mean = tl.sum(tl.where(known, own_mean, 0.0), 0) / OF_GROUP
    apart = own_mean - mean
    variance = tl.sum(tl.where(known, own_variance + apart * apart, 0.0), 0) / OF_GROUP
    scale = tl.load(weight + channel, mask=known, other=0.0).to(tl.float32) / tl.sqrt(
        tl.maximum(variance, 0.0) + eps
    )
    plus = tl.load(bias + channel, mask=known, other=0.0).to(tl.float32) + (shift - mean) * scale
    out = factors + picture * 2 * channels + channel
    tl.store(out, scale, mask=known)
    tl.store(out + channels, plus, mask=known)


@triton.jit
def _scaled(
    x, factors, out, pixels, channels,
    SILU: tl.constexpr, PIXELS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """x * factor + plus, then SiLU if asked."""
    pixel = tl.program_id(0) * PIXELS + tl.arange(0, PIXELS)
    channel = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    picture = tl.program_id(2)
    known = channel < channels
    inside = (pixel < pixels)[:, None] & known[None, :]
    place = (picture.to(tl.int64) * pixels + pixel.to(tl.int64))[:, None] * channels + channel[None, :]
    scale = tl.load(factors + picture * 2 * channels + channel, mask=known, other=0.0)
    plus = tl.load(factors + (picture * 2 + 1) * channels + channel, mask=known, other=0.0)
    value = tl.load(x + place, mask=inside, other=0.0).to(tl.float32) * scale[None, :] + plus[None, :]
    if SILU:
        value = value / (1.0 + tl.exp(-value))
    tl.store(out + place, value.to(out.dtype.element_ty), mask=inside)


def _parts_of_sum(pixels: int) -> int:
    """Programs that share a picture's sum: many where it is small, no more than the next kernel reads fast.

    Returns:
        1 to 256: of 64 pixels each up to 64x64, of 256 up to 256x256.
    """
    return max(1, min(pixels // 64, 64), min(pixels // 256, 256))


def group_norm(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    groups: int,
    eps: float,
    add: torch.Tensor | None,
    silu: bool,
) -> torch.Tensor:
    """Group norm of `x + add`, then SiLU if asked.

    Args:
        x: (batch, channels, height, width), channels last in memory.
        weight: (channels,).
        bias: (channels,).
        groups: Of channels.
        eps: Added to the variance.
        add: (batch, channels), each row contiguous, or None.
        silu: Whether SiLU follows.

    Returns:
        As `x`.
    """
    batch, channels, height, width = x.shape
    pixels = height * width
    splits = _parts_of_sum(pixels)
    pixels_of_split = triton.cdiv(pixels, splits)
    of_group = channels // groups
    sums = torch.empty((batch, splits, 2, channels), dtype=torch.float32, device=x.device)
    factors = torch.empty((batch, 2, channels), dtype=torch.float32, device=x.device)
    out = torch.empty_like(x)
    tiles = triton.cdiv(channels, _TILE_CHANNELS)
    told, stride = (x, 0) if add is None else (add, add.stride(0))
    _channel_sums[(batch, splits, tiles)](
        x, told, stride, sums, pixels, channels, splits, pixels_of_split,
        HAS_ADD=add is not None, PIXELS=_TILE_PIXELS, CHANNELS=_TILE_CHANNELS, num_warps=4,
    )  # fmt: skip
    _factors[(batch, groups)](
        x, told, stride, sums, weight, bias, factors, pixels, channels, splits, eps,
        HAS_ADD=add is not None, OF_GROUP=of_group, SPLITS=triton.next_power_of_2(splits),
        CHANNELS=triton.next_power_of_2(of_group), num_warps=2,
    )  # fmt: skip
    _scaled[(triton.cdiv(pixels, _TILE_PIXELS), tiles, batch)](
        x, factors, out, pixels, channels,
        SILU=silu, PIXELS=_TILE_PIXELS, CHANNELS=_TILE_CHANNELS, num_warps=4,
    )  # fmt: skip
    return out


@triton.jit
def _add_with_bias(x, add, bias, out, channels, count, BLOCK: tl.constexpr):
    place = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = place < count
    value = tl.load(x + place, mask=inside, other=0.0).to(tl.float32)
    value += tl.load(add + place, mask=inside, other=0.0).to(tl.float32)
    value += tl.load(bias + place % channels, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + place, value.to(out.dtype.element_ty), mask=inside)


def add_with_bias(x: torch.Tensor, add: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """`x + add + bias`, the bias by channel.

    Args:
        x: (batch, channels, height, width), channels last in memory.
        add: As `x`.
        bias: (channels,).

    Returns:
        As `x`.
    """
    out = torch.empty_like(x)
    block = 1024
    _add_with_bias[(triton.cdiv(x.numel(), block),)](
        x, add, bias, out, x.shape[1], x.numel(), BLOCK=block, num_warps=4
    )
    return out


@triton.jit
def _interleave(
    parts, bias, out, height, width, channels,
    PIXELS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """One tile of the answer; see `interleave`."""
    pixel = tl.program_id(0) * PIXELS + tl.arange(0, PIXELS)
    channel = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    picture = tl.program_id(2).to(tl.int64)
    known = channel < channels
    inside = (pixel < 4 * height * width)[:, None] & known[None, :]
    row, column = pixel // (2 * width), pixel % (2 * width)
    down, right = row % 2, column % 2
    place = (picture * (height + 1) + row // 2 + down) * (width + 1) + column // 2 + right
    place = (place * 4 + down * 2 + right) * channels
    value = tl.load(parts + place[:, None] + channel[None, :], mask=inside, other=0.0).to(tl.float32)
    value += tl.load(bias + channel, mask=known, other=0.0).to(tl.float32)[None, :]
    target = (picture * 4 * height * width + pixel) * channels
    tl.store(out + target[:, None] + channel[None, :], value.to(out.dtype.element_ty), mask=inside)


def interleave(parts: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """Puts a picture's four quarters together, pixel by pixel, and adds a bias by channel.

    Args:
        parts: (batch, 4 * channels, height + 1, width + 1), channels last in memory: of the pixels in even rows and
            even columns, even rows and odd columns, odd and even, odd and odd. Odd rows and columns begin at 1.
        bias: (channels,).

    Returns:
        (batch, channels, 2 * height, 2 * width), channels last in memory.
    """
    batch, channels, height, width = parts.shape
    channels, height, width = channels // 4, height - 1, width - 1
    out = torch.empty(
        (batch, channels, 2 * height, 2 * width),
        dtype=parts.dtype,
        device=parts.device,
        memory_format=torch.channels_last,
    )
    grid = (triton.cdiv(4 * height * width, _TILE_PIXELS), triton.cdiv(channels, _TILE_CHANNELS), batch)
    _interleave[grid](
        parts, bias, out, height, width, channels,
        PIXELS=_TILE_PIXELS, CHANNELS=_TILE_CHANNELS, num_warps=4,
    )  # fmt: skip
    return out
