"""Fewer and larger matrix products in the UNet's attention, with the same results: `fuse_self_attention`, `TextStates`.

Both change a UNet of diffusers in place, and keep its weights only once.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers.models.attention_processor import Attention, AttnProcessor2_0, FusedAttnProcessor2_0
from torch import nn


def fuse_self_attention(unet: Any) -> int:
    """Lets each self-attention compute queries, keys and values by one matrix product instead of three.

    Returns:
        How many were changed.
    """
    layers = [layer for layer in _attentions(unet) if not _reads_text(layer)]
    for layer in layers:
        layer.fuse_projections()
        # What fusing leaves behind would hold the weights a second time.
        del layer.to_q, layer.to_k, layer.to_v
        layer.set_processor(FusedAttnProcessor2_0())
    return len(layers)


class TextStates(nn.Module):
    """Keys and values that all cross-attentions make of the text, computed once per picture instead of in every step.

    The UNet hands the text's embeddings to its cross-attentions untouched. So it can be handed all their keys and
    values instead, side by side, and each layer takes its own part. One large product per picture replaces two
    small ones per layer and step (140 in SDXL).

    Args:
        unet: Its cross-attentions are changed: from now on it must be given what `forward` answers.
    """

    def __init__(self, unet: Any) -> None:
        super().__init__()
        layers = [layer for layer in _attentions(unet) if _reads_text(layer)]
        parts = [part for layer in layers for part in (layer.to_k, layer.to_v)]
        weight = torch.cat([part.weight.detach() for part in parts])
        self.all_parts = nn.Linear(
            weight.shape[1], weight.shape[0], bias=False, device="meta", dtype=weight.dtype
        )
        self.all_parts.weight = nn.Parameter(weight, requires_grad=False)
        begin = 0
        for layer in layers:
            width = layer.to_k.weight.shape[0]
            layer.to_k, layer.to_v = _Part(begin, width), _Part(begin + width, width)
            begin += 2 * width

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Computes them.

        Args:
            tokens: (rows, sequence, channels) of the text encoders.

        Returns:
            (rows, sequence, all keys and values).
        """
        states: torch.Tensor = self.all_parts(tokens)
        return states


def can_use_text_states(unet: Any) -> bool:
    """Whether the cross-attentions are as in SDXL: plain projections of the text's embeddings and nothing else."""
    config = unet.config
    if config.get("encoder_hid_dim_type") or config.get("addition_embed_type") != "text_time":
        return False
    layers = [layer for layer in _attentions(unet) if _reads_text(layer)]
    return bool(layers) and all(
        type(layer.processor) is AttnProcessor2_0
        and not layer.norm_cross
        and layer.norm_k is None
        and all(type(part) is nn.Linear and part.bias is None for part in (layer.to_k, layer.to_v))
        and layer.to_k.weight.shape == layer.to_v.weight.shape
        for layer in layers
    )


class _Part(nn.Module):
    """Takes one layer's part of `TextStates`; stands where its projection was."""

    def __init__(self, begin: int, width: int) -> None:
        super().__init__()
        self.begin, self.width = begin, width

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        return states[..., self.begin : self.begin + self.width]


def _attentions(unet: Any) -> list[Any]:
    return [module for module in unet.modules() if isinstance(module, Attention)]


def _reads_text(layer: Any) -> bool:
    reads: bool = layer.is_cross_attention
    return reads
