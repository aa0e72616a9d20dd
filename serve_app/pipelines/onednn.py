"""SDXL's layers in oneDNN's own weight layouts and with its fused operations, for CPUs: `fuse_unet`, `fuse_decoder`.

PyTorch's eager layers hand oneDNN plain weights, which it lays out anew in every call, and write every intermediate
result to memory. The operations below are the ones that PyTorch's own compiler emits for CPUs. Called by hand they need
no compiler, no minutes of compiling for each size, and no second copy of the weights:

* weights are laid out once, and the plain ones are given up, layer by layer;
* biases, GELU, the gate of a GEGLU and residual sums are done inside the matrix products and convolutions, before
  results are rounded;
* queries, keys and values of a self-attention are one product;
* keys and values of the text are computed once for all steps of a picture;
* a step up to twice the size and its convolution are one over the small picture;
* everything stays channels_last, so that nothing is transposed between convolutions and transformers.

What is not known here stays as it is in diffusers.
"""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from torch.utils.weak import WeakTensorKeyDictionary

from serve_app.pipelines.group_norm import ChannelsLastGroupNorm
from serve_app.pipelines.onednn_layers import (
    PackedConv2d,
    PackedLinear,
    PackedPointwise,
    PackedUpsample,
    as_picture,
    as_tokens,
)
from serve_app.pipelines.upsampling import knows_upsample

_MAX_REMEMBERED_TEXTS = 16
"""Texts whose keys and values are kept, 26 MB each in a full-size SDXL: more than the pictures a CPU draws in turns."""


def usable() -> bool:
    """Whether this build of PyTorch has the operations (they are its compiler's own, and not part of its interface)."""
    available: Any = torch.backends.mkldnn.is_available
    return available() and all(
        hasattr(torch.ops.mkldnn, name)
        for name in (
            "_linear_pointwise",
            "_convolution_pointwise",
            "_reorder_linear_weight",
            "_reorder_convolution_weight",
        )
    )


class FusedResnet(nn.Module):
    """diffusers' `ResnetBlock2D` without a rescaled output, as SDXL's UNet and VAE have it.

    Args:
        block: The block; its convolutions are taken over.
        exact_norms: Sum the norms as `ChannelsLastGroupNorm` does.
    """

    def __init__(self, block: Any, *, exact_norms: bool) -> None:
        super().__init__()
        self.norm1 = _norm(block.norm1, exact_norms)
        self.conv1 = _take(block, "conv1")
        self.time_emb_proj = block.time_emb_proj
        self.norm2 = _norm(block.norm2, exact_norms)
        self.conv2 = _take(block, "conv2")
        self.conv_shortcut = None if block.conv_shortcut is None else _take(block, "conv_shortcut")

    @staticmethod
    def knows(block: Any) -> bool:
        """Whether `block` computes what `forward` does."""
        return (
            type(block).__name__ == "ResnetBlock2D"
            and block.upsample is None
            and block.downsample is None
            and block.output_scale_factor == 1.0
            # The VAE's blocks have no timestep, and another word there.
            and (block.time_embedding_norm == "default" or block.time_emb_proj is None)
            and block.time_embedding_norm != "scale_shift"
            and not block.skip_time_act
            and isinstance(block.nonlinearity, nn.SiLU)
            and isinstance(block.norm1, (nn.GroupNorm, ChannelsLastGroupNorm))
            and isinstance(block.norm2, (nn.GroupNorm, ChannelsLastGroupNorm))
        )

    def forward(self, x: torch.Tensor, temb: torch.Tensor | None, *_: Any, **__: Any) -> torch.Tensor:
        """As `ResnetBlock2D.forward`.

        Args:
            x: (batch, in, height, width).
            temb: (batch, channels) embedding of the timestep, or None.
        """
        hidden = self.conv1(_normed(self.norm1, x))
        if self.time_emb_proj is not None and temb is not None:
            hidden += self.time_emb_proj(functional.silu(temb))[:, :, None, None]
        hidden = _normed(self.norm2, hidden)
        shortcut = x if self.conv_shortcut is None else self.conv_shortcut(x)
        y: torch.Tensor = self.conv2.plus(hidden, shortcut)
        return y


