"""`load_sdxl`: from `PoolSettings` to a `SdxlPipeline`, the same for every device."""

from __future__ import annotations

import logging
import time
import warnings
from pathlib import Path
from typing import Any

import diffusers.utils.logging
import torch
import transformers.utils.logging
from diffusers import StableDiffusionXLPipeline

from serve_app.errors import ConfigurationError
from serve_app.model_files import local_folder, require
from serve_app.model_source import model_defaults
from serve_app.pipelines.group_norm import use_channels_last
from serve_app.pipelines.sdxl import SdxlPipeline
from serve_app.pipelines.shared_cores import SharedCores
from serve_app.settings import PoolSettings

log = logging.getLogger(__name__)


def load_sdxl(
    pool: PoolSettings,
    *,
    device: torch.device,
    dtype: torch.dtype,
    cores: SharedCores | None = None,
    concurrent_decodes: int = 0,
) -> SdxlPipeline:
    """Loads the pool's model straight into `dtype`, from safetensors only.

    Args:
        pool: Which model, and what overrides its defaults.
        device: Where all of it runs.
        dtype: Of the UNet, the text encoders and (but for float16, see `SdxlPipeline`) the VAE.
        cores: The cores of a CPU, for `SdxlPipeline`.
        concurrent_decodes: See `Capabilities`.

    Raises:
        ConfigurationError: No such model, an incomplete one, no way to the hub, or too little memory.
    """
    began = time.monotonic()
    _quiet()
    folder = local_folder(pool.model) or _download(pool)
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
            )
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise ConfigurationError(f"the model {pool.model} cannot be loaded: {_first_line(error)}") from error
    try:
        stock.to(device)
    except torch.OutOfMemoryError as error:
        raise ConfigurationError(
            f"the model {pool.model} does not fit into the device's memory: take a larger device, "
            "a smaller model, or a dtype of 16 bits"
        ) from error
    for part in (stock.unet, stock.vae, stock.text_encoder, stock.text_encoder_2):
        part.requires_grad_(False)
        part.eval()
    if device.type == "cpu":
        use_channels_last(stock.vae)
    log.info("loaded %s as %s on %s in %.1f s", pool.model, dtype, device, time.monotonic() - began)
    return SdxlPipeline(
        stock,
        device=device,
        defaults=model_defaults(folder, pool),
        max_rows=pool.max_rows,
        max_pixels=pool.max_pixels,
        exact_batches=pool.exact_batches,
        cores=cores,
        concurrent_decodes=concurrent_decodes,
    )


def _quiet() -> None:
    """Keeps both libraries' progress bars and advice out of logs and terminals; errors are still raised."""
    for library in (diffusers.utils.logging, transformers.utils.logging):
        library.disable_progress_bar()
        library.set_verbosity_error()


def _download(pool: PoolSettings) -> Path:
    """The model from the hub, or from its cache; only the files that are needed."""
    token = pool.hub_token.get_secret_value() if pool.hub_token else None
    try:
        return Path(
            StableDiffusionXLPipeline.download(
                pool.model,
                revision=pool.revision,
                variant=pool.variant,
                token=token,
                use_safetensors=True,
            )
        )
    except (OSError, ValueError) as error:  # the hub's and the network's errors are OSErrors
        name = type(error).__name__
        if name == "GatedRepoError":
            remedy = "it is gated: accept its licence on the hub and set hub_token"
        elif name in {"RepositoryNotFoundError", "RevisionNotFoundError"}:
            remedy = "the hub has no such model or revision (or it is private: set hub_token)"
        else:
            remedy = (
                "it is not in the cache and the hub cannot be reached: "
                f"check the network, or give a local folder ({_first_line(error)})"
            )
        raise ConfigurationError(f"the model {pool.model} cannot be downloaded: {remedy}") from error


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0][:300] if str(error).strip() else type(error).__name__
