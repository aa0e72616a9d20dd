"""``/sdapi/v1/options`` and the lists that clients fill their menus with."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from pydantic import BaseModel, ConfigDict

from serve_app.api.a1111.shape import (
    AUTOMATIC,
    BLANK,
    ERRORS,
    A1111Error,
    find_model,
    models,
    sha256,
    title,
)
from serve_app.api.caller import caller_of
from serve_app.api.deps import Service, body_schema, json_body
from serve_app.api.errors import error_responses
from serve_app.limits import ShortName
from serve_app.metadata import model_hash
from serve_app.noise_schedulers import NOISE_SCHEDULERS, sampler_and_schedule


class Options(BaseModel):
    """A1111's settings, as far as clients look at them.

    Attributes:
        sd_model_checkpoint: Title of the model that draws for this caller.
        sd_checkpoint_hash: What `/sdapi/v1/sd-models` gives as its ``sha256``.
        samples_format: Format of the pictures.
        sd_vae: Every model has its own.
        CLIP_stop_at_last_layers: The model's own layers.
    """

    sd_model_checkpoint: str
    sd_checkpoint_hash: str
    samples_format: str = "png"
    sd_vae: str = "Automatic"
    CLIP_stop_at_last_layers: int = 1


class ChangedOptions(BaseModel):
    """Clients send one setting or all; only the model matters here. An empty one leaves it as it is."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"sd_model_checkpoint": "small-sdxl"}]}, extra="ignore"
    )

    sd_model_checkpoint: Annotated[ShortName | None, BLANK] = None


class ModelItem(BaseModel):
    """One model. Its hashes are of its id, since the weights are several files that only replicas have."""

    title: str
    model_name: str
    hash: str
    sha256: str
    filename: str
    config: str | None = None


class SamplerItem(BaseModel):
    """One sampler."""

    name: str
    aliases: list[str]
    options: dict[str, str]


class SchedulerItem(BaseModel):
    """One schedule type."""

    name: str
    label: str
    aliases: list[str] | None = None
    default_rho: float = -1.0
    need_inner_model: bool = False


class Scripts(BaseModel):
    """Names of scripts; there are none."""

    txt2img: list[str] = []
    img2img: list[str] = []


router = APIRouter(prefix="/sdapi/v1", route_class=ERRORS.route_class())


@router.get("/options", summary="My settings", responses=error_responses(A1111Error, 503))
async def options(request: Request, service: Service) -> Options:
    """Each caller has a model of its own choice; at first it is the first one configured."""
    chosen = await service.live.chosen_model(caller_of(request, service.settings))
    model = chosen or models(service.settings)[0]
    return Options(sd_model_checkpoint=title(model), sd_checkpoint_hash=sha256(model))


@router.post(
    "/options",
    summary="Choose my model",
    responses=error_responses(A1111Error, 400, 408, 413, 422, 503),
    openapi_extra=body_schema(ChangedOptions),
)
async def set_options(
    body: Annotated[ChangedOptions, Depends(json_body(ChangedOptions))], request: Request, service: Service
) -> None:
    """From now on ``sd_model_checkpoint`` draws for this caller where a request names none. The rest is ignored."""
    if body.sd_model_checkpoint:
        model = find_model(body.sd_model_checkpoint, service.settings)
        await service.live.choose_model(caller_of(request, service.settings), model)


@router.get("/sd-models", summary="The models")
async def sd_models(service: Service) -> list[ModelItem]:
    """Every configured model."""
    return [
        ModelItem(
            title=title(model),
            model_name=model,
            hash=model_hash(model),
            sha256=sha256(model),
            filename=model,
        )
        for model in models(service.settings)
    ]


@router.get("/samplers", summary="The samplers", responses=error_responses(A1111Error, 503))
async def samplers(service: Service) -> list[SamplerItem]:
    """Those of all pools that answer now; while none does, all that are known."""
    pools = await service.all_facts()
    offered = {name for pool in pools for name in pool.capabilities.scheduler_names}
    found: dict[str, SamplerItem] = {}
    for known in NOISE_SCHEDULERS:
        sampler, schedule = sampler_and_schedule(known.name)
        if schedule.casefold() == AUTOMATIC and (known.name in offered or not offered):
            found[sampler] = SamplerItem(name=sampler, aliases=[known.name, *known.aliases], options={})
    return list(found.values())


@router.get("/schedulers", summary="The schedule types")
async def schedulers() -> list[SchedulerItem]:
    """``automatic`` is each sampler's own; ``karras`` goes with DPM++ 2M."""
    return [
        SchedulerItem(name=AUTOMATIC, label="Automatic"),
        SchedulerItem(name="karras", label="Karras", default_rho=7.0),
    ]


@router.get("/scripts", summary="There are no scripts")
async def scripts() -> Scripts:
    """Empty lists."""
    return Scripts()


@router.get("/embeddings", summary="There are no embeddings")
async def embeddings() -> dict[str, dict[str, Any]]:
    """Nothing loaded, nothing left out."""
    return {"loaded": {}, "skipped": {}}


@router.post("/refresh-checkpoints", summary="Nothing to refresh")
async def refresh_checkpoints() -> None:
    """Models are configured, not found in a folder."""


def _empty_list(name: str) -> Callable[[], Awaitable[list[dict[str, Any]]]]:
    async def empty() -> list[dict[str, Any]]:
        return []

    empty.__name__ = name.replace("-", "_")
    empty.__doc__ = "An empty list."
    return empty


for _name in (
    "sd-vae",
    "sd-modules",
    "upscalers",
    "latent-upscale-modes",
    "loras",
    "hypernetworks",
    "face-restorers",
    "realesrgan-models",
    "prompt-styles",
):
    router.get(f"/{_name}", summary=f"There are no {_name}")(_empty_list(_name))
