"""Where a pool's model comes from and what its files say, without torch: bundled, a folder, or the hub."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from serve_app.capabilities import ModelDefaults
from serve_app.errors import ConfigurationError
from serve_app.model_files import (
    check_folder,
    choose_variant,
    count_weights,
    is_compiled_for_neuron,
    loading_bytes,
    local_folder,
    read_json,
)
from serve_app.neuron_model import largest_graph_bytes, read_compiled
from serve_app.noise_schedulers import find
from serve_app.settings import BUNDLED_MODEL, MODELS_DIR, PoolSettings

HUB_TIMEOUT_S = 10.0
"""How long the hub may take to answer whether a model exists."""

FEW_STEPS = 4
"""Steps of a model distilled to few steps: what stabilityai/sdxl-turbo's and LCM-LoRA SDXL's cards draw with."""

BASE_STEPS = 30
"""Steps of an undistilled SDXL: where its pictures stop improving visibly with Euler; diffusers' 50 costs 1.7x."""

BASE_GUIDANCE_SCALE = 5.0
"""diffusers' own default of `StableDiffusionXLPipeline.__call__`."""


@dataclass(frozen=True, slots=True)
class ModelSource:
    """A model that was found.

    Attributes:
        model: As configured.
        source: ``bundled``, ``folder``, ``hub cache`` or ``hub`` (not downloaded yet).
        folder: Where its files lie; None for ``hub``.
    """

    model: str
    source: str
    folder: Path | None


def locate_model(pool: PoolSettings) -> ModelSource:
    """Finds the pool's model and checks that it is complete.

    Raises:
        ConfigurationError: It is missing or incomplete, or the hub cannot be asked; with the remedy.
    """
    folder = local_folder(pool.model, pool.model_dirs)
    if folder is None:
        return _from_hub(pool)
    _check(folder, pool)
    return ModelSource(pool.model, "bundled" if pool.model == BUNDLED_MODEL else "folder", folder)


def _check(folder: Path, pool: PoolSettings) -> None:
    """Checks that a model is complete, in whichever of the two layouts it has.

    Raises:
        ConfigurationError: It is not.
    """
    if is_compiled_for_neuron(folder):
        read_compiled(folder)
    else:
        check_folder(folder, choose_variant(folder, pool.variant))


def _from_hub(pool: PoolSettings) -> ModelSource:
    """A hub id: its folder in the local cache, or ``hub`` when the hub confirms that it can be downloaded."""
    from huggingface_hub import errors

    if (cached := cached_folder(pool)) is not None:
        try:
            _check(cached, pool)
            return ModelSource(pool.model, "hub cache", cached)
        except ConfigurationError:
            pass  # not completely: ask the hub
    try:
        files = hub_files(pool)
    except errors.GatedRepoError:
        raise ConfigurationError(
            f"{pool.model} is gated: accept its terms on the hub and set HF_TOKEN to a token that may read it"
        ) from None
    except errors.RevisionNotFoundError:
        raise ConfigurationError(
            f"{pool.model} has no revision {pool.revision!r}; correct REVISION"
        ) from None
    except errors.RepositoryNotFoundError:
        raise ConfigurationError(
            f"the hub knows no model {pool.model!r}, or it is private; correct MODEL or set HF_TOKEN"
        ) from None
    except network_failures():
        raise ConfigurationError(
            f"{pool.model} is not in the local cache and the hub cannot be reached from here; connect this machine, "
            f"copy the model into a folder and set MODEL to it, or use the bundled model (MODEL={BUNDLED_MODEL})"
        ) from None
    if "model_index.json" not in files:
        raise ConfigurationError(f"{pool.model} has no model_index.json, so it is no diffusers model")
    return ModelSource(pool.model, "hub", None)


def hub_files(pool: PoolSettings) -> frozenset[str]:
    """Names of the files that the hub has of the pool's model.

    The hub's own package waits without end for an answer where a firewall swallows the question.

    Raises:
        Exception: One of `network_failures`; those of a model that is not there are among them.
    """
    import huggingface_hub

    told = huggingface_hub.HfApi(token=pool.token()).model_info(
        pool.model, revision=pool.revision, timeout=HUB_TIMEOUT_S
    )
    return frozenset(sibling.rfilename for sibling in told.siblings or ())


def cached_folder(pool: PoolSettings) -> Path | None:
    """The model's folder in the hub's cache, complete or not; None where there is none."""
    import huggingface_hub
    from huggingface_hub import errors

    try:
        return Path(
            huggingface_hub.snapshot_download(
                pool.model, revision=pool.revision, local_files_only=True, token=pool.token()
            )
        )
    except (errors.LocalEntryNotFoundError, errors.RepositoryNotFoundError):
        return None


