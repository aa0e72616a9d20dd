"""`load_sdxl`: from `PoolSettings` to a `SdxlPipeline`, the same for every device."""

from __future__ import annotations

import logging
import re
import time
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import diffusers.utils.logging
import torch
import transformers.utils.logging
from diffusers import StableDiffusionXLPipeline, UNet2DConditionModel

from serve_app.capabilities import ModelDefaults
from serve_app.errors import ConfigurationError
from serve_app.model_files import local_folder, require, weight_files
from serve_app.model_source import cached_folder, hub_files, model_defaults, network_failures
from serve_app.pipelines.group_norm import use_channels_last
from serve_app.pipelines.sdxl import SdxlPipeline
from serve_app.pipelines.shared_cores import SharedCores
from serve_app.pipelines.weights import read_model
from serve_app.settings import PoolSettings

log = logging.getLogger(__name__)

_PART_OF_SEVERAL = r"(?:-\d{5}-of-\d{5})?"
_UNET_WEIGHTS = re.compile(rf"unet/\w+{_PART_OF_SEVERAL}(?:\.(\w+?))?{_PART_OF_SEVERAL}\.safetensors")
"""A file's name on the hub; its group is the variant."""


def load_sdxl(
    pool: PoolSettings,
    *,
    device: torch.device,
    dtype: torch.dtype,
    cores: SharedCores | None = None,
    concurrent_decodes: Callable[[ModelDefaults], int] = lambda defaults: 0,
    tune: Callable[[Any], None] = lambda stock: use_channels_last(stock.vae),
) -> SdxlPipeline:
    """Loads the pool's model straight into `dtype`, from safetensors only.

    Args:
        pool: Which model, and what overrides its defaults.
        device: Where all of it runs.
        dtype: Of the UNet, the text encoders and (but for float16, see `SdxlPipeline`) the VAE.
        cores: The cores of a CPU, for `SdxlPipeline`.
        concurrent_decodes: See `Capabilities`; of the model's defaults.
        tune: Changes the loaded `StableDiffusionXLPipeline` for a CPU, in place.

    Raises:
        ConfigurationError: No such model, an incomplete one, no way to the hub, or too little memory.
    """
    began = time.monotonic()
    stock, folder = load_stock(pool, dtype, lean=device.type == "cpu")
    move(stock, device, pool)
    if device.type == "cpu":
        tune(stock)
    log.info("loaded %s as %s on %s in %.1f s", pool.model, dtype, device, time.monotonic() - began)
    defaults = model_defaults(folder, pool)
    return SdxlPipeline(
        stock,
        device=device,
        defaults=defaults,
        max_rows=pool.max_rows,
        max_pixels=pool.max_pixels,
        exact_batches=pool.exact_batches,
        cores=cores,
        concurrent_decodes=concurrent_decodes(defaults),
    )


def load_stock(pool: PoolSettings, dtype: torch.dtype, *, lean: bool = False) -> tuple[Any, Path]:
    """Loads the pool's model straight into `dtype` in host memory, from safetensors only.

    Args:
        pool: Which model.
        dtype: Of all its parts.
        lean: Read the UNet, which is most of it, without a copy of its files in memory: for devices whose memory is
            the process's own.

    Returns:
        The `StableDiffusionXLPipeline`, ready for inference, and the folder it came from.

    Raises:
        ConfigurationError: No such model, an incomplete one, no way to the hub, or too little memory.
    """
    quiet()
    folder = local_folder(pool.model, pool.model_dirs) or download(pool)
    variant = require(pool, folder, dtype.itemsize)
    try:
        with warnings.catch_warnings():
            # Newer diffusers would rather hear `dtype`, which older ones silently ignore.
            warnings.filterwarnings("ignore", message=".*torch_dtype.*", category=FutureWarning)
            # add_watermarker: stock marks pictures only where an optional package happens to be installed.
            stock: Any = StableDiffusionXLPipeline.from_pretrained(
                folder,
                torch_dtype=dtype,
                variant=variant,
                use_safetensors=True,
                local_files_only=True,
                add_watermarker=False,
                **({"unet": None} if lean else {}),
            )
        if lean:
            unet = folder / "unet"
            stock.register_modules(
                unet=read_model(UNet2DConditionModel, unet, weight_files(unet, variant), dtype)
            )
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise ConfigurationError(f"the model {pool.model} cannot be loaded: {first_line(error)}") from error
    for part in (stock.unet, stock.vae, stock.text_encoder, stock.text_encoder_2):
        part.requires_grad_(False)
        part.eval()
    return stock, folder


