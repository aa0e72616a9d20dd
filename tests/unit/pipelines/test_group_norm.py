"""Group normalisation in channels_last against float64."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from serve_app.pipelines.group_norm import ChannelsLastGroupNorm, use_channels_last


def error(layer: nn.GroupNorm, x: torch.Tensor) -> float:
    """Largest difference to torch's own layer in float64, in standard deviations (the layer's output has one)."""
    exact = nn.functional.group_norm(
        x.double(), layer.num_groups, layer.weight.double(), layer.bias.double(), layer.eps
    )
    return float((ChannelsLastGroupNorm(layer)(x).double() - exact).abs().max())


def layer_of(groups: int, channels: int) -> nn.GroupNorm:
    layer = nn.GroupNorm(groups, channels, eps=1e-6)
    nn.init.normal_(layer.weight, 1.0, 0.2)
    nn.init.normal_(layer.bias)
    return layer


@pytest.mark.parametrize(
    ("groups", "channels", "height", "width"),
    [(2, 8, 512, 512), (2, 16, 96, 160), (32, 128, 128, 128), (32, 512, 64, 64), (4, 8, 5, 7)],
)
@torch.inference_mode()
def test_it_is_as_exact_as_float32_can_be(groups: int, channels: int, height: int, width: int) -> None:
    torch.manual_seed(0)
    # A mean far from zero is what sums of squares lose digits on.
    x = torch.randn(1, channels, height, width) * 3 + 20 * torch.randn(1, channels, 1, 1)
    assert error(layer_of(groups, channels), x.contiguous(memory_format=torch.channels_last)) < 1e-4


@torch.inference_mode()
def test_any_layout_dtype_and_rank() -> None:
    torch.manual_seed(0)
    layer = layer_of(2, 8)
    x = torch.randn(3, 8, 20, 12)
    ours = ChannelsLastGroupNorm(layer)
    assert torch.allclose(ours(x), layer(x), atol=1e-5), "plain layout, several pictures"
    assert ours(x.bfloat16()).dtype == torch.bfloat16
    assert torch.allclose(ours(x.bfloat16()).float(), layer(x), atol=0.1)
    tokens = torch.randn(3, 8, 20)
    assert torch.equal(ours(tokens), layer(tokens))


@torch.inference_mode()
def test_silu_is_of_the_result_before_it_is_rounded() -> None:
    torch.manual_seed(0)
    layer = layer_of(2, 8)
    x = torch.randn(2, 8, 300, 260)  # more than one slice
    exact = nn.functional.silu(layer(x))
    ours = ChannelsLastGroupNorm(layer)
    assert torch.allclose(ours(x, silu=True), exact, atol=1e-5)
    assert torch.equal(ours(x.bfloat16(), silu=True), ours(x.bfloat16().float(), silu=True).bfloat16())
    assert torch.allclose(ours(x[:, :, 0], silu=True), nn.functional.silu(layer(x[:, :, 0])), atol=1e-5)


@torch.inference_mode()
def test_a_flat_channel_is_not_divided_by_nothing() -> None:
    layer = layer_of(2, 8)
    assert torch.isfinite(ChannelsLastGroupNorm(layer)(torch.full((1, 8, 16, 16), 1000.0))).all()


def test_every_layer_of_a_model_is_replaced_and_shares_its_weights() -> None:
    inner = nn.Sequential(nn.GroupNorm(2, 8), nn.SiLU())
    model = nn.ModuleDict({"block": inner, "norm": nn.GroupNorm(2, 8)})
    weight = inner[0].weight
    use_channels_last(model)
    assert not [module for module in model.modules() if isinstance(module, nn.GroupNorm)]
    assert inner[0].weight is weight
