"""What the A1111 routes share: their error shape, and the names of models and samplers."""

from __future__ import annotations

import hashlib
from typing import Any

from fastapi import Request
from pydantic import BaseModel, BeforeValidator, Field

from serve_app.api.errors import Problem, WireErrors
from serve_app.errors import UnknownModel, UnsupportedRequest
from serve_app.metadata import model_hash
from serve_app.noise_schedulers import find
from serve_app.settings import Settings

AUTOMATIC = "automatic"
_EVEN = ("normal", "uniform")
"""Schedule types of A1111 whose steps are evenly spread in time, as those of every sampler here are by themselves."""


def _empty_is_absent(value: object) -> object:
    return None if value == "" else value


BLANK = BeforeValidator(_empty_is_absent)
"""For fields that clients send empty where they mean none."""


class A1111Error(BaseModel):
    """A refusal as A1111 gives it, with the field at fault and the request's id.

    Attributes:
        error: For programs.
        detail: For people; says what is allowed.
        body: Always empty.
        errors: As `detail`; some clients show this one.
        field: The client's own name of the field at fault, or null.
        request_id: To find the request in the log.
    """

    error: str = Field(examples=["invalid_request"])
    detail: str
    body: str = ""
    errors: str = ""
    field: str | None = None
    request_id: str = ""


def _client_field(canonical: str, request: Request) -> str:
    return {
        "num_inference_steps": "steps",
        "guidance_scale": "cfg_scale",
        "scheduler_name": "sampler_name",
        "size": "width",
        "num_images": "batch_size",
        "model": "sd_model_checkpoint",
    }.get(canonical, canonical)


def _render(problem: Problem) -> dict[str, Any]:
    detail = problem.detail
    return A1111Error(
        error=detail.code,
        detail=detail.message,
        errors=detail.message,
        field=detail.field,
        request_id=detail.request_id,
    ).model_dump()


ERRORS = WireErrors(client_field=_client_field, render=_render)


def title(model: str) -> str:
    """A model as A1111 lists it: its id and its short hash."""
    return f"{model} [{model_hash(model)}]"


def sha256(model: str) -> str:
    """Where A1111 has the hash of the checkpoint: that of the model's id, see `metadata.model_hash`."""
    return hashlib.sha256(model.encode()).hexdigest()


def models(settings: Settings) -> list[str]:
    """Ids of all configured models; the first one is drawn with where none was chosen."""
    return list(dict.fromkeys(pool.model for pool in settings.pools))


def find_model(name: str, settings: Settings) -> str:
    """The model that a client means by its title, id or hash.

    Raises:
        UnknownModel: None is known by that name.
    """
    for model in models(settings):
        if name in (model, title(model), model_hash(model), sha256(model)):
            return model
    known = ", ".join(title(model) for model in models(settings))
    raise UnknownModel("model", f"{name!r} is not served; allowed: {known}")


def scheduler_name(sampler: str | None, schedule: str | None) -> str | None:
    """The noise scheduler that A1111's two names mean; None leaves it to the model.

    Older clients say both in one, ``DPM++ 2M Karras``, and SillyTavern says ``normal`` until somebody chooses. What is
    not known stays as it is, for the pool to refuse.

    Raises:
        UnsupportedRequest: Sampler and schedule do not go together here.
    """
    if schedule is None or schedule.casefold() in ("", AUTOMATIC, *_EVEN):
        return sampler or None
    if not sampler:
        raise UnsupportedRequest("scheduler", "name a sampler with it, or leave it automatic")
    if sampler.casefold().endswith(f" {schedule.casefold()}"):
        return sampler
    both = find(f"{sampler} {schedule}")
    if both is not None or find(sampler) is None:
        return both or sampler
    raise UnsupportedRequest(
        "scheduler",
        f"{schedule!r} does not go with {sampler!r}; allowed: automatic, and karras with DPM++ 2M",
    )