def move(stock: Any, device: torch.device, pool: PoolSettings) -> None:
    """Moves a model, or one of its parts, to `device`.

    Raises:
        ConfigurationError: It does not fit.
    """
    try:
        stock.to(device)
    except torch.OutOfMemoryError as error:
        raise ConfigurationError(
            f"the model {pool.model} does not fit into the device's memory: take a larger device, "
            "a smaller model, or a dtype of 16 bits"
        ) from error


def quiet() -> None:
    """Keeps both libraries' progress bars and advice out of logs and terminals; errors are still raised."""
    for library in (diffusers.utils.logging, transformers.utils.logging):
        library.disable_progress_bar()
        library.set_verbosity_error()


def download(pool: PoolSettings) -> Path:
    """The model from the hub, only the files that are needed; from its cache where the hub does not answer.

    Raises:
        ConfigurationError: It is in neither.
    """
    try:
        variant = _variant_on_hub(pool, hub_files(pool))
    except network_failures() as error:
        return from_cache(pool, error)
    try:
        return Path(
            StableDiffusionXLPipeline.download(
                pool.model,
                revision=pool.revision,
                variant=variant,
                token=pool.token(),
                use_safetensors=True,
            )
        )
    except network_failures() as error:
        raise not_downloadable(pool, error) from error
    except ValueError as error:
        raise not_downloadable(pool, error) from error


def from_cache(pool: PoolSettings, error: Exception) -> Path:
    """The model's folder in the hub's cache, where asking the hub ended with `error`.

    Raises:
        ConfigurationError: It is not there.
    """
    folder = cached_folder(pool)
    if folder is None:
        raise not_downloadable(pool, error) from error
    log.warning("the hub does not answer, %s is taken from its cache: %s", pool.model, first_line(error))
    return folder


def _variant_on_hub(pool: PoolSettings, files: Iterable[str]) -> str | None:
    """The variant to download: the pool's own, or ``fp16`` where the hub has nothing else.

    Raises:
        ConfigurationError: The hub does not have it.
    """
    found = {match[1] for match in map(_UNET_WEIGHTS.fullmatch, files) if match}
    if None not in found and pool.variant is None and "fp16" in found:
        return "fp16"
    if pool.variant not in found:
        there = sorted(name or "without a variant" for name in found)
        raise ConfigurationError(
            f"the model {pool.model} cannot be downloaded: the hub has no safetensors weights of its UNet"
            + (f" of variant {pool.variant}" if pool.variant else "")
            + (f", only: {', '.join(there)}; correct variant" if there else ": take another model")
        )
    return pool.variant


def not_downloadable(pool: PoolSettings, error: Exception) -> ConfigurationError:
    """The refusal, with its remedy, for what the hub's package raised."""
    name = type(error).__name__
    if name == "GatedRepoError":
        remedy = "it is gated: accept its licence on the hub and set hub_token_env"
    elif name in {"RepositoryNotFoundError", "RevisionNotFoundError"}:
        remedy = "the hub has no such model or revision (or it is private: set hub_token_env)"
    elif name in {"EntryNotFoundError", "RemoteEntryNotFoundError"}:
        remedy = f"the hub's model lacks a file ({first_line(error)})"
    else:
        remedy = (
            "it is not in the cache and the hub cannot be reached: "
            f"check the network, or give a local folder ({first_line(error)})"
        )
    return ConfigurationError(f"the model {pool.model} cannot be downloaded: {remedy}")


def first_line(error: BaseException) -> str:
    """What `error` says, short enough for a sentence of our own."""
    return str(error).strip().splitlines()[0][:300] if str(error).strip() else type(error).__name__
