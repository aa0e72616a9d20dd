"""A step up as one convolution of the small picture against diffusers' own two, plain and laid out for oneDNN."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from diffusers.models.upsampling import Upsample2D
from torch import nn
from torch.nn import functional

from serve_app.pipelines.fused_residual import FusedUpsample
from serve_app.pipelines.onednn_layers import PackedUpsample
from serve_app.pipelines.upsampling import interleave, knows_upsample, quarter_weights


@pytest.fixture(autouse=True)
def _no_gradients() -> Iterator[None]:
    with torch.inference_mode():
        torch.manual_seed(0)
        yield


@pytest.mark.parametrize(("height", "width"), [(5, 4), (1, 1), (8, 16)])
def test_quarters_are_the_whole(height: int, width: int) -> None:
    x, weight = torch.randn(2, 6, height, width), torch.randn(10, 6, 3, 3)
    whole = functional.conv2d(functional.interpolate(x, scale_factor=2.0), weight, padding=1)
    parts = functional.conv2d(x, quarter_weights(weight), padding=1)
    torch.testing.assert_close(interleave(parts), whole, rtol=1e-5, atol=1e-5)


def test_sums_of_weights_are_rounded_once() -> None:
    weight = torch.zeros(1, 1, 3, 3, dtype=torch.bfloat16)
    weight[0, 0, 0, 0], weight[0, 0, 0, 1], weight[0, 0, 1, 0] = 1.0, 2.0**-8, 2.0**-8
    # 1 + 2**-8 alone rounds to 1; both together are the next number of the type.
    assert quarter_weights(weight)[3, 0, 0, 0].item() == 1.0 + 2.0**-7


@pytest.mark.parametrize("make", [FusedUpsample, PackedUpsample])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("channels", [6, 64])
def test_a_block_answers_the_same(
    make: Callable[[Any], nn.Module], layout: torch.memory_format, channels: int
) -> None:
    stock: Any = Upsample2D(channels, use_conv=True, out_channels=10).to(memory_format=layout)
    x = torch.randn(3, channels, 5, 4).contiguous(memory_format=layout)
    wanted = [(None, stock(x)), ((10, 8), stock(x, (10, 8))), ((9, 8), stock(x, (9, 8)))]
    ours = make(stock)
    for size, expected in wanted:
        torch.testing.assert_close(ours(x, size), expected, rtol=1e-5, atol=1e-5)
        assert (
            ours(x, size).is_contiguous(memory_format=torch.channels_last)
            or layout is torch.contiguous_format
        )


@pytest.mark.parametrize(
    "options",
    [
        {"use_conv": False},
        {"use_conv": False, "use_conv_transpose": True},
        {"use_conv": True, "norm_type": "ln_norm", "elementwise_affine": True, "eps": 1e-5},
        {"use_conv": True, "interpolate": False},
        {"use_conv": True, "kernel_size": 1, "padding": 0},
        {"use_conv": True, "bias": False},
        {"use_conv": True, "name": "Conv2d_0"},
    ],
)
def test_other_steps_up_are_not_taken_for_it(options: dict[str, Any]) -> None:
    assert knows_upsample(Upsample2D(8, use_conv=True))
    assert not knows_upsample(Upsample2D(8, **options))
