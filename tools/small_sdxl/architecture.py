"""The shapes of the models: small, but of the very classes of Stable Diffusion XL."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from diffusers import AutoencoderKL, EulerDiscreteScheduler, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

VOCABULARY: Final = 1600
TOKENS: Final = 77
LATENT_CHANNELS: Final = 16
DOWNSCALE: Final = 32
SAMPLE_SIZE: Final = 16

UNET: Final[dict[str, Any]] = {
    "sample_size": SAMPLE_SIZE,
    "in_channels": LATENT_CHANNELS,
    "out_channels": LATENT_CHANNELS,
    "block_out_channels": (64, 128, 160),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "layers_per_block": 1,
    "transformer_layers_per_block": 1,
    "attention_head_dim": (2, 4, 5),
    "norm_num_groups": 16,
    "cross_attention_dim": 192,
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 32,
    "projection_class_embeddings_input_dim": 128 + 6 * 32,
}
VAE: Final[dict[str, Any]] = {
    "in_channels": 3,
    "out_channels": 3,
    "latent_channels": LATENT_CHANNELS,
    "block_out_channels": (8, 16, 32, 64, 80, 96),
    "down_block_types": ("DownEncoderBlock2D",) * 6,
    "up_block_types": ("UpDecoderBlock2D",) * 6,
    "layers_per_block": 1,
    "norm_num_groups": 2,
    "mid_block_add_attention": False,
    "use_quant_conv": False,
    "use_post_quant_conv": False,
    "sample_size": 512,
    "scaling_factor": 1.0,
    "force_upcast": False,
}
SCHEDULER: Final[dict[str, Any]] = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
    "prediction_type": "v_prediction",
    "rescale_betas_zero_snr": True,
    "timestep_spacing": "trailing",
    "steps_offset": 1,
}


@dataclass(frozen=True)
class TextShape:
    """How large one text encoder is."""

    width: int
    layers: int
    heads: int
    projection: int | None = None


TEXT_ONE: Final = TextShape(width=64, layers=2, heads=4)
TEXT_TWO: Final = TextShape(width=128, layers=3, heads=4, projection=128)


def text_config(shape: TextShape) -> CLIPTextConfig:
    """The CLIP configuration of a text encoder; its end token is the last of the vocabulary."""
    return CLIPTextConfig(
        vocab_size=VOCABULARY,
        hidden_size=shape.width,
        intermediate_size=shape.width * 2,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        max_position_embeddings=TOKENS,
        hidden_act="gelu",
        projection_dim=shape.projection or shape.width,
        bos_token_id=VOCABULARY - 2,
        eos_token_id=VOCABULARY - 1,
        pad_token_id=VOCABULARY - 1,
    )


def new_text_encoders() -> tuple[CLIPTextModel, CLIPTextModelWithProjection]:
    """Both text encoders with fresh weights; word embeddings start wide, or text is ignored for long."""
    one = CLIPTextModel(text_config(TEXT_ONE))
    two = CLIPTextModelWithProjection(text_config(TEXT_TWO))
    for model in (one, two):
        model.get_input_embeddings().weight.data.normal_(std=0.7)
    return one, two


def new_unet() -> UNet2DConditionModel:
    """A fresh UNet whose last convolution starts at zero."""
    unet = UNet2DConditionModel(**UNET)
    unet.conv_out.weight.data.zero_()
    unet.conv_out.bias.data.zero_()
    return unet


def new_vae() -> AutoencoderKL:
    """A fresh VAE whose residual branches start at zero."""
    vae = AutoencoderKL(**VAE)
    for name, module in vae.named_modules():
        if name.endswith("conv2"):
            module.weight.data.zero_()
            module.bias.data.zero_()
    return vae


def new_scheduler() -> EulerDiscreteScheduler:
    """The sampler that the model ships with."""
    return EulerDiscreteScheduler(**SCHEDULER)
