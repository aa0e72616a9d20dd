"""The files of a model compiled for AWS Neuron, as optimum-neuron 0.4.5 writes them, around graphs that are none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

LATENT = {"static_height": 128, "static_width": 96, "static_num_channels": 4}
TEXT = {"static_sequence_length": 77}


def write_compiled_model(folder: Path, *, batch: int = 1, **neuron: Any) -> Path:
    """Writes a model for 768x1024 pixels.

    Args:
        folder: Made if missing.
        batch: Rows of every part.
        neuron: Changes to the section ``neuron`` of every part.
    """
    section = {
        "compiler_type": "neuronx-cc",
        "compiler_version": "2.21.33363.0+82129205",
        "dynamic_batch_size": False,
        "float_dtype": "fp32",
        "instance_type": "inf2",
        "static_batch_size": batch,
        "tensor_parallel_size": 1,
        **neuron,
    }
    parts: dict[str, dict[str, Any]] = {
        "unet": {"neuron": {**section, **LATENT, **TEXT}, "time_cond_proj_dim": None},
        "vae_decoder": {"neuron": {**section, **LATENT}, "block_out_channels": [128, 256, 512, 512]},
        "text_encoder": {"neuron": {**section, **TEXT}},
        "text_encoder_2": {"neuron": {**section, **TEXT}},
    }
    for name, config in parts.items():
        write(folder / name / "config.json", config)
        (folder / name / "model.neuron").write_bytes(bytes(100 if name == "unet" else 10))
    write(folder / "scheduler" / "scheduler_config.json", {"_class_name": "EulerDiscreteScheduler"})
    for name in ("tokenizer", "tokenizer_2"):
        (folder / name).mkdir(exist_ok=True)
    index = {name: ["a", "b"] for name in ("scheduler", "tokenizer", "tokenizer_2", "unet", "vae")}
    write(folder / "model_index.json", {"_class_name": "StableDiffusionXLPipeline", **index})
    return folder


def change(folder: Path, part: str, **values: Any) -> None:
    """Changes a part's section ``neuron``; None removes a key."""
    file = folder / part / "config.json"
    config = json.loads(file.read_text(encoding="utf-8"))
    section = {**config["neuron"], **values}
    config["neuron"] = {key: value for key, value in section.items() if value is not None}
    write(file, config)


def write(file: Path, content: dict[str, Any]) -> None:
    """Writes JSON, with the folders around it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content), encoding="utf-8")
