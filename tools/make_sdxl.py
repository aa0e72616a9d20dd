"""Writes an SDXL model folder in the hub's layout with random weights.

``--size tiny`` (a few MB, seconds) is for tests; ``--size full`` has SDXL base's exact shapes (about 7 GB in
float16), to see memory and time of real ones without a download::

    python tools/make_sdxl.py /tmp/sdxl-full --size full

It writes one component after another in shards, so the peak of memory is about one shard. Text encoders and
tokenizers are written so that transformers 4.57 and 5 both read them.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

SHARD_BYTES = 2 * 1024**3
WINDOW = 77

Json = dict[str, Any]

UNET: dict[str, Json] = {
    "tiny": {
        "block_out_channels": [32, 64],
        "layers_per_block": 1,
        "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"],
        "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"],
        "attention_head_dim": [2, 4],
        "transformer_layers_per_block": [1, 1],
        "norm_num_groups": 16,
        "sample_size": 16,
        "cross_attention_dim": 64,
        "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": 6 * 8 + 32,
    },
    "full": {
        "block_out_channels": [320, 640, 1280],
        "layers_per_block": 2,
        "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
        "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
        "attention_head_dim": [5, 10, 20],
        "transformer_layers_per_block": [1, 2, 10],
        "sample_size": 128,
        "cross_attention_dim": 2048,
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 2816,
    },
}
UNET_COMMON: Json = {
    "in_channels": 4,
    "out_channels": 4,
    "addition_embed_type": "text_time",
    "use_linear_projection": True,
}
VAE: dict[str, Json] = {
    "tiny": {
        "block_out_channels": [16, 16, 16, 16],
        "layers_per_block": 1,
        "norm_num_groups": 8,
        "sample_size": 128,
    },
    "full": {"block_out_channels": [128, 256, 512, 512], "layers_per_block": 2, "sample_size": 1024},
}
VAE_COMMON: Json = {
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "latent_channels": 4,
    "scaling_factor": 0.13025,
    "force_upcast": True,
}
TEXT: dict[str, tuple[Json, Json]] = {
    "tiny": (
        {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4, "num_hidden_layers": 3},
        {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4, "num_hidden_layers": 3},
    ),
    "full": (
        {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12, "num_hidden_layers": 12},
        {"hidden_size": 1280, "intermediate_size": 5120, "num_attention_heads": 20, "num_hidden_layers": 32},
    ),
}
PROJECTION = {"tiny": (32, 32), "full": (768, 1280)}
VOCABULARY = {"tiny": 1000, "full": 49408}


def make_sdxl(
    folder: Path,
    *,
    size: str = "tiny",
    dtype: torch.dtype = torch.float32,
    scheduler: str = "EulerDiscreteScheduler",
    prediction_type: str = "epsilon",
    timestep_spacing: str = "leading",
    guidance_embedding: bool = False,
    zero_for_empty: bool = True,
    seed: int = 0,
    device: str = "cpu",
) -> Path:
    """Writes the whole folder.

    Args:
        folder: Made if missing; files in it are overwritten.
        size: ``tiny`` or ``full``.
        dtype: Of the weights on disk.
        scheduler: Class name in diffusers.
        prediction_type: ``epsilon`` or ``v_prediction``.
        timestep_spacing: ``leading``, or ``trailing`` as distilled models have.
        guidance_embedding: The UNet takes guidance as an input, as LCM models do.
        zero_for_empty: ``force_zeros_for_empty_prompt`` of the pipeline.
        seed: Of the weights.
        device: Where they are drawn: a GPU takes seconds for what takes a CPU minutes. Each kind of device draws
            others from the same seed.

    Returns:
        `folder`.
    """
    generator = torch.Generator(device).manual_seed(seed)
    folder.mkdir(parents=True, exist_ok=True)
    unet_config: Json = {**UNET_COMMON, **UNET[size]}
    if guidance_embedding:
        unet_config["time_cond_proj_dim"] = 256 if size == "full" else 32
    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(unet_config)
        vae = AutoencoderKL.from_config({**VAE_COMMON, **VAE[size]})
    for name, model in (("unet", unet), ("vae", vae)):
        part = folder / name
        model.save_config(part)
        _write_weights(part, "diffusion_pytorch_model", _shapes(model), dtype, generator)
    for index, (name, text_class) in enumerate(
        (("text_encoder", CLIPTextModel), ("text_encoder_2", CLIPTextModelWithProjection))
    ):
        _write_text_encoder(folder / name, text_class, size, index, dtype, generator)
        _write_tokenizer(
            folder / f"tokenizer{name.removeprefix('text_encoder')}", size, pad="!" if index else None
        )
    _write_json(
        folder / "scheduler" / "scheduler_config.json",
        {
            "_class_name": scheduler,
            "_diffusers_version": "0.35.0",
            "beta_end": 0.012,
            "beta_schedule": "scaled_linear",
            "beta_start": 0.00085,
            "clip_sample": False,
            "num_train_timesteps": 1000,
            "prediction_type": prediction_type,
            "set_alpha_to_one": False,
            "steps_offset": 1,
            "timestep_spacing": timestep_spacing,
        },
    )
    _write_json(
        folder / "model_index.json",
        {
            "_class_name": "StableDiffusionXLPipeline",
            "_diffusers_version": "0.35.0",
            "force_zeros_for_empty_prompt": zero_for_empty,
            "feature_extractor": [None, None],
            "image_encoder": [None, None],
            "scheduler": ["diffusers", scheduler],
            "text_encoder": ["transformers", "CLIPTextModel"],
            "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"],
            "tokenizer": ["transformers", "CLIPTokenizer"],
            "tokenizer_2": ["transformers", "CLIPTokenizer"],
            "unet": ["diffusers", "UNet2DConditionModel"],
            "vae": ["diffusers", "AutoencoderKL"],
        },
    )
    return folder


def _shapes(model: Any) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in model.state_dict().items()}


def _write_text_encoder(
    part: Path, text_class: Any, size: str, index: int, dtype: torch.dtype, generator: torch.Generator
) -> None:
    vocabulary = VOCABULARY[size]
    config = CLIPTextConfig(
        **TEXT[size][index],
        vocab_size=vocabulary,
        max_position_embeddings=WINDOW,
        projection_dim=PROJECTION[size][index],
        hidden_act="gelu" if index else "quick_gelu",
        bos_token_id=vocabulary - 2,
        eos_token_id=vocabulary - 1,
        pad_token_id=0 if index else vocabulary - 1,
    )
    with torch.device("meta"):
        shapes = _shapes(text_class(config))
    # transformers 5 leaves the prefix out of CLIPTextModel and reads both; 4.57 reads only this layout.
    shapes = {
        name if name.startswith(("text_model.", "text_projection.")) else f"text_model.{name}": shape
        for name, shape in shapes.items()
    }
    config.architectures = [text_class.__name__]
    config.save_pretrained(part)
    _write_weights(part, "model", shapes, dtype, generator)


def _write_tokenizer(part: Path, size: str, pad: str | None) -> None:
    """A byte-level BPE of single characters and a few words' merges, filled up to the vocabulary's size."""
    start, end = "<|startoftext|>", "<|endoftext|>"
    symbols = _byte_symbols()
    merges = [("c", "a"), ("ca", "t</w>"), ("d", "o"), ("do", "g</w>"), ("t", "h"), ("th", "e</w>")]
    tokens = [*symbols, *(f"{symbol}</w>" for symbol in symbols), *("".join(pair) for pair in merges)]
    tokens += [f"<unused{index}>" for index in range(VOCABULARY[size] - len(tokens) - 2)]
    tokens += [start, end]
    _write_json(part / "vocab.json", {token: index for index, token in enumerate(tokens)})
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
    (part / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    specials = {"bos_token": start, "eos_token": end, "unk_token": end, "pad_token": pad or end}
    _write_json(part / "special_tokens_map.json", specials)
    _write_json(
        part / "tokenizer_config.json",
        {
            **specials,
            "add_prefix_space": False,
            "do_lower_case": True,
            "errors": "replace",
            "model_max_length": WINDOW,
            "tokenizer_class": "CLIPTokenizer",
        },
    )


def _byte_symbols() -> list[str]:
    """The 256 printable characters that stand for bytes in byte-level BPE, in CLIP's order."""
    printable = [
        *range(ord("!"), ord("~") + 1),
        *range(ord("¡"), ord("¬") + 1),
        *range(ord("®"), ord("ÿ") + 1),
    ]
    others = 256 - len(printable)
    return [chr(code) for code in printable] + [chr(256 + index) for index in range(others)]


