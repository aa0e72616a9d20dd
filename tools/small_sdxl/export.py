"""Writes a run as a pipeline folder in the hub's layout: fp16 safetensors that diffusers loads as any SDXL.

The text encoders are written as transformers 4 does (every key under ``text_model.``): version 5 reads that
too, while version 4 would silently start afresh from what version 5 writes.
"""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import diffusers
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch import nn

from tools.small_sdxl.architecture import (
    SAMPLE_SIZE,
    TEXT_ONE,
    TEXT_TWO,
    TOKENS,
    VOCABULARY,
    TextShape,
    new_scheduler,
    new_text_encoders,
    new_unet,
)
from tools.small_sdxl.checkpoint import save_checkpoint
from tools.small_sdxl.vocabulary import save_tokenizer
from tools.small_sdxl.workspace import Workspace

FORMAT = {"format": "pt"}
WEIGHTS = "diffusion_pytorch_model.safetensors"
#: The oldest diffusers the folder is checked with; its version goes into the configurations.
WRITTEN_FOR = "0.35.0"


def _write_json(path: Path, data: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(data, indent=2, sort_keys=True) + "\n")


def _halves(model: nn.Module, prefix: str = "") -> dict[str, torch.Tensor]:
    def key(name: str) -> str:
        bare = name.startswith(("text_model.", "text_projection"))
        return name if bare or not prefix else prefix + name

    return {key(name): tensor.to(torch.float16).contiguous() for name, tensor in model.state_dict().items()}


def _text_config(shape: TextShape, architecture: str) -> dict[str, Any]:
    return {
        "architectures": [architecture],
        "attention_dropout": 0.0,
        "bos_token_id": VOCABULARY - 2,
        "dropout": 0.0,
        "eos_token_id": VOCABULARY - 1,
        "hidden_act": "gelu",
        "hidden_size": shape.width,
        "initializer_factor": 1.0,
        "initializer_range": 0.02,
        "intermediate_size": shape.width * 2,
        "layer_norm_eps": 1e-05,
        "max_position_embeddings": TOKENS,
        "model_type": "clip_text_model",
        "num_attention_heads": shape.heads,
        "num_hidden_layers": shape.layers,
        "pad_token_id": VOCABULARY - 1,
        "projection_dim": shape.projection or shape.width,
        "torch_dtype": "float16",
        "vocab_size": VOCABULARY,
    }


def _diffusers_config(model: Any, name: str) -> dict[str, Any]:
    kept = {key: value for key, value in model.config.items() if not key.startswith("_")}
    return {"_class_name": name, "_diffusers_version": WRITTEN_FOR, **json.loads(json.dumps(kept))}


def export(workspace: Workspace, folder: Path) -> int:
    """Write the pipeline.

    Args:
        workspace: The run to take weights from.
        folder: Where to write; a README.md there is left alone.

    Returns:
        Bytes written.
    """
    one, two = workspace.text_encoders()
    unet, vae = workspace.unet(), workspace.vae()
    for name, model, shape, architecture in (
        ("text_encoder", one, TEXT_ONE, "CLIPTextModel"),
        ("text_encoder_2", two, TEXT_TWO, "CLIPTextModelWithProjection"),
    ):
        _write_json(folder / name / "config.json", _text_config(shape, architecture))
        save_file(_halves(model, "text_model."), folder / name / "model.safetensors", FORMAT)
    for name, module, class_name in (("unet", unet, "UNet2DConditionModel"), ("vae", vae, "AutoencoderKL")):
        _write_json(folder / name / "config.json", _diffusers_config(module, class_name))
        save_file(_halves(module), folder / name / WEIGHTS, FORMAT)
    scheduler = _diffusers_config(new_scheduler(), "EulerDiscreteScheduler")
    # `clip_sample` for who draws with DDIM, which would otherwise clip latents as if they were pixels. The private key
    # since a model of zero terminal SNR says by nothing else that it needs few steps (`serve_app.model_source`).
    _write_json(
        folder / "scheduler" / "scheduler_config.json",
        {**scheduler, "clip_sample": False, "_distilled": True},
    )
    for name in ("tokenizer", "tokenizer_2"):
        save_tokenizer(workspace.tokenizer(), folder / name)
    _write_json(
        folder / "model_index.json",
        {
            "_class_name": "StableDiffusionXLPipeline",
            "_diffusers_version": WRITTEN_FOR,
            "feature_extractor": [None, None],
            "force_zeros_for_empty_prompt": True,
            "image_encoder": [None, None],
            "scheduler": ["diffusers", "EulerDiscreteScheduler"],
            "text_encoder": ["transformers", "CLIPTextModel"],
            "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"],
            "tokenizer": ["transformers", "CLIPTokenizer"],
            "tokenizer_2": ["transformers", "CLIPTokenizer"],
            "unet": ["diffusers", "UNet2DConditionModel"],
            "vae": ["diffusers", "AutoencoderKL"],
        },
    )
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def pack(model: Path, folder: Path, piece: int) -> list[Path]:
    """Write a folder as a tar cut into pieces of so many bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    whole = io.BytesIO()
    with tarfile.open(fileobj=whole, mode="w") as tar:
        tar.add(model, arcname=model.name)
    data = whole.getvalue()
    paths = []
    for k, start in enumerate(range(0, len(data), piece)):
        paths.append(folder / f"small-sdxl.tar.{k:02}")
        paths[-1].write_bytes(data[start : start + piece])
    return paths


def adopt(model: Path, workspace: Workspace) -> None:
    """Make a run that goes on from an exported model: its weights, with fresh optimisers."""
    one, two = new_text_encoders()
    for encoder, name in ((one, "text_encoder"), (two, "text_encoder_2")):
        held = load_file(model / name / "model.safetensors")
        known = encoder.state_dict()
        encoder.load_state_dict(
            {
                key if key in known else key.removeprefix("text_model."): value.float()
                for key, value in held.items()
            }
        )
    save_checkpoint({"one": one.state_dict(), "two": two.state_dict()}, workspace.text_file)
    unet, vae = (
        {key: value.float() for key, value in load_file(model / name / WEIGHTS).items()}
        for name in ("unet", "vae")
    )
    names = [name for name, _ in new_unet().named_parameters()]
    save_checkpoint({"step": 0, "unet": unet, "average": [unet[name] for name in names]}, workspace.unet_file)
    save_checkpoint({"vae": vae}, workspace.vae_file("encoder"))
    save_tokenizer(
        Tokenizer.from_file(str(model / "tokenizer" / "tokenizer.json")), workspace.tokenizer_folder
    )


def load_pipeline(folder: Path) -> diffusers.StableDiffusionXLPipeline:
    """The stock pipeline over an exported folder, in fp32 on the CPU."""
    pipeline = diffusers.StableDiffusionXLPipeline.from_pretrained(folder, add_watermarker=False)
    pipeline.set_progress_bar_config(disable=True)
    if pipeline.unet.config.sample_size != SAMPLE_SIZE:
        raise ValueError(f"{folder} is no export of this model")
    return pipeline.to(torch.float32)
