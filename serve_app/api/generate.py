"""``POST /generate``: one picture as base64 inside JSON."""

from __future__ import annotations

import base64
from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from serve_app.api.deps import Service, body_schema, json_body
from serve_app.api.drawing import draw, drawing_headers
from serve_app.api.errors import DRAWING_STATUSES, ErrorBody, WireErrors, error_responses
from serve_app.api.unattended import Disconnectable, keep_as
from serve_app.limits import (
    GuidanceScale,
    NumInferenceSteps,
    PixelSide,
    PromptText,
    RequiredPrompt,
    Seed,
    ShortName,
)
from serve_app.request import RequestDraft, random_seed


class GenerateRequest(Disconnectable):
    """The body. Fields that are not listed are ignored; null means absent for all but the prompt."""

    model_config = ConfigDict(
        strict=True,
        protected_namespaces=(),
        json_schema_extra={
            "examples": [{"prompt": "a lighthouse at sunset", "num_inference_steps": 4, "seed": 0}]
        },
    )

    prompt: RequiredPrompt = Field(description="What to draw.")
    negative_prompt: PromptText | None = Field(
        default=None, description="What to steer away from; only with guidance_scale above 1."
    )
    num_inference_steps: NumInferenceSteps | None = Field(
        default=None, description="Denoising steps; the model's own when absent.", examples=[30]
    )
    width: PixelSide | None = Field(default=None, description="Pixels; the model's own when absent.")
    height: PixelSide | None = Field(default=None, description="Pixels; the model's own when absent.")
    seed: Seed | None = Field(default=None, description="0 is a seed; null or absent means a random one.")
    guidance_scale: GuidanceScale | None = Field(default=None, description="0 and 1 mean no guidance.")
    scheduler: ShortName | None = Field(default=None, description="Noise scheduler; /api/pools lists them.")
    pool: ShortName | None = Field(default=None, description="Pool that must draw it.")
    model: ShortName | None = Field(default=None, description="Model that must draw it.")

    def to_draft(self) -> RequestDraft:
        """The request in internal terms."""
        return RequestDraft(
            prompt=self.prompt,
            negative_prompt=self.negative_prompt or "",
            width=self.width,
            height=self.height,
            num_inference_steps=self.num_inference_steps,
            guidance_scale=self.guidance_scale,
            seed=random_seed() if self.seed is None else self.seed,
            scheduler_name=self.scheduler,
            pool=self.pool,
            model=self.model,
        )


class GenerateResponse(BaseModel):
    """The answer; from ``width`` on, what was used where the client left it open.

    Attributes:
        image: The PNG file in base64.
        seed: The seed that was used.
        width: Pixels.
        height: Pixels.
        num_inference_steps: Denoising steps.
        guidance_scale: Classifier-free guidance.
        model: Model that drew it.
        pool: Pool that drew it.
        accelerator: Its accelerator.
        cost: Its share of the device's time, in the currency of the pool's ``price_per_hour``.
        seconds: Seconds in the replica.
    """

    image: str
    seed: int
    width: int
    height: int
    num_inference_steps: int
    guidance_scale: float
    model: str
    pool: str
    accelerator: str
    cost: float
    seconds: float


def _client_field(canonical: str, request: Request) -> str:
    return {"size": "width", "scheduler_name": "scheduler"}.get(canonical, canonical)


router = APIRouter(tags=["pictures"], route_class=WireErrors(client_field=_client_field).route_class())


@router.post(
    "/generate",
    summary="Draw a picture and answer with it in base64",
    responses=error_responses(ErrorBody, 400, *DRAWING_STATUSES),
    openapi_extra=body_schema(GenerateRequest),
)
async def generate(
    body: Annotated[GenerateRequest, Depends(json_body(GenerateRequest))],
    request: Request,
    response: Response,
    service: Service,
) -> GenerateResponse:
    """Draws one picture. Absent steps mean the model's own number, not a fixed one: a distilled model needs 4
    where another needs 30. Closing the connection stops the drawing, unless ``on_disconnect`` says otherwise."""
    picture_id = await keep_as(request, service.store, body.on_disconnect)
    result = await draw(service, body.to_draft(), picture_id)
    image, drawn = result.images[0], result.request
    response.headers.update(drawing_headers([result]))
    return GenerateResponse(
        image=base64.b64encode(image.data).decode("ascii"),
        seed=image.seed,
        width=image.width,
        height=image.height,
        num_inference_steps=drawn.num_inference_steps,
        guidance_scale=drawn.guidance_scale,
        model=result.model,
        pool=result.pool,
        accelerator=result.accelerator,
        cost=result.cost,
        seconds=result.total_s,
    )
