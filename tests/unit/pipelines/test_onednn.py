"""Fused layers answer what diffusers' own layers do, in float32 to the last digits and in bfloat16 no worse."""

from __future__ import annotations

import copy
import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import nn

from serve_app.pipelines import onednn, onednn_layers
from serve_app.pipelines.onednn import FusedResnet, FusedTransformer, FusedTransformerBlock

pytestmark = pytest.mark.skipif(not onednn.usable(), reason="this build of PyTorch has no oneDNN")

TEXT_CHANNELS = 64
POOLED_CHANNELS = 32


@pytest.fixture(scope="module")
def unet(tiny_sdxl: Path) -> Any:
    """diffusers' own, float32."""
    return UNet2DConditionModel.from_pretrained(tiny_sdxl / "unet").eval().requires_grad_(False)


@pytest.fixture(scope="module")
def vae(tiny_sdxl: Path) -> Any:
    """diffusers' own, float32."""
    return AutoencoderKL.from_pretrained(tiny_sdxl / "vae").eval().requires_grad_(False)


def fused_of(model: Any, fuse: Callable[[Any], None], dtype: torch.dtype) -> Any:
    fused = copy.deepcopy(model).to(dtype)
    fuse(fused)
    return fused


def call(unet: Any, rows: int, height: int, width: int, text: torch.Tensor | None = None) -> torch.Tensor:
    """(rows, 4, height, width) float32 from inputs that depend on the shape alone."""
    dtype = unet.dtype
    generator = torch.Generator().manual_seed(7)
    sample = torch.randn(rows, 4, height, width, generator=generator).to(dtype)
    tokens = torch.randn(rows, 77, TEXT_CHANNELS, generator=generator).to(dtype) if text is None else text
    pooled = torch.randn(rows, POOLED_CHANNELS, generator=generator).to(dtype)
    answer: torch.Tensor = unet(
        sample,
        torch.linspace(900, 100, rows),
        encoder_hidden_states=tokens,
        added_cond_kwargs={"text_embeds": pooled, "time_ids": torch.full((rows, 6), 128.0)},
        return_dict=False,
    )[0]
    return answer.float()


def relative(one: torch.Tensor, other: torch.Tensor) -> float:
    """Distance over length."""
    return float((one - other).norm() / other.norm())


# Odd sizes: the UNet interpolates on its way up.
@pytest.mark.parametrize(("rows", "height", "width"), [(1, 16, 16), (3, 17, 12), (2, 8, 24)])
@torch.inference_mode()
def test_a_unet_answers_the_same(unet: Any, rows: int, height: int, width: int) -> None:
    exact = call(unet, rows, height, width)
    fused = fused_of(unet, onednn.fuse_unet, torch.float32)
    assert relative(call(fused, rows, height, width), exact) < 1e-5
    plain16 = relative(call(copy.deepcopy(unet).to(torch.bfloat16), rows, height, width), exact)
    fused16 = fused_of(unet, onednn.fuse_unet, torch.bfloat16)
    assert relative(call(fused16, rows, height, width), exact) < 1.3 * plain16


@torch.inference_mode()
def test_a_decoder_answers_the_same(vae: Any) -> None:
    latents = torch.randn(2, 4, 16, 20, generator=torch.Generator().manual_seed(3))
    exact = vae.decode(latents, return_dict=False)[0]
    fused = fused_of(vae, onednn.fuse_decoder, torch.float32)
    assert relative(fused.decode(latents, return_dict=False)[0], exact) < 1e-5
    half = latents.bfloat16()
    plain16 = copy.deepcopy(vae).to(torch.bfloat16).decode(half, return_dict=False)[0]
    fused16 = fused_of(vae, onednn.fuse_decoder, torch.bfloat16).decode(half, return_dict=False)[0]
    assert relative(fused16.float(), exact) < 1.3 * relative(plain16.float(), exact)


