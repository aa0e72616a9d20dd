"""Where a pool's model comes from and what its files say, without torch: bundled, a folder, or the hub."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from serve_app.capabilities import ModelDefaults
from serve_app.errors import ConfigurationError
from serve_app.settings import BUNDLED_MODEL, MODELS_DIR, PoolSettings

HUB_TIMEOUT_S = 10.0
"""How long the hub may take to answer whether a model exists."""

_COMPONENTS = ("unet", "vae", "text_encoder", "text_encoder_2")

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
    """Finds the pool's model.

    Raises:
        ConfigurationError: It is missing or incomplete, or the hub cannot be asked; with the remedy.
    """
    if pool.model == BUNDLED_MODEL:
        return ModelSource(pool.model, "bundled", _checked(MODELS_DIR / BUNDLED_MODEL, pool))
    folder = Path(pool.model).expanduser()
    if folder.is_dir():
        return ModelSource(pool.model, "folder", _checked(folder, pool))
    if pool.model.count("/") != 1 or pool.model.startswith((".", "/", "~")):
        raise ConfigurationError(
            f"model {pool.model!r} is neither {BUNDLED_MODEL!r}, nor a folder on this machine, nor a hub id "
            "such as stabilityai/sdxl-turbo; correct MODEL or make the folder"
        )
    return _from_hub(pool)


def _checked(folder: Path, pool: PoolSettings) -> Path:
    """`folder`, when it has all the parts of an SDXL pipeline in safetensors."""
    index = _read_json(folder / "model_index.json")
    if not index:
        raise ConfigurationError(
            f"{folder} has no readable model_index.json, so it is no diffusers folder; "
            "save the model with save_pretrained() or name another"
        )
    kind = index.get("_class_name", "")
    if "StableDiffusionXL" not in str(kind):
        raise ConfigurationError(f"{folder} holds a {kind}, only StableDiffusionXL models can be served")
    for component in _COMPONENTS:
        if not _weight_files(folder / component, pool.variant):
            what = f"*.{pool.variant}.safetensors" if pool.variant else "*.safetensors"
            raise ConfigurationError(
                f"{folder / component} has no {what}; the download is incomplete, or the weights are in pickle "
                "files, which are never loaded: convert them with save_pretrained(safe_serialization=True)"
            )
    return folder


def _weight_files(component: Path, variant: str | None) -> list[Path]:
    """The component's safetensors of one variant (sharded or not); the plain ones where `variant` is None.

    A folder that has only one variant (``*.fp16.safetensors``) gives that one.
    """
    files = sorted(component.glob("*.safetensors"))
    if variant is not None:
        return [f for f in files if f".{variant}" in f.name]
    plain = [f for f in files if f.stem.count(".") == 0]
    return plain or files


def only_variant(folder: Path) -> str | None:
    """The variant to ask diffusers for when a folder has no plain weights, e.g. ``fp16``; else None."""
    files = _weight_files(folder / "unet", None)
    stems = {f.stem.partition("-000")[0] for f in files}
    variants = {stem.rpartition(".")[2] for stem in stems if "." in stem}
    return variants.pop() if len(variants) == 1 and all("." in stem for stem in stems) else None


def _from_hub(pool: PoolSettings) -> ModelSource:
    """A hub id: its folder in the local cache, or ``hub`` when the hub confirms that it can be downloaded."""
    import huggingface_hub
    from huggingface_hub import errors

    token = pool.hub_token.get_secret_value() if pool.hub_token else None
    try:
        cached = huggingface_hub.snapshot_download(
            pool.model, revision=pool.revision, local_files_only=True, token=token
        )
        return ModelSource(pool.model, "hub cache", _checked(Path(cached), pool))
    except (errors.LocalEntryNotFoundError, errors.RepositoryNotFoundError, ConfigurationError):
        pass  # not (completely) in the cache: ask the hub
    try:
        files = {
            sibling.rfilename
            for sibling in huggingface_hub.HfApi(token=token)
            .model_info(pool.model, revision=pool.revision, timeout=HUB_TIMEOUT_S)
            .siblings
            or ()
        }
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
    except _network_failures():
        raise ConfigurationError(
            f"{pool.model} is not in the local cache and the hub cannot be reached from here; connect this machine, "
            f"copy the model into a folder and set MODEL to it, or use the bundled model (MODEL={BUNDLED_MODEL})"
        ) from None
    if "model_index.json" not in files:
        raise ConfigurationError(f"{pool.model} has no model_index.json, so it is no diffusers model")
    return ModelSource(pool.model, "hub", None)


def _network_failures() -> tuple[type[Exception], ...]:
    """What asking the hub may raise, with those of whichever HTTP client its package uses (it does not wrap them)."""
    from huggingface_hub import errors

    clients = (("httpx2", "TransportError"), ("httpx", "TransportError"), ("requests", "RequestException"))
    found = (getattr(sys.modules.get(module), name, None) for module, name in clients)
    own = (errors.HfHubHTTPError, errors.OfflineModeIsEnabled, OSError)
    return (*own, *(kind for kind in found if kind is not None))


def weight_bytes(source: ModelSource, pool: PoolSettings, *, bytes_per_value: int) -> int:
    """Bytes the weights take in memory in the compute type.

    Args:
        source: The model.
        pool: Its pool.
        bytes_per_value: 2 for float16 and bfloat16, 4 for float32.

    Returns:
        Values in the safetensors times `bytes_per_value`; 0 for a model that is not downloaded yet.
    """
    if source.folder is None:
        return 0
    values = 0
    for component in _COMPONENTS:
        for file in _weight_files(source.folder / component, pool.variant):
            values += _stored_values(file)
    return values * bytes_per_value


def _stored_values(file: Path) -> int:
    """Number of values in a safetensors file, from its JSON header (an 8-byte little-endian length comes first)."""
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        header: dict[str, Any] = json.loads(stream.read(length))
    count = 0
    for name, tensor in header.items():
        if name == "__metadata__":
            continue
        values = 1
        for side in tensor["shape"]:
            values *= side
        count += values
    return count


def model_defaults(folder: Path, pool: PoolSettings) -> ModelDefaults:
    """Size, steps and guidance of a model, from its own config files; the pool's settings win.

    Size is the UNet's ``sample_size`` times the VAE's downscale. A model counts as distilled to few steps when its
    noise scheduler is LCM's, or spaces its timesteps ``trailing`` (SDXL-Turbo, Lightning, Hyper and the bundled
    model do; undistilled SDXL uses ``leading``): then 4 steps without guidance.

    Args:
        folder: The model in diffusers layout.
        pool: Settings that override single defaults.
    """
    scheduler = _read_json(folder / "scheduler" / "scheduler_config.json")
    unet = _read_json(folder / "unet" / "config.json")
    vae = _read_json(folder / "vae" / "config.json")
    scale = 2 ** (len(vae.get("block_out_channels", (1, 1, 1, 1))) - 1)
    side = int(unet.get("sample_size", 128)) * scale
    class_name = str(scheduler.get("_class_name", "EulerDiscreteScheduler"))
    distilled = class_name.startswith(("LCM", "TCD")) or scheduler.get("timestep_spacing") == "trailing"
    steps = FEW_STEPS if distilled else BASE_STEPS
    guidance = 0.0 if distilled else BASE_GUIDANCE_SCALE
    width, height = pool.default_size or (side, side)
    return ModelDefaults(
        height=height,
        width=width,
        num_inference_steps=pool.num_inference_steps or steps,
        guidance_scale=guidance if pool.guidance_scale is None else pool.guidance_scale,
        scheduler_name=class_name,
    )


def local_models() -> list[dict[str, Any]]:
    """Every SDXL that can be served without a download: the bundled one, then the hub cache's.

    Returns:
        Per model: model, source, folder, weight_bytes (on disk), width, height, num_inference_steps, guidance_scale.
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
        try:
            _checked(source.folder, pool)
        except ConfigurationError:
            continue  # another kind of model, or a partial download
        defaults = model_defaults(source.folder, pool)
        files = [f for c in _COMPONENTS for f in _weight_files(source.folder / c, None)]
        found.append(
            {
                "model": source.model,
                "source": source.source,
                "folder": str(source.folder),
                "weight_bytes": sum(f.stat().st_size for f in files),
                "width": defaults.width,
                "height": defaults.height,
                "num_inference_steps": defaults.num_inference_steps,
                "guidance_scale": defaults.guidance_scale,
            }
        )
    return found


def _read_json(file: Path) -> dict[str, Any]:
    """The file's object, or an empty one when it is missing or no JSON object."""
    try:
        loaded = json.loads(file.read_text())
    except (OSError, ValueError):
        return {}
    return loaded if isinstance(loaded, dict) else {}
