"""``/v1/images/generations``."""

from __future__ import annotations

import base64
import time
from dataclasses import replace
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import StreamingResponse

from serve_app.api.deps import Service, body_schema, inlined_schema, json_body
from serve_app.api.drawing import draw, drawing_headers, follow, store_pictures
from serve_app.api.errors import error_responses
from serve_app.api.openai.bodies import AUTO, ImagesRequest, ImagesResponse, Picture
from serve_app.api.openai.errors import ERRORS, OpenAIError
from serve_app.api.openai.stream import (
    CompletedImage,
    PartialImage,
    StreamedOutput,
    picture_events,
    preview_every,
    server_sent,
)
from serve_app.api.unattended import keep_as
from serve_app.api.urls import base_url
from serve_app.errors import ImagineError
from serve_app.picture_urls import PictureUrls
from serve_app.request import RequestDraft, new_request_id
from serve_app.result import GenerationResult

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
router = APIRouter(route_class=ERRORS.route_class())


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
        **error_responses(OpenAIError, 400, 404, 408, 413, 429, 500, 503, 504),
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
        quality=body.quality or AUTO,
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
    urls = PictureUrls(service.settings.access)
    return [urls.url(base, folder, name) for name in names], time.perf_counter() - start


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
    output = StreamedOutput(quality=body.quality or AUTO, partial_images=partial_images)

    def error_body(error: ImagineError) -> dict[str, Any]:
        return ERRORS.render(ERRORS.adapt(ERRORS.problem(request, error)))

    return StreamingResponse(
        server_sent(picture_events(first, events, output, error_body)),
        media_type="text/event-stream",
        headers={"X-Seed": str(draft.seed), "Cache-Control": "no-store", "X-Accel-Buffering": "no"},
    )
