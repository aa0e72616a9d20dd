"""Sums, norms and activations of SDXL's layers that belong together, in one pass over memory where the device can.

On NVIDIA GPUs they are Triton's (`triton_pictures`, `triton_tokens`), elsewhere PyTorch's own operations one after
another: the same results but for rounding, so that all that is built on them is the same code on every device.
What a linear layer of 8 bits reads is rounded in the same pass.
"""

from __future__ import annotations

import importlib.util
import logging
import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as functional

from serve_app.pipelines import upsampling

log = logging.getLogger(__name__)

EIGHT_BITS = torch.float8_e4m3fn
LARGEST = 448.0  # of EIGHT_BITS
_SMALLEST_SCALE = 1e-12 / LARGEST
_CHECKED_ERROR = 0.02  # relative; bfloat16 itself errs by 0.003
_CHECKED_ERROR_IN_8_BITS = 0.06  # PyTorch's way rounds to bfloat16 first, which alone makes up to 0.017

_INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
"""Triton's own way to run kernels without a device, one operation at a time: for tests."""


def _load() -> Any:
    if not (torch.cuda.is_available() or _INTERPRETED) or importlib.util.find_spec("triton") is None:
        return None
    from serve_app.pipelines import triton_pictures, triton_tokens

    return SimpleNamespace(
        add_layer_norm=triton_tokens.add_layer_norm,
        add_rows=triton_tokens.add_rows,
        geglu=triton_tokens.geglu,
        group_norm=triton_pictures.group_norm,
        add_with_bias=triton_pictures.add_with_bias,
        interleave=triton_pictures.interleave,
    )


_KERNELS = _load()


def _by_kernels(tensor: torch.Tensor) -> bool:
    return _KERNELS is not None and (tensor.is_cuda or _INTERPRETED)


@torch.inference_mode()
def check_kernels(device: torch.device, dtype: torch.dtype, *, in_8_bits: bool = False) -> bool:
    """Has every kernel do a small task, and leaves all to PyTorch from then on where one fails or errs.

    A driver, a GPU or a release of Triton that the kernels do not work with must cost speed, not pictures.

    Args:
        device: Where models will run.
        dtype: They will run in.
        in_8_bits: Whether 8 bits are checked too.

    Returns:
        Whether kernels are in use.
    """
    global _KERNELS
    if _KERNELS is None or not (device.type == "cuda" or _INTERPRETED):
        return False
    kept = _KERNELS
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator).to(device, dtype)

    x, other = (random(2, 64, 24, 20).contiguous(memory_format=torch.channels_last) for _ in range(2))
    groups, add, rows, shift = (
        torch.nn.GroupNorm(8, 64),
        random(2, 64),
        random(2, 30, 640),
        random(640).float(),
    )
    more = Scaled(random(2, 30, 640), random(60, 1).float())
    norm = torch.nn.LayerNorm(640)
    for one in (groups, norm):
        one.to(device, dtype)
    exactly: list[Callable[[], tuple[torch.Tensor, ...]]] = [
        lambda: (group_norm(x, groups, add=add, silu=True), group_norm(x, groups, silu=False)),
        lambda: (*add_layer_norm(rows, more, norm, shift=shift), add_rows(rows, more)),
        lambda: (_plain(geglu(rows)), add_with_bias(x, other, add[0]), interleave(x, add[0, :16])),
    ]
    roughly: list[Callable[[], tuple[torch.Tensor, ...]]] = [
        lambda: add_layer_norm(rows, more, norm, shift=shift, factor=factor_of(norm)),
        lambda: (_plain(geglu(rows, in_8_bits=True)),),
    ]
    tasks = [(task, _CHECKED_ERROR) for task in exactly]
    if in_8_bits:
        tasks += [(task, _CHECKED_ERROR_IN_8_BITS) for task in roughly]
    try:
        for task, allowed in tasks:
            _KERNELS = kept
            answers = task()
            _KERNELS = None
            for answer, expected in zip(answers, task(), strict=True):
                error = (answer.float() - expected.float()).norm() / expected.float().norm()
                if not error <= allowed:
                    raise RuntimeError(f"a kernel's relative error is {error:.3g}")
    except Exception:  # compilers and drivers fail in ways of their own, and none is worth a replica
        _KERNELS = None
        log.warning(
            "Triton's kernels do not work here: PyTorch's own operations take their place", exc_info=True
        )
        return False
    _KERNELS = kept
    return True


def _plain(x: torch.Tensor | Scaled) -> torch.Tensor:
    """As numbers, (rows, channels) where rows have scales."""
    return x.values.float().flatten(0, -2) * x.scales if isinstance(x, Scaled) else x


