"""``POST /api/replay``: a picture of this service is drawn again from the parameters inside its file."""

from __future__ import annotations

import asyncio
import json
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, ConfigDict, ValidationError
from starlette.datastructures import UploadFile

from serve_app import metadata
from serve_app.api.deps import Service
from serve_app.api.drawing import draw, picture_headers
from serve_app.api.errors import DRAWING_STATUSES, ErrorBody, WireErrors, error_responses
from serve_app.api.unattended import Disconnectable, keep_as
from serve_app.errors import InvalidRequest
from serve_app.limits import (
    GuidanceScale,
    NumInferenceSteps,
    PixelSide,
    PromptText,
    Quality,
    RequiredPrompt,
    Seed,
    ShortName,
)
from serve_app.request import ImageFormat, OutputOptions, RequestDraft

PATH = "/api/replay"
_FIELD = "picture"
# More than any picture of ours holds: two prompts of the longest kind, escaped.
_MAX_DETAILS_CHARS = 300_000


class ReplayedPicture(BaseModel):
    """The JSON inside a picture, checked as strictly as a client's own: anyone can write such a file."""

    model_config = ConfigDict(protected_namespaces=())

    prompt: RequiredPrompt
    negative_prompt: PromptText = ""
    width: PixelSide
    height: PixelSide
    num_inference_steps: NumInferenceSteps
    guidance_scale: GuidanceScale
    seed: Seed
    scheduler: ShortName
    model: ShortName
    format: ImageFormat
    quality: Quality

    def to_draft(self) -> RequestDraft:
        """The request in internal terms. The pool is left open: all pools of a model draw the same picture."""
        return RequestDraft(
            prompt=self.prompt,
            negative_prompt=self.negative_prompt,
            width=self.width,
            height=self.height,
            num_inference_steps=self.num_inference_steps,
            guidance_scale=self.guidance_scale,
            seed=self.seed,
            scheduler_name=self.scheduler,
            output=OutputOptions(self.format, self.quality),
            model=self.model,
        )


def _client_field(canonical: str, request: Request) -> str:
    name = {"size": "width", "scheduler_name": "scheduler"}.get(canonical, canonical)
    return name if name in (_FIELD, "X-Request-Id") else f"{_FIELD}.{name}"


router = APIRouter(tags=["pictures"], route_class=WireErrors(client_field=_client_field).route_class())

_BINARY = {"schema": {"type": "string", "format": "binary"}}


@router.post(
    PATH,
    response_class=Response,
    summary="Draw a picture again from its own file",
    responses={
        200: {
            "description": "The picture, in the format of the file. The headers are those of /imagine.",
            "content": {kind.media_type: _BINARY for kind in ImageFormat},
        },
        **error_responses(ErrorBody, 400, *DRAWING_STATUSES),
    },
    openapi_extra={
        "requestBody": {
            "required": True,
            "description": "The file itself, or a form with the file in its field `picture`.",
            "content": {
                "multipart/form-data": {
                    "schema": {
                        "type": "object",
                        "required": [_FIELD],
                        "properties": {_FIELD: _BINARY["schema"]},
                    }
                },
                **{kind.media_type: _BINARY for kind in ImageFormat},
            },
        }
    },
)
async def replay(query: Annotated[Disconnectable, Query()], request: Request, service: Service) -> Response:
    """Draws with the prompt, seed, size, steps and model that the file carries, which makes the same picture."""
    picture = await _uploaded(request)
    replayed = await asyncio.to_thread(_parameters, picture)
    picture_id = await keep_as(request, service.store, query.on_disconnect)
    result = await draw(service, replayed.to_draft(), picture_id)
    image = result.images[0]
    headers = picture_headers(result, image, repeatable=True)
    return Response(image.data, media_type=image.format.media_type, headers=headers)


async def _uploaded(request: Request) -> bytes:
    """The file, from a form's field or as the whole body.

    Raises:
        InvalidRequest: There is none.
    """
    if request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
        async with request.form(max_files=1, max_fields=10) as form:
            file = form.get(_FIELD)
            if not isinstance(file, UploadFile):
                raise InvalidRequest(_FIELD, "the form has no file of this name")
            picture = await file.read()
    else:
        picture = await request.body()
    if not picture:
        raise InvalidRequest(_FIELD, "the file is empty; send a picture that this service drew")
    return picture


def _parameters(picture: bytes) -> ReplayedPicture:
    """Reads and checks what the file says. Blocks.

    Raises:
        InvalidRequest: It is no picture, or says nothing that could be drawn.
    """
    try:
        details = metadata.read(picture).details
    except ValueError as error:
        raise InvalidRequest(_FIELD, str(error)) from error
    if not details:
        raise InvalidRequest(
            _FIELD, "the file does not say how it was drawn; it is not of this service, or was changed since"
        )
    try:
        values: Any = json.loads(details) if len(details) <= _MAX_DETAILS_CHARS else None
        return ReplayedPicture.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = ".".join(str(part) for part in first["loc"])
        raise InvalidRequest(name or _FIELD, f"in the file: {first['msg']}") from error
    except (ValueError, RecursionError) as error:
        raise InvalidRequest(_FIELD, "what the file says of how it was drawn is damaged") from error
