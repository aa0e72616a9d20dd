"""``/api/jobs``: pictures that are drawn whatever happens to the connection or the service meanwhile."""

from __future__ import annotations

import base64
import hashlib
import json
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from dataclasses import replace
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException

from serve_app.api import sse
from serve_app.api.caller import KEYED, caller_of
from serve_app.api.deps import Service, body_schema, json_body
from serve_app.api.errors import ErrorBody, WireErrors, error_responses
from serve_app.api.urls import base_url
from serve_app.errors import ImagineError, LimitReached, TooManyJobs
from serve_app.jobs import (
    IdempotencyKey,
    JobBody,
    JobEvent,
    JobOrder,
    JobState,
    JobView,
    Submission,
    job_body,
)
from serve_app.jobs.body import ResultBody, client_field
from serve_app.limits import (
    GuidanceScale,
    NumImages,
    NumInferenceSteps,
    PixelSide,
    PromptText,
    Quality,
    RequiredPrompt,
    Seed,
    ShortName,
    WholeNumber,
)
from serve_app.picture_urls import PictureUrls
from serve_app.request import (
    ImageFormat,
    OutputOptions,
    Priority,
    RequestDraft,
    new_request_id,
    random_seed,
)
from serve_app.service import ImageService

MAX_DEADLINE_S = 7 * 24 * 3600.0


class JobRequest(BaseModel):
    """The body. A field that is not listed is refused; null means absent for all but the prompt."""

    model_config = ConfigDict(
        protected_namespaces=(),
        extra="forbid",
        json_schema_extra={"examples": [{"prompt": "a lighthouse at sunset", "seed": 7, "num_images": 2}]},
    )

    prompt: RequiredPrompt = Field(strict=True, description="What to draw.")
    negative_prompt: PromptText | None = Field(
        default=None, strict=True, description="What to steer away from; only with guidance_scale above 1."
    )
    width: PixelSide | None = Field(
        default=None, strict=True, description="Pixels; the model's own when absent."
    )
    height: PixelSide | None = Field(
        default=None, strict=True, description="Pixels; the model's own when absent."
    )
    num_inference_steps: NumInferenceSteps | None = Field(
        default=None, strict=True, description="Denoising steps; the model's own when absent."
    )
    guidance_scale: GuidanceScale | None = Field(
        default=None, strict=True, description="0 and 1 mean no guidance."
    )
    seed: Seed | None = Field(
        default=None, strict=True, description="0 is a seed; absent means a random one."
    )
    num_images: NumImages | None = Field(
        default=None, strict=True, description="Pictures; picture i has seed + i. 1 when absent."
    )
    scheduler: ShortName | None = Field(
        default=None, strict=True, description="Noise scheduler; /api/pools lists them."
    )
    format: ImageFormat | None = Field(default=None, description="File format; png when absent.")
    quality: Quality | None = Field(
        default=None, strict=True, description="Of webp and jpeg; 90 when absent."
    )
    priority: Priority | None = Field(
        default=None, description="batch goes after interactive, which is what an absent one means."
    )
    deadline_s: Annotated[float, Field(gt=0, le=MAX_DEADLINE_S, allow_inf_nan=False)] | None = Field(
        default=None, strict=True, description="Seconds from now; a job that is unfinished then fails."
    )
    pool: ShortName | None = Field(default=None, strict=True, description="Pool that must draw it.")
    model: ShortName | None = Field(default=None, strict=True, description="Model that must draw it.")
    preview_every: Annotated[WholeNumber, Field(ge=0, le=150)] | None = Field(
        default=None, strict=True, description="Steps between two previews in the events; none when absent."
    )
    webhook_url: Annotated[str, Field(min_length=1, max_length=2000)] | None = Field(
        default=None, strict=True, description="https address that is told of the end, signed."
    )

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
            num_images=self.num_images or 1,
            scheduler_name=self.scheduler,
            output=OutputOptions(self.format or ImageFormat.PNG, self.quality or 90),
            priority=self.priority or Priority.INTERACTIVE,
            deadline=None if self.deadline_s is None else time.time() + self.deadline_s,
            preview_every=self.preview_every or 0,
            request_id=new_request_id(),
            pool=self.pool,
            model=self.model,
        )