def _write_weights(
    part: Path, stem: str, shapes: dict[str, torch.Size], dtype: torch.dtype, generator: torch.Generator
) -> None:
    """Random weights that keep activations finite, in one file or in shards of `SHARD_BYTES`."""
    shards: list[list[str]] = [[]]
    room = SHARD_BYTES
    for name, shape in shapes.items():
        nbytes = math.prod(shape) * dtype.itemsize
        if nbytes > room and shards[-1]:
            shards.append([])
            room = SHARD_BYTES
        shards[-1].append(name)
        room -= nbytes
    part.mkdir(parents=True, exist_ok=True)
    files: dict[str, str] = {}
    for index, names in enumerate(shards):
        infix = f"-{index + 1:05d}-of-{len(shards):05d}" if len(shards) > 1 else ""
        file = f"{stem}{infix}.safetensors"
        tensors = {name: _random(name, shapes[name], dtype, generator) for name in names}
        save_file(tensors, part / file, metadata={"format": "pt"})
        files |= dict.fromkeys(names, file)
    if len(shards) > 1:
        total = sum(math.prod(shape) * dtype.itemsize for shape in shapes.values())
        _write_json(
            part / f"{stem}.safetensors.index.json", {"metadata": {"total_size": total}, "weight_map": files}
        )


