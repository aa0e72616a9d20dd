"""What is kept of a job in the store: `JobRecord`, from acceptance to its end."""

from __future__ import annotations

from enum import StrEnum
from typing import Literal

from pydantic import BaseModel, ConfigDict

from serve_app import errors
from serve_app.request import RequestDraft


class JobState(StrEnum):
    """Where a job stands."""

    QUEUED = "queued"
    STARTING = "starting"
    RUNNING = "running"
    FINISHED = "finished"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def ended(self) -> bool:
        """Whether nothing changes any more."""
        return self in (JobState.FINISHED, JobState.FAILED, JobState.CANCELLED)


# The first class that fits decides.
_CODES: tuple[tuple[type[errors.ImagineError], str], ...] = (
    (errors.UnknownModel, "unknown_model"),
    (errors.UnsupportedRequest, "unsupported"),
    (errors.InvalidRequest, "invalid_request"),
    (errors.DeadlineExceeded, "deadline_exceeded"),
    (errors.GenerationFailed, "generation_failed"),
    (errors.PictureRefused, "picture_refused"),
)


class _Stored(BaseModel):
    # A newer version of the service may have written more; an older one reads what it knows.
    model_config = ConfigDict(frozen=True, extra="ignore", protected_namespaces=())


class JobError(_Stored):
    """Why a job failed.

    Attributes:
        code: For programs.
        message: For people.
        field: Canonical field of the request at fault, or None.
    """

    code: str
    message: str
    field: str | None = None

    @classmethod
    def of(cls, error: errors.ImagineError) -> JobError:
        """From a domain error."""
        code = next((code for kind, code in _CODES if isinstance(error, kind)), "internal")
        if isinstance(error, errors.InvalidRequest):
            return cls(code=code, message=error.message, field=error.field)
        return cls(code=code, message=str(error))


class JobImage(_Stored):
    """One picture of a finished job.

    Attributes:
        name: Its name in the picture store, in the folder named as the job.
        seed: The seed that draws it again alone.
        width: Pixels.
        height: Pixels.
        seconds: Wall seconds by stage.
    """

    name: str
    seed: int
    width: int
    height: int
    seconds: dict[str, float]


class JobResult(_Stored):
    """What a finished job drew, and with what.

    Attributes:
        images: One per picture, in order.
        pool: Pool that drew it.
        model: Model that drew it.
        accelerator: Accelerator of the pool.
        num_inference_steps: Denoising steps that were made.
        guidance_scale: Guidance that was used.
        total_s: Seconds in the replica, its queue included.
        cost: Price of its share of the device's seconds, in the currency of ``price_per_hour``.
    """

    images: tuple[JobImage, ...]
    pool: str
    model: str
    accelerator: str
    num_inference_steps: int
    guidance_scale: float
    total_s: float
    cost: float


class JobRecord(_Stored):
    """All that is kept of a job.

    Attributes:
        version: Of this layout.
        id: Unguessable id; the request id of its drawing and the folder of its pictures too.
        draft: What to draw; its seed and its deadline are fixed here.
        created_at: Unix time of acceptance, in seconds.
        owner: Stands for the caller that handed it in.
        base_url: Under which the client reached the service; for the urls in the webhook.
        webhook_url: Told of the end, or None.
        webhook: Whether that has happened; None without one.
        starts: Runners that have taken it up.
        state: ``queued`` until its end is written.
        started_at: Unix time of its last first step.
        ended_at: Unix time of its end.
        last_event_id: Number of the event that told its end.
        error: Why it failed.
        result: What it drew.
    """

    version: Literal[1] = 1
    id: str
    draft: RequestDraft
    created_at: float
    owner: str = ""
    base_url: str = ""
    webhook_url: str | None = None
    webhook: Literal["pending", "delivered", "failed"] | None = None
    starts: int = 0
    state: JobState = JobState.QUEUED
    started_at: float | None = None
    ended_at: float | None = None
    last_event_id: int = 0
    error: JobError | None = None
    result: JobResult | None = None
