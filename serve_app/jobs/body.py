"""The JSON of a job, as ``GET /api/jobs/{id}`` answers it and the webhook posts it."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from serve_app.jobs.keeper import JobView
from serve_app.jobs.records import JobError, JobState
from serve_app.picture_urls import PictureUrls

_CLIENT_FIELDS = {"size": "width", "scheduler_name": "scheduler", "deadline": "deadline_s"}


def client_field(canonical: str) -> str:
    """The jobs API's own name of a field of `RequestDraft`."""
    return _CLIENT_FIELDS.get(canonical, canonical)


class JobUrls(BaseModel):
    """Where to go on; all absolute."""

    status: str = Field(description="GET: this document.")
    events: str = Field(description="GET: the job's events (text/event-stream).")
    cancel: str = Field(description="DELETE: stop the job.")
    result: str = Field(description="GET: the result alone, once it is finished.")


class ImageBody(BaseModel):
    """A picture."""

    url: str
    seed: int = Field(description="Draws this picture again, alone.")
    width: int
    height: int
    seconds: dict[str, float] = Field(description="Wall seconds by stage.")


class ResultBody(BaseModel):
    """What a finished job drew, and with what."""

    model_config = ConfigDict(protected_namespaces=())

    images: list[ImageBody]
    pool: str
    model: str
    accelerator: str
    num_inference_steps: int
    guidance_scale: float
    total_s: float = Field(description="Seconds in the replica, its queue included.")
    cost: float = Field(description="Its share of the device's time, in the currency of price_per_hour.")


class JobBody(BaseModel):
    """A job."""

    id: str
    state: JobState
    position: int | None = Field(description="Drawings that go before it while it waits.")
    step: int = Field(description="Steps that each of its pictures has made.")
    num_inference_steps: int | None
    progress: float = Field(description="0 to 1.")
    eta_s: float | None = Field(description="Seconds until its end, from its own steps so far.")
    message: str | None = Field(
        description="Why it waits, when a pool refused it for now or is being started for it."
    )
    prompt: str
    seed: int
    num_images: int
    priority: str
    created_at: float = Field(description="Unix time in seconds.")
    started_at: float | None = Field(description="Unix time in seconds.")
    ended_at: float | None = Field(description="Unix time in seconds.")
    result: ResultBody | None
    error: JobError | None
    webhook: str | None = Field(description="pending, delivered or failed; null without a webhook.")
    urls: JobUrls


def job_body(job: JobView, base_url: str, pictures: PictureUrls) -> JobBody:
    """Renders a job.

    Args:
        job: The job.
        base_url: Address of the service's root as the reader reaches it, without a slash at the end.
        pictures: Makes the addresses of its pictures.
    """
    record, progress = job.record, job.progress
    address = f"{base_url}/api/jobs/{record.id}"
    result, error = record.result, record.error
    if error is not None and error.field is not None:
        name = client_field(error.field)
        error = error.model_copy(update={"field": name, "message": f"{name}: {error.message}"})
    images = [
        ImageBody(url=pictures.url(base_url, record.id, image.name), **image.model_dump(exclude={"name"}))
        for image in (result.images if result else ())
    ]
    return JobBody(
        id=record.id,
        state=progress.state,
        position=progress.position,
        step=progress.step,
        num_inference_steps=progress.num_inference_steps or record.draft.num_inference_steps,
        progress=round(progress.fraction, 4),
        eta_s=None if progress.eta_s is None else round(progress.eta_s, 3),
        message=progress.message,
        prompt=record.draft.prompt,
        seed=record.draft.seed,
        num_images=record.draft.num_images,
        priority=record.draft.priority.value,
        created_at=record.created_at,
        started_at=record.started_at,
        ended_at=record.ended_at,
        result=ResultBody(images=images, **result.model_dump(exclude={"images"})) if result else None,
        error=error,
        webhook=record.webhook,
        urls=JobUrls(status=address, events=f"{address}/events", cancel=address, result=f"{address}/result"),
    )