@dataclass(frozen=True, slots=True)
class Scaled:
    """A tensor each of whose rows has a scale of its own.

    Attributes:
        values: (..., channels); `EIGHT_BITS`, or what a product has made of them.
        scales: (rows, 1) float32: what a row's values are multiplied by.
    """

    values: torch.Tensor
    scales: torch.Tensor

    @classmethod
    def of(cls, x: torch.Tensor) -> Scaled:
        """`x`, (..., channels), rounded to 8 bits."""
        rows = x.flatten(0, -2).float()
        scales = (rows.abs().amax(dim=1, keepdim=True) / LARGEST).clamp(min=_SMALLEST_SCALE)
        return cls((rows / scales).to(EIGHT_BITS).view(x.shape), scales)


def group_norm(
    x: torch.Tensor, norm: torch.nn.GroupNorm, *, add: torch.Tensor | None = None, silu: bool
) -> torch.Tensor:
    """Group norm of `x + add`, then SiLU if asked.

    Args:
        x: (batch, channels, height, width), preferably channels last in memory.
        norm: With weight and bias.
        add: (batch, channels), each row contiguous, added to every pixel; None adds nothing.
        silu: Whether SiLU follows.

    Returns:
        As `x`, channels last in memory.
    """
    if _by_kernels(x):
        x = x.contiguous(memory_format=torch.channels_last)
        answer: torch.Tensor = _KERNELS.group_norm(
            x, norm.weight, norm.bias, norm.num_groups, norm.eps, add, silu
        )
        return answer
    if add is not None:
        x = x + add[:, :, None, None]
    x = norm(x)
    return functional.silu(x) if silu else x


def factor_of(norm: torch.nn.LayerNorm) -> float:
    """What a layer norm is multiplied by for 8 bits: its largest possible value becomes the type's largest.

    A row of n numbers with mean 0 and variance 1 has none beyond sqrt(n). Floating-point types keep their digits far
    below their largest number, so that nothing is lost by a factor that holds for every row, and no row's largest
    number has to be found.
    """
    weight, bias = norm.weight.detach().float().abs(), norm.bias.detach().float().abs()
    largest = (weight * math.sqrt(len(weight)) + bias).max().item()
    return LARGEST / max(largest, 1e-12)


def add_layer_norm(
    x: torch.Tensor,
    add: Scaled | None,
    norm: torch.nn.LayerNorm,
    *,
    shift: torch.Tensor | None = None,
    factor: float | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """`x + add`, and the layer norm of `x + add + shift`.

    Args:
        x: (..., channels).
        add: As `x`; None adds nothing.
        norm: Over the last dimension, with weight and bias.
        shift: (channels,); None adds nothing.
        factor: What the norm is multiplied by to be answered in `EIGHT_BITS`, see `factor_of`; None answers it as `x`.

    Returns:
        The sum and the norm.
    """
    if _by_kernels(x):
        answer: tuple[torch.Tensor, torch.Tensor] = _KERNELS.add_layer_norm(
            x.contiguous(),
            None if add is None else add.values.contiguous(),
            None if add is None else add.scales,
            shift,
            norm.weight,
            norm.bias,
            norm.eps,
            factor,
        )
        return answer
    if add is not None:
        x = add_rows(x, add)
    normed = norm(x if shift is None else x + shift.to(x.dtype))
    return x, normed if factor is None else (normed.float() * factor).to(EIGHT_BITS)


def add_rows(x: torch.Tensor, add: Scaled) -> torch.Tensor:
    """`x + add`.

    Args:
        x: (..., channels).
        add: As `x`.
    """
    if _by_kernels(x):
        answer: torch.Tensor = _KERNELS.add_rows(x.contiguous(), add.values.contiguous(), add.scales)
        return answer
    return (x.float() + _plain(add).view(x.shape)).to(x.dtype)


def geglu(x: torch.Tensor, *, in_8_bits: bool = False) -> torch.Tensor | Scaled:
    """Gated GELU of (..., 2 * channels): the first half times GELU of the second; as `Scaled` if asked."""
    if _by_kernels(x):
        values, scales = _KERNELS.geglu(x.contiguous(), in_8_bits)
        return values if scales is None else Scaled(values, scales)
    value, gate = x.chunk(2, dim=-1)
    answer = value * functional.gelu(gate)
    return Scaled.of(answer) if in_8_bits else answer


def add_with_bias(x: torch.Tensor, add: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """`x + add + bias`.

    Args:
        x: (batch, channels, height, width).
        add: As `x`.
        bias: (channels,).
    """
    if _by_kernels(x):
        answer: torch.Tensor = _KERNELS.add_with_bias(
            x.contiguous(memory_format=torch.channels_last),
            add.contiguous(memory_format=torch.channels_last),
            bias,
        )
        return answer
    return x + (add + bias[:, None, None])


def interleave(parts: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """Puts a picture's four quarters together, pixel by pixel, and adds a bias.

    Args:
        parts: (batch, 4 * channels, height + 1, width + 1), as in `upsampling.interleave`.
        bias: (channels,).

    Returns:
        (batch, channels, 2 * height, 2 * width).
    """
    if _by_kernels(parts):
        answer: torch.Tensor = _KERNELS.interleave(parts.contiguous(memory_format=torch.channels_last), bias)
        return answer
    return upsampling.interleave(parts) + bias[:, None, None]
