"""``POST /`` as Hugging Face's inference endpoints speak: ``{"inputs", "parameters"}``, and back comes the picture.

``huggingface_hub.InferenceClient(model="http://host:port").text_to_image(...)`` works against it; so does
``.../models/{model}`` as the address, which names the model.
"""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Request, Response
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException

from serve_app.api.deps import Service, body_schema, json_body
from serve_app.api.drawing import draw, picture_headers
from serve_app.api.errors import DRAWING_STATUSES, ErrorBody, Problem, WireErrors, error_responses
from serve_app.api.unattended import Disconnectable, keep_as
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
from serve_app.request import ImageFormat, OutputOptions, RequestDraft, random_seed


class TargetSize(BaseModel):
    """An older way to name the size."""

    model_config = ConfigDict(strict=True)

    width: PixelSide
    height: PixelSide


class Parameters(BaseModel):
    """How to draw. Null means absent; unknown ones are ignored."""

    model_config = ConfigDict(strict=True)

    negative_prompt: PromptText | None = Field(
        default=None, description="What to steer away from; only with guidance_scale above 1."
    )
    width: PixelSide | None = Field(default=None, description="Pixels; the model's own when absent.")
    height: PixelSide | None = Field(default=None, description="Pixels; the model's own when absent.")
    target_size: TargetSize | None = Field(default=None, description="Width and height; those above win.")
    num_inference_steps: NumInferenceSteps | None = Field(
        default=None, description="Denoising steps; the model's own when absent."
    )
    guidance_scale: GuidanceScale | None = Field(default=None, description="0 and 1 mean no guidance.")
    scheduler: ShortName | None = Field(default=None, description="Noise scheduler; /api/pools lists them.")
    seed: Seed | None = Field(
        default=None, description="0 is a seed; absent means a random one, told in X-Seed."
    )
    quality: Quality | None = Field(default=None, description="Of jpeg and webp, 1 to 100.")
    pool: ShortName | None = Field(default=None, description="Pool that must draw it.")


class TextToImageRequest(Disconnectable):
    """The body. Other fields, such as ``options``, are ignored."""

    model_config = ConfigDict(
        strict=True,
        json_schema_extra={
            "examples": [
                {"inputs": "a red star on a blue background"},
                {"inputs": "a yellow heart on the left", "parameters": {"num_inference_steps": 4, "seed": 7}},
            ]
        },
    )

    inputs: RequiredPrompt = Field(description="What to draw.")
    parameters: Parameters | None = Field(default=None, description="How to draw.")

    def to_draft(self, image_format: ImageFormat, model: str | None) -> RequestDraft:
        """The request in internal terms."""
        asked = self.parameters or Parameters()
        size = asked.target_size
        return RequestDraft(
            prompt=self.inputs,
            negative_prompt=asked.negative_prompt or "",
            width=asked.width or (size.width if size else None),
            height=asked.height or (size.height if size else None),
            num_inference_steps=asked.num_inference_steps,
            guidance_scale=asked.guidance_scale,
            seed=random_seed() if asked.seed is None else asked.seed,
            scheduler_name=asked.scheduler,
            output=OutputOptions(image_format, asked.quality or OutputOptions().quality),
            pool=asked.pool,
            model=model,
        )


class HuggingFaceError(BaseModel):
    """A refusal.

    Attributes:
        error: For people; says what is allowed.
        error_type: For programs.
        field: The client's own name of the field at fault, or null.
        request_id: To find the request in the log.
    """

    error: str
    error_type: str = Field(examples=["invalid_request"])
    field: str | None = None
    request_id: str = ""


def _client_field(canonical: str, request: Request) -> str:
    if canonical in ("model", "X-Request-Id"):
        return canonical
    name = {"prompt": "inputs", "size": "width", "scheduler_name": "scheduler"}.get(canonical, canonical)
    return name if name == "inputs" else f"parameters.{name}"


def _render(problem: Problem) -> dict[str, Any]:
    detail = problem.detail
    return HuggingFaceError(
        error=detail.message, error_type=detail.code, field=detail.field, request_id=detail.request_id
    ).model_dump()


router = APIRouter(
    tags=["hugging face"], route_class=WireErrors(client_field=_client_field, render=_render).route_class()
)
_Body = Annotated[TextToImageRequest, Depends(json_body(TextToImageRequest))]
_DOCUMENTED: dict[str, Any] = {
    "response_class": Response,
    "responses": {
        200: {
            "description": "The picture, in the format that Accept asks for. The headers are those of /imagine.",
            "content": {
                kind.media_type: {"schema": {"type": "string", "format": "binary"}} for kind in ImageFormat
            },
        },
        **error_responses(HuggingFaceError, 400, 406, *DRAWING_STATUSES),
        404: {"model": ErrorBody, "description": "The address is no name of a model."},
    },
    "openapi_extra": body_schema(TextToImageRequest),
}


@router.post("/", summary="Draw a picture as Hugging Face's clients ask for it", **_DOCUMENTED)
async def text_to_image(body: _Body, request: Request, service: Service) -> Response:
    """Draws one picture. Closing the connection stops the drawing, unless ``on_disconnect`` says otherwise."""
    return await _draw(body, None, request, service)


@router.post("/models/{model:path}", summary="The same, with a named model", **_DOCUMENTED)
async def text_to_image_by_model(
    model: Annotated[str, Path(examples=["small-sdxl"])], body: _Body, request: Request, service: Service
) -> Response:
    """As ``POST /``, drawn by this model."""
    return await _draw(body, model, request, service)


async def _draw(body: TextToImageRequest, model: str | None, request: Request, service: Service) -> Response:
    image_format = accepted_format(request.headers.get("accept", ""))
    picture_id = await keep_as(request, service.store, body.on_disconnect)
    result = await draw(service, body.to_draft(image_format, model), picture_id)
    image = result.images[0]
    repeatable = body.parameters is not None and body.parameters.seed is not None
    headers = picture_headers(result, image, repeatable=repeatable)
    return Response(image.data, media_type=image.format.media_type, headers=headers)


def accepted_format(accept: str) -> ImageFormat:
    """The format that an ``Accept`` header likes best; PNG where it leaves the choice.

    Raises:
        HTTPException: It allows none of ours (406).
    """
    weights: dict[str, float] = {}
    for part in accept.lower().split(","):
        media_type, *parameters = (piece.strip() for piece in part.split(";"))
        if media_type:
            weights[media_type] = _weight(parameters)
    if not weights:
        return ImageFormat.PNG

    def liking(kind: ImageFormat) -> float:
        for pattern in (kind.media_type, "image/*", "*/*"):
            if pattern in weights:
                return weights[pattern]
        return 0.0

    best = max((ImageFormat.PNG, ImageFormat.JPEG, ImageFormat.WEBP), key=liking)
    if liking(best) <= 0:
        raise HTTPException(406, "Accept allows none of image/png, image/jpeg and image/webp")
    return best


def _weight(parameters: list[str]) -> float:
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() == "q":
            try:
                return float(value)
            except ValueError:
                return 0.0
    return 1.0
