"""Fused blocks against diffusers' own, whole and in 8 bits; blocks that are not as in SDXL stay."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import nn

from serve_app.pipelines.attention_layout import fuse_self_attention
from serve_app.pipelines.eight_bits import Linear8, to_eight_bits
from serve_app.pipelines.fused_layers import fuse_layers
from serve_app.pipelines.fused_operations import Scaled
from serve_app.pipelines.fused_residual import FusedNorm, FusedResnet, FusedUpsample, TimeStates
from serve_app.pipelines.fused_transformer import FusedTransformer
from tools.make_sdxl import UNET, UNET_COMMON, VAE, VAE_COMMON


@pytest.fixture(autouse=True)
def _no_gradients() -> Iterator[None]:
    with torch.inference_mode():
        yield


@pytest.fixture(scope="module")
def unet() -> Any:
    torch.manual_seed(0)
    made = UNet2DConditionModel.from_config({**UNET_COMMON, **UNET["tiny"]}).eval()
    for weight in made.parameters():  # biases and norms too, or a forgotten one would not show
        weight.data += 0.1 * torch.randn_like(weight)
    return made


def count(model: nn.Module, kind: type) -> int:
    return sum(isinstance(module, kind) for module in model.modules())


def answer(
    unet: Any, dtype: torch.dtype = torch.float32, size: tuple[int, int] = (12, 8), seed: int = 1
) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    sample, text, pooled = (
        torch.randn(shape, generator=generator).to(dtype) for shape in ((2, 4, *size), (2, 77, 64), (2, 32))
    )
    told = {"text_embeds": pooled, "time_ids": torch.tensor([[96.0, 64, 0, 0, 96, 64]] * 2)}
    drawn: torch.Tensor = unet(
        sample, torch.tensor([900.0, 3.0]), encoder_hidden_states=text, added_cond_kwargs=told
    ).sample
    return drawn.float()


@pytest.mark.parametrize("fused_qkv", [False, True])
def test_a_unet_answers_the_same(unet: Any, fused_qkv: bool) -> None:
    expected = answer(unet)
    fused = copy.deepcopy(unet)
    if fused_qkv:
        fuse_self_attention(fused)
    # Two levels of one layer: 2 + 4 + 2 residual blocks, 1 + 2 + 1 transformers, the step up, the norm at the end.
    assert fuse_layers(fused) == 8 + 4 + 1 + 1
    assert (count(fused, FusedResnet), count(fused, FusedTransformer)) == (8, 4)
    assert (count(fused, FusedUpsample), count(fused, FusedNorm)) == (1, 1)
    torch.testing.assert_close(answer(fused), expected, rtol=1e-4, atol=1e-4)
    assert sum(weight.numel() for weight in fused.parameters()) == sum(w.numel() for w in unet.parameters())


def test_a_side_that_cannot_be_halved_answers_the_same(unet: Any) -> None:
    fused = copy.deepcopy(unet)
    fuse_layers(fused)
    torch.testing.assert_close(answer(fused, size=(11, 7)), answer(unet, size=(11, 7)), rtol=1e-4, atol=1e-4)


def test_the_time_is_told_once_per_call_and_anew_in_each(unet: Any) -> None:
    fused = copy.deepcopy(unet)
    fuse_layers(fused)
    products = []
    (states,) = {module for module in fused.modules() if isinstance(module, TimeStates)}
    states.all_parts.register_forward_hook(lambda *_: products.append(1))
    first, again = answer(fused), answer(fused, seed=2)
    assert len(products) == 2
    torch.testing.assert_close(again, answer(unet, seed=2), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(first, again)


def test_a_decoder_answers_the_same() -> None:
    torch.manual_seed(0)
    vae: Any = AutoencoderKL.from_config({**VAE_COMMON, **VAE["tiny"]}).eval()
    for weight in vae.parameters():
        weight.data += 0.1 * torch.randn_like(weight)
    latents = torch.randn(1, 4, 8, 6)
    expected = vae.decode(latents).sample
    assert (
        fuse_layers(vae.decoder) == 8 + 2 + 3 + 1
    )  # two blocks of four levels, two in the middle, three steps up, the norm at the end
    torch.testing.assert_close(vae.decode(latents).sample, expected, rtol=1e-4, atol=1e-4)


def test_what_is_not_as_in_sdxl_stays(unet: Any) -> None:
    other = copy.deepcopy(unet)
    for module in other.modules():
        if hasattr(module, "output_scale_factor"):
            module.output_scale_factor = 2.0
        if hasattr(module, "rescale_output_factor"):
            module.rescale_output_factor = 2.0
    expected = answer(other)
    assert fuse_layers(other) == 2  # the step up and the norm alone
    torch.testing.assert_close(answer(other), expected)


def test_masks_are_refused(unet: Any) -> None:
    fused = copy.deepcopy(unet)
    fuse_layers(fused)
    transformer = next(module for module in fused.modules() if isinstance(module, FusedTransformer))
    with pytest.raises(ValueError, match="masks"):
        transformer(torch.zeros(1, 64, 2, 2), torch.zeros(1, 3, 64), attention_mask=torch.ones(1, 3))


class TestEightBits:
    def test_a_unet_answers_nearly_the_same(self, unet: Any) -> None:
        expected = answer(unet)
        eight = copy.deepcopy(unet).to(torch.bfloat16)
        fuse_self_attention(eight)
        fuse_layers(eight)
        assert to_eight_bits(eight) == count(eight, Linear8) == 4 * 4  # of one block in each transformer
        error = (answer(eight, torch.bfloat16) - expected).norm() / expected.norm()
        assert 1e-4 < error < 0.1

    @pytest.mark.parametrize("by_row", [False, True])
    def test_a_layer_multiplies_what_it_is_told(self, by_row: bool) -> None:
        torch.manual_seed(0)
        linear = nn.Linear(32, 48).to(torch.bfloat16)
        x = torch.randn(3, 5, 32)
        expected = linear.float()(x)
        layer = Linear8(linear.to(torch.bfloat16), None if by_row else 20.0)
        answer = layer(Scaled.of(x) if by_row else (20.0 * x).to(torch.float8_e4m3fn))
        if by_row:  # scales and bias are left to whoever adds it to something
            assert isinstance(answer, Scaled)
            answer = answer.values.float() * answer.scales.view(3, 5, 1) + linear.bias
        assert isinstance(answer, torch.Tensor)
        error = (answer.float() - expected).norm() / expected.norm()
        assert error < 0.05
        assert layer.weight.dtype == torch.float8_e4m3fn

    def test_sides_that_the_device_cannot_multiply_stay(self, unet: Any) -> None:
        odd = copy.deepcopy(unet)
        fuse_layers(odd)
        for module in odd.modules():
            if isinstance(module, FusedTransformer):
                for block in module.transformer_blocks:
                    block.attn2.to_q = nn.Linear(block.attn2.to_q.in_features, 24)
        assert to_eight_bits(odd) == 0
