"""Finds a model's folder and checks it before anything is loaded, without torch."""

from __future__ import annotations

import json
import math
import re
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from serve_app.errors import ConfigurationError
from serve_app.preflight import available_memory_bytes
from serve_app.settings import BUNDLED_MODEL, MODELS_DIR, PoolSettings

_WITH_WEIGHTS = ("unet", "vae", "text_encoder", "text_encoder_2")
_WITHOUT_WEIGHTS = ("tokenizer", "tokenizer_2", "scheduler")
NEURON_GRAPH = "model.neuron"
"""File name of a part's graph in a model compiled for AWS Neuron."""

_HUB_ID = re.compile(r"(?!.*(--|\.\.))[A-Za-z0-9_][\w.-]*/[\w.-]+", re.ASCII)

_LATENT_CHANNELS = 4  # diffusers' own default of UNets and VAEs

_MEMORY_MARGIN = 1.1  # beside the weights: buffers while loading, activations of a small picture


def local_folder(model: str, model_dirs: Sequence[str] = ()) -> Path | None:
    """The folder that `model` names, or None for a hub id that is in none of `model_dirs`.

    Args:
        model: As configured.
        model_dirs: Folders in which hub ids are looked for first, as ``{folder}/{organisation}/{name}``.

    Raises:
        ConfigurationError: It names a folder that is not there, or is no possible hub id.
    """
    folder = MODELS_DIR / BUNDLED_MODEL if model == BUNDLED_MODEL else Path(model).expanduser()
    if folder.is_dir():
        return folder
    if folder.is_file():
        raise ConfigurationError(
            f"{model} is a file: give a folder in diffusers layout, as "
            "StableDiffusionXLPipeline.from_single_file(...).save_pretrained(...) of diffusers makes of a single file"
        )
    if model == BUNDLED_MODEL:
        raise ConfigurationError(f"the bundled model is missing from {folder}: install the package again")
    if not _HUB_ID.fullmatch(model):
        raise ConfigurationError(
            f"there is no model folder {model}: give a folder in diffusers layout, "
            f"a hub id such as stabilityai/sdxl-turbo, or {BUNDLED_MODEL}"
        )
    return next((found for parent in model_dirs if (found := Path(parent) / model).is_dir()), None)


def choose_variant(folder: Path, wanted: str | None) -> str | None:
    """The weight variant to load: `wanted`, or ``fp16`` where a folder has nothing else."""
    if wanted is None and not weight_files(folder / "unet", None) and weight_files(folder / "unet", "fp16"):
        return "fp16"
    return wanted


def check_folder(folder: Path, variant: str | None) -> None:
    """Checks that `folder` is a complete SDXL model in safetensors.

    Raises:
        ConfigurationError: What is missing, and what to do.
    """
    if is_compiled_for_neuron(folder):
        raise ConfigurationError(
            f"{folder} is compiled for Neuron: use accelerator neuron, or the model it was compiled from"
        )
    check_parts(folder, (*_WITHOUT_WEIGHTS, *_WITH_WEIGHTS))
    takes = read_json(folder / "unet" / "config.json").get("in_channels", _LATENT_CHANNELS)
    made = read_json(folder / "vae" / "config.json").get("latent_channels", _LATENT_CHANNELS)
    if takes != made:
        raise ConfigurationError(
            f"{folder} draws over pictures that it is given (inpainting or editing: its UNet takes {takes} channels "
            f"for its VAE's {made}): only models that draw from text alone can be served"
        )
    for name in _WITH_WEIGHTS:
        part = folder / name
        read_json(part / "config.json")
        files = _files_of(part, variant)
        missing = [file.name for file in files if not file.is_file()]
        if missing:
            raise ConfigurationError(
                f"{part} is incomplete: {', '.join(missing)} missing; download the model again"
            )
        if not files:
            pickled = any(part.glob("*.bin"))
            remedy = (
                "its .bin files are pickles, which could run code: convert them to safetensors"
                if pickled
                else "download the model again"
            )
            of_variant = f" of variant {variant}" if variant else ""
            raise ConfigurationError(f"{part} has no safetensors weights{of_variant}; {remedy}")


