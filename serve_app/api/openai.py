"""``/v1/images/generations`` and ``/v1/models`` as OpenAI's clients speak them.

Beside OpenAI's own fields the body takes seed, num_inference_steps, guidance_scale, negative_prompt, scheduler,
pool and on_disconnect at its top level, where the clients' ``extra_body`` puts them. Others are refused, as there.
"""

from __future__ import annotations

import base64
import time
from dataclasses import replace
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from serve_app.api.deps import Service, body_schema, inlined_schema, json_body
from serve_app.api.drawing import draw, drawing_headers, follow, store_pictures
from serve_app.api.errors import ErrorBody, ErrorDetail, Problem, WireErrors, error_responses
from serve_app.api.openai_stream import (
    CompletedImage,
    PartialImage,
    StreamedOutput,
    Usage,
    picture_events,
    preview_every,
    server_sent,
)
from serve_app.api.sizes import check_size, parse_size
from serve_app.api.unattended import Disconnectable, keep_as
from serve_app.api.urls import base_url
from serve_app.errors import ImagineError, UnknownModel
from serve_app.limits import (
    GuidanceScale,
    NumInferenceSteps,
    PromptText,
    RequiredPrompt,
    Seed,
    ShortName,
    WholeNumber,
)
from serve_app.request import (
    GenerationResult,
    ImageFormat,
    OutputOptions,
    RequestDraft,
    new_request_id,
    random_seed,
)
from serve_app.settings import Settings

_AUTO = "auto"


def _check_size(text: str) -> str:
    return text if text == _AUTO else check_size(text)


class ImagesRequest(Disconnectable):
    """The body. Null means absent for all but the prompt."""

    model_config = ConfigDict(
        strict=True,
        extra="forbid",
        json_schema_extra={
            "examples": [
                {"prompt": "a red star on a blue background", "size": "512x512", "seed": 7},
                {
                    "prompt": "a yellow heart on the left",
                    "n": 2,
                    "size": "auto",
                    "response_format": "url",
                    "num_inference_steps": 4,
                },
            ]
        },
    )

    prompt: RequiredPrompt = Field(description="What to draw.")
    model: ShortName | None = Field(default=None, description="A model of /v1/models; any when absent.")
    n: Annotated[WholeNumber, Field(ge=1, le=10)] | None = Field(default=None, description="Pictures.")
    size: Annotated[str, Field(max_length=20), AfterValidator(_check_size)] | None = Field(
        default=None, description="WIDTHxHEIGHT in pixels; the model's own when absent or auto."
    )
    response_format: Literal["b64_json", "url"] | None = Field(
        default=None, description="Base64 when absent; stored, with an address, for url."
    )
    output_format: Literal["png", "jpeg", "webp"] | None = Field(
        default=None, description="File format; png when absent."
    )
    output_compression: Annotated[WholeNumber, Field(ge=0, le=100)] | None = Field(
        default=None, description="Quality of jpeg and webp in percent; 100 is the best."
    )
    stream: bool | None = Field(
        default=None, description="Answer with server-sent events; only for one picture."
    )
    partial_images: Annotated[WholeNumber, Field(ge=0, le=3)] | None = Field(
        default=None, description="Most previews to send on the way; needs stream."
    )
    background: Literal["auto", "opaque"] | None = Field(
        default=None, description="Pictures are always opaque; transparent is refused."
    )
    quality: Annotated[str, Field(max_length=20)] | None = Field(
        default=None, description="Taken, without effect: steps decide."
    )
    style: Annotated[str, Field(max_length=20)] | None = Field(
        default=None, description="Taken, without effect: the prompt decides."
    )
    moderation: Annotated[str, Field(max_length=20)] | None = Field(
        default=None, description="Taken, without effect: nothing is filtered."
    )
    user: Annotated[str, Field(max_length=512)] | None = Field(
        default=None, description="Taken, without effect."
    )
    seed: Seed | None = Field(
        default=None, description="Seed of the first picture, counted up for the others; random when absent."
    )
    num_inference_steps: NumInferenceSteps | None = Field(
        default=None, description="Denoising steps; the model's own when absent."
    )
    guidance_scale: GuidanceScale | None = Field(default=None, description="0 and 1 mean no guidance.")
    negative_prompt: PromptText | None = Field(
        default=None, description="What to steer away from; only with guidance_scale above 1."
    )
    scheduler: ShortName | None = Field(default=None, description="Noise scheduler; /api/pools lists them.")
    pool: ShortName | None = Field(default=None, description="Pool that must draw it.")

    @field_validator("stream")
    @classmethod
    def _one_picture(cls, stream: bool | None, info: ValidationInfo) -> bool | None:
        if stream and (info.data.get("n") or 1) > 1:
            raise ValueError("a stream tells of one picture only; send n = 1, or leave stream out")
        if stream and info.data.get("response_format") == "url":
            raise ValueError("a stream carries the picture itself; leave response_format=url or stream out")
        return stream

    @field_validator("partial_images")
    @classmethod
    def _streamed(cls, partial_images: int | None, info: ValidationInfo) -> int | None:
        if partial_images and "stream" in info.data and not info.data["stream"]:
            raise ValueError("previews need stream = true")
        return partial_images

    def to_draft(self, settings: Settings) -> RequestDraft:
        """The request in internal terms."""
        width, height = (None, None) if self.size in (None, _AUTO) else parse_size(str(self.size))
        quality = OutputOptions().quality if self.output_compression is None else self.output_compression
        return RequestDraft(
            prompt=self.prompt,
            negative_prompt=self.negative_prompt or "",
            width=width,
            height=height,
            num_inference_steps=self.num_inference_steps,
            guidance_scale=self.guidance_scale,
            seed=random_seed() if self.seed is None else self.seed,
            num_images=self.n or 1,
            scheduler_name=self.scheduler,
            output=OutputOptions(ImageFormat(self.output_format or "png"), max(1, quality)),
            pool=self.pool,
            model=self.model and settings.openai_model_aliases.get(self.model, self.model),
        )