def _field(canonical: str, request: Request) -> str:
    return "Idempotency-Key" if canonical == "idempotency_key" else client_field(canonical)


router = APIRouter(
    prefix="/api/jobs", tags=["jobs"], route_class=WireErrors(client_field=_field).route_class()
)
_ANY_OTHER: dict[int | str, dict[str, Any]] = {
    "default": {"model": ErrorBody, "description": "Any other refusal."}
}
_REFUSALS: dict[int | str, dict[str, Any]] = {**error_responses(ErrorBody, 404, 503), **_ANY_OTHER}


@router.post(
    "",
    status_code=202,
    summary="Accept a job",
    responses={
        200: {"model": JobBody, "description": "The Idempotency-Key's job, which has ended."},
        **error_responses(ErrorBody, 400, 408, 413, 422, 429, 503),
    },
    openapi_extra=body_schema(JobRequest),
)
async def submit(
    body: Annotated[JobRequest, Depends(json_body(JobRequest))],
    request: Request,
    response: Response,
    service: Service,
    idempotency_key: Annotated[
        str | None,
        Header(description="A name of your own for this request: sending it again makes no second job."),
    ] = None,
) -> JobBody:
    """Answers as soon as the job is stored. From then on it is drawn, whatever dies or is restarted."""
    address = base_url(request, service.settings)
    caller = caller_of(request, service.settings)
    draft = body.to_draft()
    order = JobOrder(
        draft=draft,
        owner=hashlib.sha256(caller.encode()).hexdigest(),
        max_unfinished=service.quotas.limits(caller).max_unfinished_jobs,
        base_url=address,
        webhook_url=body.webhook_url,
        idempotency_key=None if idempotency_key is None else _hashed(idempotency_key, body, caller),
    )
    submission = await _submitted(service, order, caller)
    answer = job_body(submission.job, address, _urls(service))
    response.headers["Location"] = answer.urls.status
    if idempotency_key is not None and not submission.created:
        response.headers["Idempotent-Replayed"] = "true"
        response.status_code = 200 if answer.state.ended else 202
    return answer


@router.get("/{job_id}", summary="Where a job stands", responses=_REFUSALS)
async def status(job_id: str, request: Request, response: Response, service: Service) -> JobBody:
    """State, position, progress, and the result once it is finished. Any replica answers for any job."""
    response.headers["Cache-Control"] = "no-store"
    return _body(await service.jobs.get(job_id), request, service)


@router.delete("/{job_id}", summary="Stop a job", responses=_REFUSALS)
async def cancel(job_id: str, request: Request, service: Service) -> JobBody:
    """Stops this job at its next step. One that has ended stays as it is; asking again changes nothing."""
    return _body(await service.jobs.cancel(job_id), request, service)


@router.get(
    "/{job_id}/result",
    summary="The result alone",
    responses={
        202: {"model": JobBody, "description": "Not finished yet."},
        **error_responses(ErrorBody, 404, 409, 503),
        **_ANY_OTHER,
    },
    response_model=ResultBody,
)
async def result(job_id: str, request: Request, service: Service) -> Response:
    """The addresses of the pictures once they are drawn; 202 before that, 409 when they will not come."""
    answer = _body(await service.jobs.get(job_id), request, service)
    if answer.result is not None:
        return Response(answer.result.model_dump_json(), media_type="application/json")
    if answer.state.ended:
        reason = answer.error.message if answer.error else "it was cancelled"
        raise HTTPException(409, f"The job has no result: {reason}")
    return Response(
        answer.model_dump_json(), 202, headers={"Retry-After": "1"}, media_type="application/json"
    )


