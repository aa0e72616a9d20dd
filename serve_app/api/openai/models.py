"""``/v1/models``: every name that ``model`` may say."""

from __future__ import annotations

from typing import Literal

from fastapi import APIRouter
from pydantic import BaseModel, Field

from serve_app.api.deps import Service
from serve_app.api.errors import ErrorBody
from serve_app.api.openai.errors import ERRORS, OpenAIError
from serve_app.errors import UnknownModel
from serve_app.settings import Settings

router = APIRouter(route_class=ERRORS.route_class())


class ModelEntry(BaseModel):
    """One model.

    Attributes:
        id: What `model` may say.
        created: Unix time in seconds; 0, since the service does not know when a model was made.
        object: Always ``model``.
        owned_by: Always ``imagine``.
    """

    id: str = Field(examples=["small-sdxl"])
    created: int = 0
    object: Literal["model"] = "model"
    owned_by: str = "imagine"


class ModelList(BaseModel):
    """Every model that may be named."""

    object: Literal["list"] = "list"
    data: list[ModelEntry]


@router.get("/models", summary="The models that may be named")
async def models(service: Service) -> ModelList:
    """Every configured model, and every alias of one."""
    return ModelList(data=[ModelEntry(id=name) for name in _model_names(service.settings)])


@router.get(
    "/models/{model:path}",
    summary="One model",
    responses={
        404: {"model": OpenAIError | ErrorBody, "description": "No such model."},
        "default": {"model": OpenAIError, "description": "Any other refusal."},
    },
)
async def model(model: str, service: Service) -> ModelEntry:
    """The model or alias of this name."""
    names = _model_names(service.settings)
    if model not in names:
        raise UnknownModel("model", f"{model!r} is not served; allowed: {', '.join(names)}")
    return ModelEntry(id=model)


def _model_names(settings: Settings) -> list[str]:
    return list(dict.fromkeys([*(pool.model for pool in settings.pools), *settings.openai_model_aliases]))
