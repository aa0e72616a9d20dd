"""Kernels for NVIDIA GPUs in Triton: group norm over channels-last pictures, layer norm after an addition, GEGLU.

PyTorch has no group norm for channels-last tensors on a GPU: it copies them to another layout and back, which took two
thirds of SDXL's VAE decode and a fifth of its UNet's step on an H100. Each kernel here reads and writes its tensors
once. All sums are in float32. How a row or a picture is summed depends on its own shape alone, never on how many
others are in the batch, so a picture stays the same in any batch.

Only imported where Triton is. `serve_app.pipelines.fused_operations` chooses between this and PyTorch's own.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

EIGHT_BITS = torch.float8_e4m3fn
LARGEST = tl.constexpr(448.0)
"""The largest number of `EIGHT_BITS`."""

_PIXELS_OF_A_SUM = 256  # that one program adds up, or more in large pictures
_MOST_SPLITS = 256  # of a picture's pixels
_TILE_PIXELS = 32
_TILE_CHANNELS = 64


@triton.jit
def _channel_sums(
    x, add, sums, pixels, channels, splits, pixels_of_split,
    HAS_ADD: tl.constexpr, PIXELS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """Sums of (x - pivot) and of its square for each channel, over one part of a picture's pixels."""
    picture, split = tl.program_id(0), tl.program_id(1)
    channel = tl.program_id(2) * CHANNELS + tl.arange(0, CHANNELS)
    known = channel < channels
    start = x + picture.to(tl.int64) * pixels * channels
    shift = tl.zeros((CHANNELS,), tl.float32)
    if HAS_ADD:
        shift = tl.load(add + picture * channels + channel, mask=known, other=0.0).to(tl.float32)
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
    x, add, sums, weight, bias, factors, pixels, channels, splits, eps,
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
        shift = tl.load(add + picture * channels + channel, mask=known, other=0.0).to(tl.float32)
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
        add: (batch, channels), contiguous, or None.
        silu: Whether SiLU follows.

    Returns:
        As `x`.
    """
    batch, channels, height, width = x.shape
    pixels = height * width
    splits = max(1, min(_MOST_SPLITS, pixels // _PIXELS_OF_A_SUM))
    pixels_of_split = triton.cdiv(pixels, splits)
    of_group = channels // groups
    sums = torch.empty((batch, splits, 2, channels), dtype=torch.float32, device=x.device)
    factors = torch.empty((batch, 2, channels), dtype=torch.float32, device=x.device)
    out = torch.empty_like(x)
    tiles = triton.cdiv(channels, _TILE_CHANNELS)
    told = x if add is None else add
    _channel_sums[(batch, splits, tiles)](
        x, told, sums, pixels, channels, splits, pixels_of_split,
        HAS_ADD=add is not None, PIXELS=_TILE_PIXELS, CHANNELS=_TILE_CHANNELS, num_warps=4,
    )  # fmt: skip
    _factors[(batch, groups)](
        x, told, sums, weight, bias, factors, pixels, channels, splits, eps,
        HAS_ADD=add is not None, OF_GROUP=of_group, SPLITS=triton.next_power_of_2(splits),
        CHANNELS=triton.next_power_of_2(of_group), num_warps=2,
    )  # fmt: skip
    _scaled[(triton.cdiv(pixels, _TILE_PIXELS), tiles, batch)](
        x, factors, out, pixels, channels,
        SILU=silu, PIXELS=_TILE_PIXELS, CHANNELS=_TILE_CHANNELS, num_warps=4,
    )  # fmt: skip
    return out


@triton.jit
def _store_in_8_bits(value, known, out, scales, row, LARGEST: tl.constexpr):
    """One row, scaled so that its largest value is the type's largest."""
    largest = tl.max(tl.where(known, tl.abs(value), 0.0), 0)
    scale = tl.maximum(largest, 1e-12) / LARGEST
    tl.store(scales + row, scale)
    tl.store(out, (value / scale).to(out.dtype.element_ty), mask=known)