@router.get(
    "/{job_id}/events",
    summary="A job's events as they happen",
    response_class=StreamingResponse,
    responses={
        200: {
            "description": "queued, starting, step, and last finished, failed or cancelled, each with the job as data.",
            "content": {sse.MEDIA_TYPE: {"schema": {"type": "string"}}},
        },
        204: {"description": "The client has seen the last event."},
        **error_responses(ErrorBody, 404, 422, 503),
    },
)
async def events(
    job_id: str,
    request: Request,
    service: Service,
    last_event_id: Annotated[
        str | None, Header(description="Number of the last event seen, to go on after it.")
    ] = None,
) -> Response:
    """Server-sent events. A client who comes back with Last-Event-ID misses nothing that is still kept, and begins
    with the current state where something is not. Leaving does not stop the job."""
    last_seen = _event_number(last_event_id)
    job = await service.jobs.get(job_id)
    if job.progress.state.ended and last_seen == job.record.last_event_id:
        return Response(status_code=204)  # what stops a browser's EventSource from coming back
    stream = _event_stream(service, job, last_seen, base_url(request, service.settings))
    return StreamingResponse(stream, media_type=sse.MEDIA_TYPE, headers=dict(sse.HEADERS))


async def _event_stream(
    service: ImageService, job: JobView, last_seen: int, address: str
) -> AsyncGenerator[bytes, None]:
    events = service.jobs.events(job.record.id, last_seen)
    async with aclosing(sse.with_silences(events, service.settings.jobs.heartbeat_s)) as stream:
        try:
            async for event in stream:
                if event is None:
                    yield sse.HEARTBEAT
                else:
                    yield sse.encode_event(
                        _event_data(job, event, address, _urls(service)), event=event.kind, event_id=event.id
                    )
        except ImagineError as error:
            # The answer has begun, so its status cannot tell; a client comes back with Last-Event-ID.
            yield b": " + str(error).replace("\n", " ").encode() + b"\n\n"


def _event_data(job: JobView, event: JobEvent, address: str, pictures: PictureUrls) -> dict[str, Any]:
    """The job as it was at the event: all of it at the end, else what changes."""
    view = JobView(event.record or job.record, event.progress)
    body = job_body(view, address, pictures).model_dump(mode="json")
    if event.record is not None:
        return body
    keys = ("id", "state", "position", "step", "num_inference_steps", "progress", "eta_s", "message")
    data = {key: body[key] for key in keys}
    if event.progress.state is JobState.RUNNING:
        data["image_index"] = event.image_index
    if event.preview is not None:
        data["preview"] = base64.b64encode(event.preview).decode("ascii")
    return data


def _urls(service: ImageService) -> PictureUrls:
    return PictureUrls(service.settings.access)


def _body(job: JobView, request: Request, service: ImageService) -> JobBody:
    return job_body(job, base_url(request, service.settings), _urls(service))


async def _submitted(service: ImageService, order: JobOrder, caller: str) -> Submission:
    """Hands the order in; its pictures count for the caller's minute if it is a new one."""
    images = order.draft.num_images
    try:
        await service.quotas.charge(caller, images)
    except LimitReached:
        if order.idempotency_key is None:
            raise
        with suppress(TooManyJobs):  # none but a job that is there already, which costs nothing
            return await service.jobs.submit(replace(order, max_unfinished=0))
        raise
    try:
        submission = await service.jobs.submit(order)
    except Exception:  # not where the caller leaves meanwhile: its job is accepted all the same
        await service.quotas.give_back(caller, images)
        raise
    if not submission.created:
        await service.quotas.give_back(caller, images)
    return submission


def _event_number(last_event_id: str | None) -> int:
    text = (last_event_id or "").strip()
    if not text:
        return 0
    if not (text.isascii() and text.isdecimal() and len(text) <= 15):
        problem = {
            "type": "value_error",
            "loc": ("header", "Last-Event-ID"),
            "msg": "must be the number of an event",
        }
        raise RequestValidationError([problem])
    return int(text)


def _hashed(key: str, body: JobRequest, caller: str) -> IdempotencyKey:
    """A key as it is stored: of this caller and this route alone, and not to be read back."""
    if not 1 <= len(key.strip()) <= 255:
        problem = {
            "type": "value_error",
            "loc": ("header", "Idempotency-Key"),
            "msg": "must have 1 to 255 characters",
        }
        raise RequestValidationError([problem])
    # The address of a caller without a key may change before it asks again.
    scope = ["POST", router.prefix, caller if caller.startswith(KEYED) else "", key.strip()]
    order = json.dumps(body.model_dump(mode="json"), sort_keys=True)
    return IdempotencyKey(
        hash=hashlib.sha256(json.dumps(scope).encode()).hexdigest(),
        fingerprint=hashlib.sha256(order.encode()).hexdigest(),
    )