def network_failures() -> tuple[type[Exception], ...]:
    """What asking the hub may raise, with those of whichever HTTP client its package uses (it does not wrap them)."""
    from huggingface_hub import errors

    clients = (("httpx2", "TransportError"), ("httpx", "TransportError"), ("requests", "RequestException"))
    found = (getattr(sys.modules.get(module), name, None) for module, name in clients)
    own = (errors.HfHubHTTPError, errors.OfflineModeIsEnabled, OSError)
    return (*own, *(kind for kind in found if kind is not None))


def host_bytes(source: ModelSource, pool: PoolSettings, bytes_per_weight: int) -> int:
    """Bytes of host memory that one replica needs for the model; 0 when it is not downloaded yet."""
    if source.folder is None:
        return 0
    if is_compiled_for_neuron(source.folder):
        return largest_graph_bytes(source.folder)
    return loading_bytes(source.folder, choose_variant(source.folder, pool.variant), bytes_per_weight)


def model_defaults(folder: Path, pool: PoolSettings, *, size: tuple[int, int] | None = None) -> ModelDefaults:
    """Size, steps and guidance of a model, from its own config files; the pool's settings win.

    Size is the UNet's ``sample_size`` times the VAE's downscale. A model that counts as distilled to few steps has 4
    steps without guidance; see `_is_distilled`.

    Args:
        folder: The model in diffusers layout.
        pool: Settings that override single defaults.
        size: (width, height) in pixels of a model that can draw no other; None reads it from the configs.
    """
    scheduler = read_json(folder / "scheduler" / "scheduler_config.json")
    class_name = str(scheduler.get("_class_name", "EulerDiscreteScheduler"))
    distilled = _is_distilled(class_name, scheduler)
    steps = FEW_STEPS if distilled else BASE_STEPS
    guidance = 0.0 if distilled else BASE_GUIDANCE_SCALE
    width, height = size or pool.default_size or _usual_size(folder)
    return ModelDefaults(
        height=height,
        width=width,
        num_inference_steps=pool.num_inference_steps or steps,
        guidance_scale=guidance if pool.guidance_scale is None else pool.guidance_scale,
        scheduler_name=find(class_name) or class_name,
    ).limited_to(pool.sizes)


def _is_distilled(class_name: str, scheduler: Mapping[str, Any]) -> bool:
    """Whether a noise scheduler's config is that of a model distilled to few steps: LCM's, or ``trailing``.

    SDXL-Turbo, Lightning and Hyper space their timesteps ``trailing``, undistilled SDXL ``leading``. Models of zero
    terminal SNR need ``trailing`` for any number of steps (https://arxiv.org/abs/2305.08891, section 3.3), so one of
    these is distilled where it says so itself. That key is private, as diffusers understands it: it keeps it, and reads
    over it.
    """
    if class_name.startswith(("LCM", "TCD")) or scheduler.get("_distilled"):
        return True
    return scheduler.get("timestep_spacing") == "trailing" and not scheduler.get("rescale_betas_zero_snr")


def _usual_size(folder: Path) -> tuple[int, int]:
    sample_size = read_json(folder / "unet" / "config.json").get("sample_size", 128)
    vae = read_json(folder / "vae" / "config.json")
    scale = 2 ** (len(vae.get("block_out_channels", (1, 1, 1, 1))) - 1)
    # diffusers allows one side or (height, width).
    side = (sample_size if isinstance(sample_size, int) else max(sample_size)) * scale
    return side, side


def local_models() -> list[dict[str, Any]]:
    """Every SDXL that can be served without a download: the bundled one, then the hub cache's.

    Returns:
        Per model: model, source, folder, weights (how many numbers), width, height, num_inference_steps,
        guidance_scale.
    """
    from huggingface_hub import constants, scan_cache_dir

    sources = [ModelSource(BUNDLED_MODEL, "bundled", MODELS_DIR / BUNDLED_MODEL)]
    if Path(constants.HF_HUB_CACHE).is_dir():
        for repository in scan_cache_dir().repos:
            for revision in repository.revisions:
                if repository.repo_type == "model" and "main" in revision.refs:
                    sources.append(ModelSource(repository.repo_id, "hub cache", Path(revision.snapshot_path)))
    found = []
    for source in sources:
        pool = PoolSettings(model=source.model)
        assert source.folder is not None
        variant = choose_variant(source.folder, None)
        try:
            check_folder(source.folder, variant)
            weights = count_weights(source.folder, variant)
            defaults = model_defaults(source.folder, pool)
        except ConfigurationError:
            continue  # another kind of model, or a partial download
        found.append(
            {
                "model": source.model,
                "source": source.source,
                "folder": str(source.folder),
                "weights": weights,
                "width": defaults.width,
                "height": defaults.height,
                "num_inference_steps": defaults.num_inference_steps,
                "guidance_scale": defaults.guidance_scale,
            }
        )
    return found
