"""SDXL's transformer with fewer operations: `FusedTransformer`.

Products add to what there is, norms add the biases, the layout stays channels last, and what a product of 8 bits reads
is made in the pass that computes it.
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

from serve_app.pipelines.fused_operations import Scaled, add_layer_norm, add_rows, geglu, group_norm


class FusedTransformer(nn.Module):
    """A `Transformer2DModel` of the kind that SDXL has.

    What the parts of a block add is added by the product that makes it. Their biases never are: each norm adds the sum
    of those before it, and the last projection's bias has what is left of them within.

    Args:
        model: Whose layers it takes.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.norm, self.proj_in, self.proj_out = model.norm, model.proj_in, model.proj_out
        self.transformer_blocks = model.transformer_blocks
        shift = torch.zeros(self.proj_in.out_features, dtype=torch.float32, device=self.proj_in.weight.device)
        shifts = []
        for block in self.transformer_blocks:
            for last in (block.attn1.to_out[0], block.attn2.to_out[0], block.ff.net[2]):
                shifts.append(shift)
                if last.bias is not None:
                    shift = shift + last.bias.detach().float()
        self.register_buffer("shifts", torch.stack(shifts).view(-1, 3, len(shift)))
        bias = self.proj_out.weight.detach().float() @ shift
        if self.proj_out.bias is not None:
            bias = bias + self.proj_out.bias.detach().float()
        self.register_buffer("last_bias", bias.to(self.proj_out.weight.dtype))

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
        shifts: Any = self.shifts
        # A product of 8 bits adds nothing itself: what the last part of a block makes waits for the next block's norm.
        waits: Scaled | None = None
        for block, shift in zip(self.transformer_blocks, shifts, strict=True):
            own, other, (widen, _, narrow) = block.attn1, block.attn2, block.ff.net
            reads = own.to_qkv if own.fused_projections else own.to_q
            tokens, normed = add_layer_norm(tokens, waits, block.norm1, shift=shift[0], factor=_factor(reads))
            _add_product(tokens, _self_attention(own, normed), own.to_out[0])
            _, normed = add_layer_norm(tokens, None, block.norm2, shift=shift[1], factor=_factor(other.to_q))
            _add_product(tokens, _cross_attention(other, normed, encoder_hidden_states), other.to_out[0])
            _, normed = add_layer_norm(tokens, None, block.norm3, shift=shift[2], factor=_factor(widen.proj))
            gated = geglu(widen.proj(normed), in_8_bits=not isinstance(narrow, nn.Linear))
            if isinstance(gated, Scaled):
                waits = narrow(gated)
            else:
                _add_product(tokens, gated, narrow)
                waits = None
        if waits is not None:
            tokens = add_rows(tokens, waits)
        last_bias: Any = self.last_bias
        drawn = functional.linear(tokens, self.proj_out.weight, last_bias)
        return (drawn.reshape(rows, height, width, channels).permute(0, 3, 1, 2) + hidden_states,)


def _factor(layer: Any) -> float | None:
    """What it wants its norm multiplied by; see `serve_app.pipelines.eight_bits`."""
    factor: float | None = getattr(layer, "factor", None)
    return factor


def _add_product(total: torch.Tensor, x: torch.Tensor, linear: nn.Linear) -> None:
    """Adds what `linear` makes of `x`, but for its bias, to `total`, in place."""
    total.flatten(0, 1).addmm_(x.flatten(0, 1), linear.weight.t())


def _self_attention(attention: Any, hidden: torch.Tensor) -> torch.Tensor:
    if attention.fused_projections:
        query, key, value = attention.to_qkv(hidden).chunk(3, dim=-1)
    else:
        query, key, value = attention.to_q(hidden), attention.to_k(hidden), attention.to_v(hidden)
    return _attend(attention, query, key, value)


def _cross_attention(attention: Any, hidden: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
    return _attend(attention, attention.to_q(hidden), attention.to_k(text), attention.to_v(text))


def _attend(attention: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """Before its last layer."""
    query, key, value = (
        one.view(*one.shape[:2], attention.heads, -1).transpose(1, 2) for one in (query, key, value)
    )
    return functional.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)


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
        and type(block.ff.net[2]) is nn.Linear
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
        and type(attention.to_out[0]) is nn.Linear
        and attention.to_out[1].p == 0.0
    )
