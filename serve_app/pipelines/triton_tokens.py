"""Kernels for NVIDIA GPUs in Triton, over rows of tokens: additions, layer norm and GEGLU, those two also in 8 bits.

Each reads and writes its tensors once, and sums in float32. Only imported where Triton is.
`serve_app.pipelines.fused_operations` chooses between this and PyTorch's own.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

EIGHT_BITS = torch.float8_e4m3fn
LARGEST = tl.constexpr(448.0)
"""The largest number of `EIGHT_BITS`."""

_MANY_ROWS = 1024
"""From here on rows alone fill the device: on an H200 one warp for each is up to a quarter faster than four."""


@triton.jit
def _largest(value, known):
    return tl.max(tl.where(known, tl.abs(value), 0.0), 0)


@triton.jit
def _scale(largest, LARGEST: tl.constexpr):
    """Of a row: its largest value becomes the type's largest."""
    return tl.maximum(largest, 1e-12) / LARGEST


@triton.jit
def _layer_norm(
    x, add, add_scales, shift, weight, bias, total, out, channels, eps, factor,
    HAS_ADD: tl.constexpr, HAS_SHIFT: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """One row: the sum, rounded as it is kept, and the norm of it and the shift."""
    row = tl.program_id(0).to(tl.int64)
    channel = tl.arange(0, CHANNELS)
    known = channel < channels
    place = row * channels + channel
    value = tl.load(x + place, mask=known, other=0.0).to(tl.float32)
    if HAS_ADD:
        value += tl.load(add + place, mask=known, other=0.0).to(tl.float32) * tl.load(add_scales + row)
        rounded = value.to(total.dtype.element_ty)
        tl.store(total + place, rounded, mask=known)
        value = rounded.to(tl.float32)
    if HAS_SHIFT:
        value += tl.load(shift + channel, mask=known, other=0.0).to(tl.float32)
    mean = tl.sum(value, 0) / channels
    apart = tl.where(known, value - mean, 0.0)
    variance = tl.sum(apart * apart, 0) / channels
    scale = tl.load(weight + channel, mask=known, other=0.0).to(tl.float32)
    plus = tl.load(bias + channel, mask=known, other=0.0).to(tl.float32)
    value = (apart / tl.sqrt(variance + eps) * scale + plus) * factor
    tl.store(out + place, value.to(out.dtype.element_ty), mask=known)


def add_layer_norm(
    x: torch.Tensor,
    add: torch.Tensor | None,
    add_scales: torch.Tensor | None,
    shift: torch.Tensor | None,
    weight: torch.Tensor,
    bias: torch.Tensor,
    eps: float,
    factor: float | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """`x + add * add_scales`, and the layer norm of that and `shift`.

    Args:
        x: (..., channels), contiguous.
        add: As `x`, or None.
        add_scales: (rows, 1) float32, where there is `add`.
        shift: (channels,), or None.
        weight: (channels,).
        bias: (channels,).
        eps: Added to the variance.
        factor: What the norm is multiplied by and then answered in `EIGHT_BITS`; None answers it as `x`.

    Returns:
        The sum (`x` itself where nothing is added) and the norm.
    """
    channels = x.shape[-1]
    rows = x.numel() // channels
    total = x if add is None else torch.empty_like(x)
    out = torch.empty_like(x, dtype=x.dtype if factor is None else EIGHT_BITS)
    block = triton.next_power_of_2(channels)
    _layer_norm[(rows,)](
        x, x if add is None else add, x if add_scales is None else add_scales, x if shift is None else shift,
        weight, bias, total, out, channels, eps, 1.0 if factor is None else factor,
        HAS_ADD=add is not None, HAS_SHIFT=shift is not None, CHANNELS=block,
        num_warps=1 if rows >= _MANY_ROWS else 4,
    )  # fmt: skip
    return total, out


@triton.jit
def _add_rows(x, add, add_scales, out, channels, count, BLOCK: tl.constexpr):
    place = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = place < count
    scale = tl.load(add_scales + place // channels, mask=inside, other=0.0)
    value = tl.load(x + place, mask=inside, other=0.0).to(tl.float32)
    value += tl.load(add + place, mask=inside, other=0.0).to(tl.float32) * scale
    tl.store(out + place, value.to(out.dtype.element_ty), mask=inside)


def add_rows(x: torch.Tensor, add: torch.Tensor, add_scales: torch.Tensor) -> torch.Tensor:
    """`x + add * add_scales`; arguments as of `add_layer_norm`."""
    out = torch.empty_like(x)
    block = 1024
    _add_rows[(triton.cdiv(x.numel(), block),)](
        x, add, add_scales, out, x.shape[-1], x.numel(), BLOCK=block, num_warps=4
    )
    return out


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
def _geglu_in_8_bits(
    x, out, scales, channels,
    LARGEST: tl.constexpr, FIRST: tl.constexpr, REST: tl.constexpr,
):  # fmt: skip
    """The same, a row at a time in two pieces: blocks have powers of two, and a mask's idle lanes compute too."""
    row = tl.program_id(0).to(tl.int64)
    x += row * 2 * channels
    out += row * channels
    first = tl.arange(0, FIRST)
    rest = FIRST + tl.arange(0, REST)
    known = rest < channels
    one = _gated(tl.load(x + first), tl.load(x + channels + first))
    two = _gated(
        tl.load(x + rest, mask=known, other=0.0), tl.load(x + channels + rest, mask=known, other=0.0)
    )
    scale = _scale(tl.maximum(tl.max(tl.abs(one), 0), _largest(two, known)), LARGEST)
    tl.store(scales + row, scale)
    tl.store(out + first, (one / scale).to(out.dtype.element_ty))
    tl.store(out + rest, (two / scale).to(out.dtype.element_ty), mask=known)


def geglu(x: torch.Tensor, in_8_bits: bool) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Gated GELU (Shazeer, "GLU variants improve transformer", 2020), with the exact GELU.

    Args:
        x: (..., 2 * channels), contiguous: values, then gates.
        in_8_bits: Whether it is answered in `EIGHT_BITS`, each row with a scale of its own.

    Returns:
        (..., channels), and the scales, (rows, 1) float32, or None.
    """
    channels = x.shape[-1] // 2
    out = x.new_empty((*x.shape[:-1], channels), dtype=EIGHT_BITS if in_8_bits else x.dtype)
    if not in_8_bits:
        block = 1024
        _geglu[(triton.cdiv(out.numel(), block),)](x, out, channels, out.numel(), BLOCK=block, num_warps=4)
        return out, None
    rows = out.numel() // channels
    scales = torch.empty((rows, 1), dtype=torch.float32, device=x.device)
    first = 1 << (channels.bit_length() - 1)  # the largest power of two that fits
    _geglu_in_8_bits[(rows,)](
        x, out, scales, channels,
        LARGEST=LARGEST, FIRST=first, REST=triton.next_power_of_2(max(1, channels - first)),
        num_warps=4,
    )  # fmt: skip
    return out, scales