class FusedTransformerBlock(nn.Module):
    """diffusers' `BasicTransformerBlock` as SDXL's UNet has it: self-attention, attention to the text, GEGLU.

    Args:
        block: The block; its products are taken over.
    """

    def __init__(self, block: Any) -> None:
        super().__init__()
        self.norm1, self.norm2, self.norm3 = block.norm1, block.norm2, block.norm3
        self._heads = block.attn1.heads, block.attn2.heads
        self.qkv = _pack_together(block.attn1, ("to_q", "to_k", "to_v"))
        self.out1 = _take(block.attn1.to_out, "0")
        self.q = _take(block.attn2, "to_q")
        self.kv = _pack_together(block.attn2, ("to_k", "to_v"))
        self.out2 = _take(block.attn2.to_out, "0")
        projection = block.ff.net[0].proj
        values, gates = projection.weight.chunk(2)
        value_bias, gate_bias = (None, None) if projection.bias is None else projection.bias.chunk(2)
        self.value, self.gate = PackedLinear(values, value_bias), PackedLinear(gates, gate_bias)
        del values, gates
        projection.weight = None
        self.down = _take(block.ff.net, "2")
        self._texts: MutableMapping[torch.Tensor, torch.Tensor] = WeakTensorKeyDictionary()

    @staticmethod
    def knows(block: Any) -> bool:
        """Whether `block` computes what `forward` does."""
        return (
            type(block).__name__ == "BasicTransformerBlock"
            and block.norm_type == "layer_norm"
            and block.pos_embed is None
            and not block.only_cross_attention
            and block.attn2 is not None
            and not hasattr(block, "fuser")
            and type(block.ff.net[0]).__name__ == "GEGLU"
            and isinstance(block.ff.net[2], nn.Linear)
            and len(block.ff.net) == 3
            and all(_plain_attention(attention) for attention in (block.attn1, block.attn2))
        )

    def forward(self, x: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
        """As `BasicTransformerBlock.forward`.

        Args:
            x: (batch, positions, channels).
            text: (batch, tokens, channels of the text); must not be changed in place afterwards.
        """
        q, k, v = self.qkv(self.norm1(x)).chunk(3, dim=-1)
        x = self.out1.plus(_attend(q, k, v, self._heads[0]), x)
        k, v = self._text(text).chunk(2, dim=-1)
        x = self.out2.plus(_attend(self.q(self.norm2(x)), k, v, self._heads[1]), x)
        normed = self.norm3(x)
        y: torch.Tensor = self.down.plus(self.value.times(normed, self.gate.gelu(normed)), x)
        return y

    def _text(self, text: torch.Tensor) -> torch.Tensor:
        """Keys and values of `text`: the tensor of a picture drawn alone is the same one in all of its steps."""
        known = self._texts.get(text)
        if known is None:
            known = self.kv(text)
            if len(self._texts) < _MAX_REMEMBERED_TEXTS:
                self._texts[text] = known
        return known


class FusedTransformer(nn.Module):
    """diffusers' `Transformer2DModel` over pictures, with linear projections.

    Args:
        transformer: The model; its products are taken over.
    """

    def __init__(self, transformer: Any) -> None:
        super().__init__()
        self.norm = _norm(transformer.norm, exact=False)
        self.proj_in = _take(transformer, "proj_in")
        self.blocks = nn.ModuleList()
        for index, block in enumerate(transformer.transformer_blocks):
            self.blocks.append(FusedTransformerBlock(block))
            transformer.transformer_blocks[index] = nn.Identity()  # gives its weights up
        self.proj_out = _take(transformer, "proj_out")

    @staticmethod
    def knows(transformer: Any) -> bool:
        """Whether `transformer` computes what `forward` does."""
        return (
            type(transformer).__name__ == "Transformer2DModel"
            and transformer.is_input_continuous
            and transformer.use_linear_projection
            and all(FusedTransformerBlock.knows(block) for block in transformer.transformer_blocks)
        )

    def forward(
        self, x: torch.Tensor, encoder_hidden_states: torch.Tensor, **_: Any
    ) -> tuple[torch.Tensor, ...]:
        """As `Transformer2DModel.forward` without masks, answering a tuple.

        Args:
            x: (batch, channels, height, width).
            encoder_hidden_states: (batch, tokens, channels of the text).
        """
        hidden = self.proj_in(as_tokens(self.norm(x)))
        for block in self.blocks:
            hidden = block(hidden, encoder_hidden_states)
        return (as_picture(self.proj_out.plus(hidden, as_tokens(x)), x),)


def fuse_unet(unet: Any) -> None:
    """Changes an SDXL UNet in place, one layer after another; its plain weights are given up on the way.

    Args:
        unet: A diffusers `UNet2DConditionModel` on the CPU, in bfloat16 or float32.
    """
    _fuse(unet, exact_norms=False)


def fuse_decoder(vae: Any) -> None:
    """Changes the decoder of an SDXL VAE in place, with norms that sum exactly.

    Args:
        vae: A diffusers `AutoencoderKL` on the CPU, in bfloat16 or float32.
    """
    _fuse(vae.decoder, exact_norms=True)


def _fuse(model: Any, *, exact_norms: bool) -> None:
    for name, child in list(model.named_children()):
        if FusedTransformer.knows(child):
            setattr(model, name, FusedTransformer(child))
        elif FusedResnet.knows(child):
            setattr(model, name, FusedResnet(child, exact_norms=exact_norms))
        elif knows_upsample(child):
            setattr(model, name, PackedUpsample(child))
            child.conv.weight = None
        elif isinstance(child, nn.Conv2d) and child.padding_mode == "zeros":
            setattr(model, name, _take(model, name))
        elif isinstance(child, nn.GroupNorm):
            setattr(model, name, _norm(child, exact_norms))
        else:
            _fuse(child, exact_norms=exact_norms)


def _normed(layer: Any, x: torch.Tensor) -> torch.Tensor:
    """SiLU of a norm."""
    exact = isinstance(layer, ChannelsLastGroupNorm)
    y: torch.Tensor = layer(x, silu=True) if exact else functional.silu(layer(x), inplace=True)
    return y


def _norm(layer: Any, exact: bool) -> Any:
    return ChannelsLastGroupNorm(layer) if exact and isinstance(layer, nn.GroupNorm) else layer


def _take(parent: Any, name: str) -> Any:
    """The packed form of a layer, whose own weights are given up."""
    layer = getattr(parent, name)
    packed: nn.Module
    if isinstance(layer, nn.Linear):
        packed = PackedLinear(layer.weight, layer.bias)
    elif PackedPointwise.knows(layer):
        packed = PackedPointwise(layer)
    else:
        packed = PackedConv2d(layer)
    layer.weight = None
    return packed


def _pack_together(attention: Any, names: tuple[str, ...]) -> PackedLinear:
    """One product for several of the same input."""
    layers = [getattr(attention, name) for name in names]
    biases = [layer.bias for layer in layers]
    packed = PackedLinear(
        torch.cat([layer.weight for layer in layers]),
        None if any(bias is None for bias in biases) else torch.cat(biases),
    )
    for layer in layers:
        layer.weight = None
    return packed


def _plain_attention(attention: Any) -> bool:
    """Whether `attention` is softmax(q k / sqrt(d)) v of its inputs and nothing else."""
    biases = [layer.bias is None for layer in (attention.to_q, attention.to_k, attention.to_v)]
    return (
        attention.group_norm is None
        and attention.spatial_norm is None
        and not attention.norm_cross
        and getattr(attention, "norm_q", None) is None
        and getattr(attention, "norm_k", None) is None
        and not attention.residual_connection
        and attention.rescale_output_factor == 1.0
        and attention.scale == (attention.inner_dim // attention.heads) ** -0.5
        and all(biases) == any(biases)
    )


def _attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, heads: int) -> torch.Tensor:
    """(batch, positions, heads * channels) each."""
    q, k, v = (one.view(*one.shape[:2], heads, -1).transpose(1, 2) for one in (q, k, v))
    return functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