class Picture(BaseModel):
    """One picture.

    Attributes:
        b64_json: The file in base64; absent where `url` is there.
        url: Where it can be fetched, for as long as it is kept; absent where `b64_json` is there.
        revised_prompt: The prompt as it was drawn, which is the one that was sent.
        seed: The seed that draws it again.
    """

    b64_json: str | None = None
    url: str | None = None
    revised_prompt: str
    seed: int


class ImagesResponse(BaseModel):
    """The answer.

    Attributes:
        created: Unix time in seconds.
        data: The pictures.
        background: Always ``opaque``.
        output_format: Format of the files.
        quality: As asked for.
        size: WIDTHxHEIGHT as drawn.
        usage: Nothing is counted in tokens.
    """

    created: int
    data: list[Picture]
    background: Literal["opaque"] = "opaque"
    output_format: Literal["png", "jpeg", "webp"]
    quality: str
    size: str = Field(examples=["512x512"])
    usage: Usage = Usage()


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


class OpenAIErrorDetail(BaseModel):
    """Why a request was not answered.

    Attributes:
        message: For people; says what is allowed.
        type: ``invalid_request_error``, ``server_error`` and so on.
        param: The field at fault, or null.
        code: For programs.
    """

    message: str
    type: str = Field(examples=["invalid_request_error"])
    param: str | None = Field(examples=["size"])
    code: str | None = Field(examples=["invalid_value"])


class OpenAIError(BaseModel):
    """OpenAI's error shape."""

    error: OpenAIErrorDetail


def _client_field(canonical: str, request: Request) -> str:
    return {
        "width": "size",
        "height": "size",
        "num_images": "n",
        "scheduler_name": "scheduler",
    }.get(canonical, canonical)


def _adapt(problem: Problem) -> Problem:
    """OpenAI's statuses and codes, and what its clients read to decide on a retry."""
    status, detail, headers = problem.status, problem.detail, dict(problem.headers)
    if detail.code == "unknown_model" and detail.field == "model":
        status, detail = 404, detail.model_copy(update={"code": "model_not_found"})
    elif status == 422:
        status = 400
        if "Extra inputs are not permitted" in detail.message:
            detail = detail.model_copy(update={"code": "unknown_parameter"})
    # The client retries twice on 408, 409, 429 and every 5xx unless it is told better.
    headers["x-should-retry"] = "true" if status in (429, 503) else "false"
    if "Retry-After" in headers:
        headers["retry-after-ms"] = str(int(headers["Retry-After"]) * 1000)
    return Problem(status=status, detail=detail, headers=headers)