def test_nothing_large_is_left_plain(unet: Any, vae: Any) -> None:
    fused = fused_of(unet, onednn.fuse_unet, torch.bfloat16)
    kinds = {type(module) for module in fused.modules()}
    assert {FusedResnet, FusedTransformer, FusedTransformerBlock} <= kinds
    assert nn.Conv2d not in kinds
    left = sum(parameter.numel() for parameter in fused.parameters())
    assert left < 0.2 * sum(parameter.numel() for parameter in unet.parameters()), "weights are there twice"
    decoder = fused_of(vae, onednn.fuse_decoder, torch.bfloat16).decoder
    assert not [module for module in decoder.modules() if isinstance(module, (nn.Conv2d, nn.GroupNorm))]


@torch.inference_mode()
def test_texts_are_remembered_by_the_tensor_and_forgotten_with_it(unet: Any) -> None:
    fused = fused_of(unet, onednn.fuse_unet, torch.float32)
    block = next(module for module in fused.modules() if isinstance(module, FusedTransformerBlock))
    first, second = torch.randn(1, 77, TEXT_CHANNELS), torch.randn(1, 77, TEXT_CHANNELS)
    answers = [call(fused, 1, 8, 8, text) for text in (first, second, first)]
    assert torch.equal(answers[0], answers[2])
    assert not torch.equal(answers[0], answers[1])
    assert relative(answers[1], call(unet, 1, 8, 8, second)) < 1e-5
    assert len(block._texts) == 2
    del first, second
    gc.collect()
    assert len(block._texts) == 0
    many = [torch.randn(1, 77, TEXT_CHANNELS) for _ in range(onednn._MAX_REMEMBERED_TEXTS + 3)]
    for text in many:
        call(fused, 1, 8, 8, text)
    assert len(block._texts) == onednn._MAX_REMEMBERED_TEXTS


@pytest.mark.parametrize(
    ("kernel", "stride", "padding"), [(3, 1, 1), (3, 2, 1), (1, 1, 0), (1, 2, 0), (3, 2, 0)]
)
@torch.inference_mode()
def test_convolutions(kernel: int, stride: int, padding: int) -> None:
    torch.manual_seed(0)
    parent = nn.ModuleDict({"conv": nn.Conv2d(16, 24, kernel, stride, padding)})
    x = torch.randn(2, 16, 9, 13)
    exact = parent["conv"](x)
    packed = onednn._take(parent, "conv")
    assert torch.allclose(packed(x), exact, atol=1e-5)
    assert torch.allclose(packed(x.contiguous(memory_format=torch.channels_last)), exact, atol=1e-5)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 5), (5, 1), (6, 4)])
@torch.inference_mode()
def test_a_sum_in_a_convolution(height: int, width: int) -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(16, 16, 3, padding=1)
    x, other = torch.randn(2, 16, height, width), torch.randn(2, 16, height, width)
    exact = conv(x) + other
    packed = onednn_layers.PackedConv2d(conv)
    for layout in (torch.contiguous_format, torch.channels_last):
        assert torch.allclose(packed.plus(x, other.contiguous(memory_format=layout)), exact, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "value"),
    [("output_scale_factor", 2.0), ("time_embedding_norm", "scale_shift"), ("upsample", nn.Identity())],
)
def test_a_block_that_computes_something_else_is_left_alone(unet: Any, name: str, value: Any) -> None:
    block = copy.deepcopy(unet.down_blocks[0].resnets[0])
    assert FusedResnet.knows(block)
    setattr(block, name, value)
    assert not FusedResnet.knows(block)


@pytest.mark.parametrize(
    ("name", "value"), [("scale", 1.0), ("residual_connection", True), ("norm_cross", True)]
)
def test_an_attention_that_computes_something_else_is_left_alone(unet: Any, name: str, value: Any) -> None:
    block = copy.deepcopy(unet.down_blocks[1].attentions[0].transformer_blocks[0])
    assert FusedTransformerBlock.knows(block)
    setattr(block.attn1, name, value)
    assert not FusedTransformerBlock.knows(block)