def _random(name: str, shape: torch.Size, dtype: torch.dtype, generator: torch.Generator) -> torch.Tensor:
    if len(shape) < 2:  # norms are 1, biases 0
        return torch.ones(shape, dtype=dtype) if name.endswith("weight") else torch.zeros(shape, dtype=dtype)
    fan_in = math.prod(shape[1:])
    values = torch.randn(shape, generator=generator, device=generator.device)
    return values.mul_(1 / math.sqrt(fan_in)).to(dtype).cpu()


def _write_json(file: Path, content: Json) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Write an SDXL folder with random weights.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--size", choices=sorted(UNET), default="tiny")
    parser.add_argument("--dtype", choices=["float32", "float16", "bfloat16"], default="float16")
    parser.add_argument("--scheduler", default="EulerDiscreteScheduler", help="class name in diffusers")
    parser.add_argument("--prediction-type", choices=["epsilon", "v_prediction"], default="epsilon")
    parser.add_argument("--timestep-spacing", choices=["leading", "trailing", "linspace"], default="leading")
    parser.add_argument(
        "--guidance-embedding", action="store_true", help="the UNet takes guidance as an input"
    )
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    make_sdxl(
        arguments.folder,
        size=arguments.size,
        dtype=getattr(torch, arguments.dtype),
        scheduler=arguments.scheduler,
        prediction_type=arguments.prediction_type,
        timestep_spacing=arguments.timestep_spacing,
        guidance_embedding=arguments.guidance_embedding,
        seed=arguments.seed,
    )
    megabytes = sum(file.stat().st_size for file in arguments.folder.rglob("*") if file.is_file()) / 1e6
    print(f"wrote {arguments.folder}: {megabytes:.0f} MB")


if __name__ == "__main__":
    main()