def _render(problem: Problem) -> dict[str, Any]:
    detail: ErrorDetail = problem.detail
    kind = "invalid_request_error" if problem.status < 500 else "server_error"
    shaped = OpenAIErrorDetail(message=detail.message, type=kind, param=detail.field, code=detail.code)
    return OpenAIError(error=shaped).model_dump()


_EVENT_SCHEMA = {
    "type": "object",
    "description": "One event; its data is JSON.",
    "required": ["event", "data"],
    "properties": {
        "event": {"enum": ["image_generation.partial_image", "image_generation.completed", "error"]},
        "data": {
            "type": "string",
            "contentMediaType": "application/json",
            "contentSchema": {
                "oneOf": [inlined_schema(kind) for kind in (PartialImage, CompletedImage, OpenAIError)]
            },
        },
    },
}
_ERRORS = WireErrors(client_field=_client_field, render=_render, adapt=_adapt)
router = APIRouter(prefix="/v1", tags=["openai"], route_class=_ERRORS.route_class())


@router.post(
    "/images/generations",
    summary="Draw pictures as OpenAI's clients ask for them",
    response_model=ImagesResponse,
    response_model_exclude_none=True,
    responses={
        200: {
            "description": "The pictures; with stream, events of the picture on its way.",
            "content": {"text/event-stream": {"schema": _EVENT_SCHEMA}},
        },
        **error_responses(OpenAIError, 400, 404, 413, 500, 503, 504),
    },
    openapi_extra=body_schema(ImagesRequest),
)
async def generations(
    body: Annotated[ImagesRequest, Depends(json_body(ImagesRequest))],
    request: Request,
    response: Response,
    service: Service,
) -> ImagesResponse | StreamingResponse:
    """Draws ``n`` pictures. Closing the connection stops the drawing, unless ``on_disconnect`` says otherwise."""
    draft = body.to_draft(service.settings)
    picture_id = await keep_as(request, service.store, body.on_disconnect)
    if body.stream:
        return await _stream(body, draft, picture_id, request, service)
    result = await draw(service, draft, picture_id)
    drawn, output_format = result.request, result.images[0].format.value
    urls, store_s = await _store(body, result, request, service)
    response.headers.update(drawing_headers([result], store_s=store_s))
    return ImagesResponse(
        created=int(time.time()),
        data=[
            Picture(
                b64_json=None if urls else base64.b64encode(image.data).decode("ascii"),
                url=urls[image.index] if urls else None,
                revised_prompt=drawn.prompt,
                seed=image.seed,
            )
            for image in result.images
        ],
        output_format=output_format,
        quality=body.quality or _AUTO,
        size=f"{drawn.width}x{drawn.height}",
    )


async def _store(
    body: ImagesRequest, result: GenerationResult, request: Request, service: Service
) -> tuple[list[str], float | None]:
    """Addresses of the pictures where the client wants them, and the seconds that storing took."""
    if body.response_format != "url":
        return [], None
    start = time.perf_counter()
    folder = new_request_id()
    names = await store_pictures(service.store, folder, result)
    base = base_url(request, service.settings)
    return [f"{base}/images/{folder}/{name}" for name in names], time.perf_counter() - start


async def _stream(
    body: ImagesRequest, draft: RequestDraft, picture_id: str | None, request: Request, service: Service
) -> StreamingResponse:
    partial_images = body.partial_images or 0
    if partial_images:
        defaults = (await service.facts(draft.pool, draft.model)).defaults
        steps = draft.num_inference_steps or defaults.num_inference_steps
        draft = replace(draft, preview_every=preview_every(steps, partial_images))
    events = follow(service, draft, picture_id)
    # A refusal must have its own status, so nothing is sent before the first sign that it is being drawn.
    first = await anext(events)
    output = StreamedOutput(quality=body.quality or _AUTO, partial_images=partial_images)

    def error_body(error: ImagineError) -> dict[str, Any]:
        return _ERRORS.render(_ERRORS.adapt(_ERRORS.problem(request, error)))

    return StreamingResponse(
        server_sent(picture_events(first, events, output, error_body)),
        media_type="text/event-stream",
        headers={"X-Seed": str(draft.seed), "Cache-Control": "no-store", "X-Accel-Buffering": "no"},
    )


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