@triton.jit
def _layer_norm(
    x, add, weight, bias, total, out, scales, channels, eps,
    HAS_ADD: tl.constexpr, IN_8_BITS: tl.constexpr, LARGEST: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """One row: the sum, rounded as it is kept, and its norm."""
    row = tl.program_id(0).to(tl.int64)
    channel = tl.arange(0, CHANNELS)
    known = channel < channels
    place = row * channels + channel
    value = tl.load(x + place, mask=known, other=0.0).to(tl.float32)
    if HAS_ADD:
        value += tl.load(add + place, mask=known, other=0.0).to(tl.float32)
        rounded = value.to(total.dtype.element_ty)
        tl.store(total + place, rounded, mask=known)
        value = rounded.to(tl.float32)
    mean = tl.sum(value, 0) / channels
    apart = tl.where(known, value - mean, 0.0)
    variance = tl.sum(apart * apart, 0) / channels
    scale = tl.load(weight + channel, mask=known, other=0.0).to(tl.float32)
    plus = tl.load(bias + channel, mask=known, other=0.0).to(tl.float32)
    value = apart / tl.sqrt(variance + eps) * scale + plus
    if IN_8_BITS:
        _store_in_8_bits(value, known, out + place, scales, row, LARGEST)
    else:
        tl.store(out + place, value.to(out.dtype.element_ty), mask=known)


def add_layer_norm(
    x: torch.Tensor,
    add: torch.Tensor | None,
    weight: torch.Tensor,
    bias: torch.Tensor,
    eps: float,
    in_8_bits: bool,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """`x + add`, and its layer norm.

    Args:
        x: (..., channels), contiguous.
        add: As `x`, or None.
        weight: (channels,).
        bias: (channels,).
        eps: Added to the variance.
        in_8_bits: Whether the norm is answered in `EIGHT_BITS`, each row with a scale of its own.

    Returns:
        The sum (`x` itself where nothing is added), the norm, and the scales, (rows, 1) float32, or None.
    """
    channels = x.shape[-1]
    rows = x.numel() // channels
    total = x if add is None else torch.empty_like(x)
    out = torch.empty_like(x, dtype=EIGHT_BITS if in_8_bits else x.dtype)
    scales = torch.empty((rows, 1), dtype=torch.float32, device=x.device) if in_8_bits else None
    block = triton.next_power_of_2(channels)
    _layer_norm[(rows,)](
        x, x if add is None else add, weight, bias, total, out, x if scales is None else scales, channels, eps,
        HAS_ADD=add is not None, IN_8_BITS=in_8_bits, LARGEST=LARGEST, CHANNELS=block,
        num_warps=4 if block >= 1024 else 2,
    )  # fmt: skip
    return total, out, scales


@triton.jit
def _gated(value, gate):
    value = value.to(tl.float32)
    gate = gate.to(tl.float32)
    return value * (gate * 0.5 * (1.0 + tl.erf(gate * 0.7071067811865476)))


@triton.jit
def _geglu(x, out, channels, count, BLOCK: tl.constexpr):
    """value * gelu(gate), where a row holds all values and then all gates."""
    place = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = place < count
    start = x + (place // channels) * 2 * channels + place % channels
    value = tl.load(start, mask=inside, other=0.0)
    gate = tl.load(start + channels, mask=inside, other=0.0)
    tl.store(out + place, _gated(value, gate).to(out.dtype.element_ty), mask=inside)


@triton.jit
def _geglu_in_8_bits(x, out, scales, channels, LARGEST: tl.constexpr, CHANNELS: tl.constexpr):
    """The same, a row at a time."""
    row = tl.program_id(0).to(tl.int64)
    channel = tl.arange(0, CHANNELS)
    known = channel < channels
    start = x + row * 2 * channels + channel
    value = tl.load(start, mask=known, other=0.0)
    gate = tl.load(start + channels, mask=known, other=0.0)
    _store_in_8_bits(_gated(value, gate), known, out + row * channels + channel, scales, row, LARGEST)


def geglu(x: torch.Tensor, in_8_bits: bool) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Gated GELU (Shazeer, "GLU variants improve transformer", 2020), with the exact GELU.

    Args:
        x: (..., 2 * channels), contiguous: values, then gates.
        in_8_bits: As in `add_layer_norm`.

    Returns:
        (..., channels), and the scales or None.
    """
    channels = x.shape[-1] // 2
    out = x.new_empty((*x.shape[:-1], channels), dtype=EIGHT_BITS if in_8_bits else x.dtype)
    if not in_8_bits:
        block = 1024
        _geglu[(triton.cdiv(out.numel(), block),)](x, out, channels, out.numel(), BLOCK=block, num_warps=4)
        return out, None
    rows = out.numel() // channels
    scales = torch.empty((rows, 1), dtype=torch.float32, device=x.device)
    _geglu_in_8_bits[(rows,)](
        x, out, scales, channels, LARGEST=LARGEST, CHANNELS=triton.next_power_of_2(channels), num_warps=8
    )
    return out, scales


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
