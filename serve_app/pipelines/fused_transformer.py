"""SDXL's transformer with fewer operations: `FusedTransformer`.

Sums and norms go together, the layout stays channels last, and what a product of 8 bits reads is made in the same pass.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as functional
from diffusers.models.activations import GEGLU
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.attention_processor import Attention, AttnProcessor2_0, FusedAttnProcessor2_0
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from torch import nn

from serve_app.pipelines.fused_operations import Scaled, add_layer_norm, geglu, group_norm


class FusedTransformer(nn.Module):
    """A `Transformer2DModel` of the kind that SDXL has.

    Args:
        model: Whose layers it takes.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.norm, self.proj_in, self.proj_out = model.norm, model.proj_in, model.proj_out
        self.transformer_blocks = model.transformer_blocks

    def forward(
        self, hidden_states: torch.Tensor, encoder_hidden_states: torch.Tensor, **unused: Any
    ) -> tuple[torch.Tensor]:
        """As the model's own, always answering a tuple.

        Args:
            hidden_states: (rows, channels, height, width).
            encoder_hidden_states: (rows, sequence, channels) of the text, or what `TextStates` makes of it.
            **unused: What diffusers' blocks pass on to others; masks are not known here.

        Raises:
            ValueError: A mask was given.
        """
        if unused.get("attention_mask") is not None or unused.get("encoder_attention_mask") is not None:
            raise ValueError("attention masks are not known here")
        rows, channels, height, width = hidden_states.shape
        hidden = group_norm(hidden_states, self.norm, silu=False)
        tokens = self.proj_in(hidden.permute(0, 2, 3, 1).reshape(rows, height * width, channels))
        added: torch.Tensor | None = (
            None  # what the last part of a block adds, together with the next one's norm
        )
        for block in self.transformer_blocks:
            widen, _, narrow = block.ff.net
            eight = not isinstance(narrow, nn.Linear)  # see `serve_app.pipelines.eight_bits`
            tokens, normed = add_layer_norm(tokens, added, block.norm1, in_8_bits=eight)
            read = _self_attention(block.attn1, normed)
            tokens, normed = add_layer_norm(tokens, read, block.norm2, in_8_bits=eight)
            read = _cross_attention(block.attn2, normed, encoder_hidden_states)
            tokens, normed = add_layer_norm(tokens, read, block.norm3, in_8_bits=eight)
            added = narrow(geglu(widen.proj(normed), in_8_bits=eight))
        if added is not None:
            tokens = tokens + added
        drawn = self.proj_out(tokens).reshape(rows, height, width, channels).permute(0, 3, 1, 2)
        return (drawn + hidden_states,)


def _self_attention(attention: Any, hidden: torch.Tensor | Scaled) -> torch.Tensor:
    if attention.fused_projections:
        query, key, value = attention.to_qkv(hidden).chunk(3, dim=-1)
    else:
        query, key, value = attention.to_q(hidden), attention.to_k(hidden), attention.to_v(hidden)
    return _attend(attention, query, key, value)


def _cross_attention(attention: Any, hidden: torch.Tensor | Scaled, text: torch.Tensor) -> torch.Tensor:
    return _attend(attention, attention.to_q(hidden), attention.to_k(text), attention.to_v(text))


def _attend(attention: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    query, key, value = (
        one.view(*one.shape[:2], attention.heads, -1).transpose(1, 2) for one in (query, key, value)
    )
    mixed = functional.scaled_dot_product_attention(query, key, value)
    answer: torch.Tensor = attention.to_out[0](mixed.transpose(1, 2).flatten(2))
    return answer


def is_plain_transformer(model: Any) -> bool:
    """Whether it is a transformer of the kind that SDXL has."""
    return bool(
        isinstance(model, Transformer2DModel)
        and model.is_input_continuous
        and model.use_linear_projection
        and type(model.norm) is nn.GroupNorm
        and len(model.transformer_blocks)
        and all(_plain_block(block) for block in model.transformer_blocks)
    )


def _plain_block(block: Any) -> bool:
    return bool(
        type(block) is BasicTransformerBlock
        and block.norm_type == "layer_norm"
        and block.pos_embed is None
        and block.attn2 is not None
        and not block.only_cross_attention
        and block._chunk_size is None
        and len(block.ff.net) == 3
        and type(block.ff.net[0]) is GEGLU
        and block.ff.net[1].p == 0.0
        and all(
            type(norm) is nn.LayerNorm and norm.bias is not None
            for norm in (block.norm1, block.norm2, block.norm3)
        )
        and _plain_attention(block.attn1)
        and _plain_attention(block.attn2)
    )


def _plain_attention(attention: Any) -> bool:
    return bool(
        type(attention) is Attention
        and type(attention.processor) in (AttnProcessor2_0, FusedAttnProcessor2_0)
        and attention.group_norm is None
        and attention.spatial_norm is None
        and attention.norm_q is None
        and attention.norm_k is None
        and not attention.norm_cross
        and not attention.residual_connection
        and attention.rescale_output_factor == 1.0
        and attention.to_out[1].p == 0.0
    )
