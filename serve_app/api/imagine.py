"""``GET /imagine?prompt=...``: the picture itself, for a browser's address bar and ``<img src>``."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from pydantic import BeforeValidator, Field

from serve_app.api.deps import Service
from serve_app.api.drawing import draw, picture_headers
from serve_app.api.errors import DRAWING_STATUSES, ErrorBody, WireErrors, error_responses
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


def _empty_is_absent(value: object) -> object:
    # A form in a browser sends an empty text for every field that was left alone.
    return None if value == "" else value


_Blank = BeforeValidator(_empty_is_absent)


class ImagineQuery(Disconnectable):
    """What to draw; all but the prompt has a default from the model. Unknown parameters are ignored."""

    prompt: RequiredPrompt = Field(
        description="What to draw.",
        # `example`, not `examples`: the one that Swagger UI fills in for a query parameter.
        json_schema_extra={"example": "an astronaut is dancing on green grass, sunlit"},
    )
    negative_prompt: PromptText = Field(
        default="",
        description="What to steer away from; only with guidance_scale above 1.",
        examples=["blurry"],
    )
    width: Annotated[PixelSide | None, _Blank] = Field(default=None, description="Pixels.", examples=[512])
    height: Annotated[PixelSide | None, _Blank] = Field(default=None, description="Pixels.", examples=[512])
    img_size: Annotated[PixelSide | None, _Blank] = Field(
        default=None, description="Side of a square picture, pixels; width and height win.", examples=[512]
    )
    num_inference_steps: Annotated[NumInferenceSteps | None, _Blank] = Field(
        default=None, description="Denoising steps.", examples=[4]
    )
    guidance_scale: Annotated[GuidanceScale | None, _Blank] = Field(
        default=None, description="Classifier-free guidance; 0 and 1 mean none.", examples=[0.0]
    )
    seed: Annotated[Seed | None, _Blank] = Field(
        default=None, description="0 is a seed; absent means a random one, told in X-Seed.", examples=[42]
    )
    format: Annotated[ImageFormat | None, _Blank] = Field(default=ImageFormat.PNG, description="File format.")
    quality: Annotated[Quality | None, _Blank] = Field(
        default=None, description="For webp and jpeg, 1 to 100.", examples=[90]
    )
    scheduler: Annotated[ShortName | None, _Blank] = Field(
        default=None, description="Noise scheduler; /api/pools lists them."
    )
    pool: Annotated[ShortName | None, _Blank] = Field(default=None, description="Pool that must draw it.")
    model: Annotated[ShortName | None, _Blank] = Field(default=None, description="Model that must draw it.")

    def to_draft(self) -> RequestDraft:
        """The request in internal terms."""
        return RequestDraft(
            prompt=self.prompt,
            negative_prompt=self.negative_prompt,
            width=self.width or self.img_size,
            height=self.height or self.img_size,
            num_inference_steps=self.num_inference_steps,
            guidance_scale=self.guidance_scale,
            seed=random_seed() if self.seed is None else self.seed,
            scheduler_name=self.scheduler,
            output=OutputOptions(
                self.format or ImageFormat.PNG,
                OutputOptions().quality if self.quality is None else self.quality,
            ),
            pool=self.pool,
            model=self.model,
        )


def _client_field(canonical: str, request: Request) -> str:
    asked = request.query_params
    if canonical in ("size", "width", "height"):
        if "img_size" in asked and not ("width" in asked or "height" in asked):
            return "img_size"
        return "height" if canonical == "height" and "height" in asked else "width"
    return {"scheduler_name": "scheduler"}.get(canonical, canonical)


router = APIRouter(tags=["pictures"], route_class=WireErrors(client_field=_client_field).route_class())


@router.get(
    "/imagine",
    response_class=Response,
    summary="Draw a picture and answer with it",
    responses={
        200: {
            "description": "The picture. X-Seed, X-Model, X-Pool, X-Accelerator, X-Cost and Server-Timing tell "
            "how it was drawn.",
            "content": {
                kind.media_type: {"schema": {"type": "string", "format": "binary"}} for kind in ImageFormat
            },
        },
        **error_responses(ErrorBody, *DRAWING_STATUSES),
    },
)
async def imagine(query: Annotated[ImagineQuery, Query()], request: Request, service: Service) -> Response:
    """Draws one picture. Closing the connection stops the drawing, unless ``on_disconnect`` says otherwise."""
    picture_id = await keep_as(request, service.store, query.on_disconnect)
    result = await draw(service, query.to_draft(), picture_id)
    image = result.images[0]
    headers = picture_headers(result, image, repeatable=query.seed is not None)
    return Response(image.data, media_type=image.format.media_type, headers=headers)
