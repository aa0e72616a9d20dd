"""`JobKeeper`: the jobs as the wire formats see them, wherever they are kept."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Protocol

from serve_app.jobs.events import JobEvent, JobProgress
from serve_app.jobs.records import JobRecord
from serve_app.request import RequestDraft


@dataclass(frozen=True, slots=True)
class IdempotencyKey:
    """A client's name for one order, so that sending it again makes no second job.

    Attributes:
        hash: Hexadecimal digest of the key and of whom it belongs to.
        fingerprint: Hexadecimal digest of the order; the same key with another one is refused.
    """

    hash: str
    fingerprint: str


@dataclass(frozen=True, slots=True)
class JobOrder:
    """A job to accept. Submitting it twice makes one job.

    Attributes:
        draft: What to draw; its ``request_id`` becomes the job's id.
        base_url: Address under which the client reached the service.
        webhook_url: Told of the end, or None.
        idempotency_key: The client's, or None.
        owner: Stands for the caller, without telling who that is.
        max_unfinished: Most unfinished jobs of the owner, this one among them; None for no limit of its own, 0 for
            none but a job that was accepted before.
    """

    draft: RequestDraft
    base_url: str = ""
    webhook_url: str | None = None
    idempotency_key: IdempotencyKey | None = None
    owner: str = ""
    max_unfinished: int | None = None


@dataclass(frozen=True, slots=True)
class JobView:
    """A job as it is now.

    Attributes:
        record: What is known of it.
        progress: Where it stands.
    """

    record: JobRecord
    progress: JobProgress


@dataclass(frozen=True, slots=True)
class Submission:
    """The answer to an order.

    Attributes:
        job: The job.
        created: False when the order had been accepted before.
    """

    job: JobView
    created: bool


class JobKeeper(Protocol):
    """Keeps the jobs. `JobRunner` is the real one; `serve_app.jobs_handle.HandleJobs` asks it from elsewhere."""

    async def submit(self, order: JobOrder) -> Submission:
        """Accepts a job: from here on it survives everything but the loss of the store.

        Raises:
            InvalidRequest: No pool could ever draw it, or its webhook or its key is refused.
            TooManyJobs: As many are unfinished as may be.
            StoreUnavailable: It could not be written; nothing was accepted.
            JobsUnavailable: The keeper is being restarted.
        """
        ...

    async def get(self, job_id: str) -> JobView:
        """A job.

        Raises:
            NotFound: There is none, or its time is over.
            StoreUnavailable: The store does not answer.
            JobsUnavailable: The keeper is being restarted.
        """
        ...

    async def cancel(self, job_id: str) -> JobView:
        """Stops a job at its next step; one that has ended stays as it is.

        Raises:
            NotFound: There is none, or its time is over.
            StoreUnavailable: The end could not be written yet; the drawing has stopped.
            JobsUnavailable: The keeper is being restarted.
        """
        ...

    def events(self, job_id: str, last_seen: int = 0) -> AsyncGenerator[JobEvent, None]:
        """Events of a job after number `last_seen`, until its end. Leaving them does not stop the job.

        Raises:
            NotFound: There is none, or its time is over.
            StoreUnavailable: The store does not answer.
            JobsUnavailable: The keeper has been away for too long.
        """
        ...