def check_parts(folder: Path, names: tuple[str, ...]) -> None:
    """Checks that `folder` holds an SDXL with these parts.

    Raises:
        ConfigurationError: Another kind of model, or a part that its index or the folder lacks.
    """
    index = read_json(folder / "model_index.json")
    if "StableDiffusionXL" not in str(index.get("_class_name")):
        raise ConfigurationError(
            f"{folder} holds a {index.get('_class_name')}: only Stable Diffusion XL models can be served"
        )
    for name in names:
        if index.get(name, [None])[0] is None:
            raise ConfigurationError(f"{folder} has no {name}: only complete SDXL base models can be served")
        if not (folder / name).is_dir():
            raise ConfigurationError(f"{folder} is incomplete: {name}/ is missing; download the model again")


def is_compiled_for_neuron(folder: Path) -> bool:
    """Whether `folder` holds graphs for AWS Neuron, complete or not, in place of weights."""
    if (folder / "unet" / NEURON_GRAPH).is_file():
        return True
    config = folder / "unet" / "config.json"
    return config.is_file() and "neuron" in read_json(config)


def count_weights(folder: Path, variant: str | None) -> int:
    """Numbers in all the weight files of the model, from their headers.

    Raises:
        ConfigurationError: A file is damaged.
    """
    files = (file for name in _WITH_WEIGHTS for file in _files_of(folder / name, variant))
    return sum(_count_weights(file) for file in files)


def loading_bytes(folder: Path, variant: str | None, bytes_per_weight: int) -> int:
    """Bytes of host memory that loading and a small picture take at their peak."""
    return int(count_weights(folder, variant) * bytes_per_weight * _MEMORY_MARGIN)


def check_memory(folder: Path, variant: str | None, bytes_per_weight: int) -> None:
    """Checks that the weights fit into the memory available now.

    Raises:
        ConfigurationError: They do not; says how much is needed and there.
    """
    check_host_memory(folder, loading_bytes(folder, variant, bytes_per_weight))


def check_host_memory(folder: Path, needed: int) -> None:
    """Checks that `needed` bytes are available now.

    Raises:
        ConfigurationError: They are not; says how much is needed and there.
    """
    available = available_memory_bytes()
    if needed > available:
        raise ConfigurationError(
            f"the model {folder} needs {needed / 1e9:.1f} GB of memory but {available / 1e9:.1f} GB are free: "
            "stop other programs, take a smaller model, or a dtype of 16 bits"
        )


def weight_files(part: Path, variant: str | None) -> list[Path]:
    """Files that hold the weights, those missing from disk included; empty when there are none at all."""
    infix = f".{variant}" if variant else ""
    for stem in ("diffusion_pytorch_model", "model"):
        for index in (
            part / f"{stem}.safetensors.index{infix}.json",
            part / f"{stem}{infix}.safetensors.index.json",
        ):
            if index.is_file():
                return [part / name for name in sorted(set(read_json(index)["weight_map"].values()))]
        whole = part / f"{stem}{infix}.safetensors"
        if whole.is_file():
            return [whole]
    return []


def _files_of(part: Path, variant: str | None) -> list[Path]:
    """`weight_files`, and as in diffusers those without the variant where a part has none of it; but for the UNet."""
    return weight_files(part, variant) or ([] if part.name == "unet" else weight_files(part, None))


def _count_weights(file: Path) -> int:
    """Numbers in a safetensors file, from its header."""
    with file.open("rb") as stream:
        try:
            (length,) = struct.unpack("<Q", stream.read(8))
            if length > file.stat().st_size:
                raise ValueError("its header is longer than the file")
            header = json.loads(stream.read(length))
            ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
            if 8 + length + max(ends, default=0) > file.stat().st_size:
                raise ValueError("its end is missing")
        except (struct.error, ValueError, KeyError) as error:
            raise ConfigurationError(f"{file} is damaged ({error}): download the model again") from None
    return sum(math.prod(entry["shape"]) for name, entry in header.items() if name != "__metadata__")


def read_json(file: Path) -> dict[str, Any]:
    """The object in a JSON file of the model.

    Raises:
        ConfigurationError: The file is missing or damaged.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigurationError(
            f"{file} is missing: give a folder in diffusers layout, or download the model again"
        ) from None
    except ValueError as error:
        raise ConfigurationError(f"{file} is damaged ({error}): download the model again") from None
    if not isinstance(content, dict):
        raise ConfigurationError(f"{file} is damaged (no object): download the model again")
    return content


def require(pool: PoolSettings, folder: Path, bytes_per_weight: int) -> str | None:
    """All checks; answers the variant to load.

    Raises:
        ConfigurationError: See `check_folder` and `check_memory`.
    """
    variant = choose_variant(folder, pool.variant)
    check_folder(folder, variant)
    check_memory(folder, variant, bytes_per_weight)
    return variant
