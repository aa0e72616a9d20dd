"""``POST /api/text2image``: pictures by url, in rounds (``number``) of several pictures each (``batch``)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Request, Response
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
)

from serve_app import images
from serve_app.api.deps import Service, body_schema, json_body
from serve_app.api.drawing import draw_rounds, drawing_headers, store_pictures
from serve_app.api.errors import DRAWING_STATUSES, ErrorDetail, Problem, WireErrors, error_responses
from serve_app.api.sizes import check_size, parse_size
from serve_app.api.unattended import Disconnectable, attended, keep_as
from serve_app.api.urls import base_url
from serve_app.limits import (
    MAX_IMAGES_PER_REQUEST,
    MAX_SEED,
    GuidanceScale,
    NumImages,
    NumInferenceSteps,
    PromptText,
    RequiredPrompt,
    Seed,
)
from serve_app.picture_urls import PictureUrls
from serve_app.request import RequestDraft, new_request_id, random_seed
from serve_app.result import GenerationResult
from serve_app.service import ImageService
from serve_app.store import GRID_NAME, PictureStore, picture_name

# A merged picture takes tens of MB while it is made; one at a time keeps the ingress small.
_grid_permit = asyncio.Semaphore(1)


class Text2ImageRequest(Disconnectable):
    """The body. Other fields are ignored; null means absent, but for prompt, number and batch."""

    model_config = ConfigDict(
        strict=True,
        json_schema_extra={
            "examples": [
                {"prompt": "a panda listening to music with headphones", "number": 1},
                {
                    "prompt": "a red fox in the snow",
                    "number": 2,
                    "batch": 2,
                    "size": "512x512",
                    "step": 4,
                    "seed": 7,
                },
            ]
        },
    )

    prompt: RequiredPrompt = Field(description="What to draw.")
    number: NumImages = Field(default=1, description="Rounds; above 1, a merged image_grid.png is added.")
    batch: NumImages = Field(default=1, description="Pictures in each round.")
    size: Annotated[str, AfterValidator(check_size)] | None = Field(
        default=None,
        description="WIDTHxHEIGHT in pixels; the model's own size when absent.",
        examples=["512x512"],
    )
    step: NumInferenceSteps | None = Field(
        default=None, description="Denoising steps; the model's own when absent.", examples=[4]
    )
    seed: Seed | None = Field(
        default=None, description="Seed of the first picture, counted up for the others; random when absent."
    )
    negative_prompt: PromptText | None = Field(
        default=None, description="What to steer away from; only with guidance_scale above 1."
    )
    guidance_scale: GuidanceScale | None = Field(default=None, description="0 and 1 mean no guidance.")

    @field_validator("batch")
    @classmethod
    def _within_total(cls, batch: int, info: ValidationInfo) -> int:
        number = info.data.get("number", 1)  # absent when it was refused itself
        if number * batch > MAX_IMAGES_PER_REQUEST:
            raise ValueError(
                f"number x batch must be at most {MAX_IMAGES_PER_REQUEST} pictures, "
                f"got {number} x {batch} = {number * batch}"
            )
        return batch

    def to_drafts(self) -> list[RequestDraft]:
        """One draft per round; seeds run on from round to round."""
        width, height = parse_size(self.size) if self.size is not None else (None, None)
        first_seed = random_seed() if self.seed is None else self.seed
        return [
            RequestDraft(
                prompt=self.prompt,
                negative_prompt=self.negative_prompt or "",
                width=width,
                height=height,
                num_inference_steps=self.step,
                guidance_scale=self.guidance_scale,
                seed=(first_seed + round_number * self.batch) % (MAX_SEED + 1),
                num_images=self.batch,
            )
            for round_number in range(self.number)
        ]


class OutputEntry(BaseModel):
    """One stored picture.

    Attributes:
        latencySeconds: Wall seconds of the round that drew it; of the whole drawing for the merged picture.
        url: Where it can be seen, for as long as it is kept.
        seed: The seed that draws it again; null for the merged picture.
    """

    latencySeconds: float
    url: str
    seed: int | None


class MetaInput(BaseModel):
    """What was drawn, with every default filled in."""

    batch: int
    model: str
    number: int
    prompt: str
    size: str
    step: int
    seed: int
    negative_prompt: str
    guidance_scale: float


class Meta(BaseModel):
    """Facts about the request."""

    input: MetaInput


class Text2ImageResponse(BaseModel):
    """The answer.

    Attributes:
        id: Folder of the pictures.
        status: Always ``success``; refusals have another shape.
        generationTimeSeconds: Wall seconds of all the drawing.
        averageImageGenerationTimeSeconds: The same per picture.
        meta: What was drawn.
        output: One entry per picture, round by round; last the merged picture where there are several rounds.
    """

    id: str = Field(examples=["8a1c1f0e-5a7e-4a53-9a0c-7f2a4b1c9d10"])
    status: Literal["success"] = "success"
    generationTimeSeconds: float
    averageImageGenerationTimeSeconds: float
    meta: Meta
    output: list[OutputEntry]


class Text2ImageError(BaseModel):
    """A refusal: ``status`` tells it from a success."""

    status: Literal["error"] = "error"
    error: ErrorDetail


def _client_field(canonical: str, request: Request) -> str:
    return {
        "num_inference_steps": "step",
        "width": "size",
        "height": "size",
        "num_images": "batch",
    }.get(canonical, canonical)


def _render(problem: Problem) -> dict[str, Any]:
    return Text2ImageError(error=problem.detail).model_dump()


router = APIRouter(
    prefix="/api",
    tags=["pictures"],
    route_class=WireErrors(client_field=_client_field, render=_render).route_class(),
)


@router.post(
    "/text2image",
    summary="Draw pictures and answer with their addresses",
    responses=error_responses(Text2ImageError, 400, *DRAWING_STATUSES),
    openapi_extra=body_schema(Text2ImageRequest),
)
async def text2image(
    request: Request,
    response: Response,
    body: Annotated[Text2ImageRequest, Depends(json_body(Text2ImageRequest))],
    service: Service,
) -> Text2ImageResponse:
    """Draws ``number`` x ``batch`` pictures. JSON is read whatever the Content-Type says. Closing the
    connection stops the drawing, unless ``on_disconnect`` says otherwise."""
    kept_id = await keep_as(request, service.store, body.on_disconnect)
    picture_id = kept_id or new_request_id()
    rounds, store_s = await attended(_draw_and_store(service, body, picture_id), kept_id)
    response.headers.update(drawing_headers([result for result, _ in rounds], store_s=store_s))
    base, urls = base_url(request, service.settings), PictureUrls(service.settings.access)
    output = [
        OutputEntry(
            latencySeconds=seconds,
            url=urls.url(base, picture_id, picture_name(number, image.index)),
            seed=image.seed,
        )
        for number, (result, seconds) in enumerate(rounds)
        for image in result.images
    ]
    # The rounds start together, so the slowest of them is the time of the whole.
    total_s = max(seconds for _, seconds in rounds)
    average_s = total_s / len(output)
    if body.number > 1:
        grid_url = urls.url(base, picture_id, GRID_NAME)
        output.append(OutputEntry(latencySeconds=total_s, url=grid_url, seed=None))
    return Text2ImageResponse(
        id=picture_id,
        generationTimeSeconds=total_s,
        averageImageGenerationTimeSeconds=average_s,
        meta=Meta(input=_meta_input(body, rounds[0][0])),
        output=output,
    )


async def _draw_and_store(
    service: ImageService, body: Text2ImageRequest, picture_id: str
) -> tuple[list[tuple[GenerationResult, float]], float]:
    """All rounds without their files, each with its wall seconds; and the seconds that storing took."""
    store_s = 0.0

    async def store_round(number: int, result: GenerationResult) -> GenerationResult:
        nonlocal store_s
        start = time.perf_counter()
        await store_pictures(service.store, picture_id, result, number=number)
        store_s += time.perf_counter() - start
        return replace(result, images=tuple(replace(image, data=b"") for image in result.images))

    rounds = await draw_rounds(service, body.to_drafts(), store_round)
    if body.number > 1:
        start = time.perf_counter()
        await _store_grid(service.store, picture_id, [result for result, _ in rounds])
        store_s += time.perf_counter() - start
    return rounds, store_s


def _meta_input(body: Text2ImageRequest, result: GenerationResult) -> MetaInput:
    drawn = result.request
    return MetaInput(
        batch=body.batch,
        model=result.model,
        number=body.number,
        prompt=drawn.prompt,
        size=f"{drawn.width}x{drawn.height}",
        step=drawn.num_inference_steps,
        seed=drawn.seed,
        negative_prompt=drawn.negative_prompt,
        guidance_scale=drawn.guidance_scale,
    )


async def _store_grid(store: PictureStore, picture_id: str, results: Sequence[GenerationResult]) -> None:
    """Merges the stored pictures of all rounds into one more.

    Raises:
        StoreUnavailable: The storage refused or did not answer.
    """
    async with _grid_permit:
        files = [
            (await store.get(picture_id, picture_name(number, image.index)))[1]
            for number, result in enumerate(results)
            for image in result.images
        ]
        merged = await asyncio.to_thread(images.grid, files)
        await store.put(picture_id, GRID_NAME, merged)
