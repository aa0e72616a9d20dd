"""`JobEnding`: from a job's end until nothing is left to do for it, however long the store is away meanwhile."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from typing import TypeVar

import stamina

from serve_app.errors import StoreUnavailable
from serve_app.jobs.body import job_body
from serve_app.jobs.job import Job
from serve_app.jobs.record_store import JobRecordStore
from serve_app.jobs.webhooks import Webhooks
from serve_app.picture_urls import PictureUrls
from serve_app.settings import JobsSettings

_REMOVING_S = 300.0  # a store that takes everything but removals must not fill the memory
_UNKNOWN_S_PER_JOB = 5.0

Written = TypeVar("Written")


class JobEnding:
    """For all jobs of a runner. Every step may be made again by the next runner, from the records.

    Args:
        settings: Of the jobs.
        records: Where ends are kept.
        webhooks: Delivers.
        urls: Makes the addresses in what is delivered.
    """

    def __init__(
        self, settings: JobsSettings, records: JobRecordStore, webhooks: Webhooks, urls: PictureUrls
    ) -> None:
        self._settings = settings
        self._records = records
        self._webhooks = webhooks
        self._urls = urls
        self._times: deque[float] = deque(maxlen=16)

    async def store(self, job: Job, end: Mapping[str, object]) -> None:
        """Writes the end, then tells the readers.

        Args:
            job: Has not ended yet.
            end: Fields of its record.

        Raises:
            StoreUnavailable: The store was away for as long as a job may take.
        """
        record = job.record.model_copy(
            update={**end, "ended_at": time.time(), "last_event_id": job.log.last_id + 1}
        )
        await self._patiently(self._records.put_done, record, self._settings.max_age_s)
        self._times.append(time.monotonic())
        job.end(record)

    async def settle(self, job: Job) -> None:
        """Does what is left for a job whose end is stored: its webhook, then its open record goes.

        Raises:
            StoreUnavailable: The store was away for too long.
        """
        await self._tell(job)
        await self._patiently(self._records.remove_open, job.record.id, _REMOVING_S)

    def seconds_per_job(self) -> float:
        """How often a job has ended of late: then there is room for another."""
        if len(self._times) < 2:
            return _UNKNOWN_S_PER_JOB
        interval = (self._times[-1] - self._times[0]) / (len(self._times) - 1)
        return min(60.0, max(1.0, interval))

    async def _tell(self, job: Job) -> None:
        """Delivers the webhook, if there is one that was not delivered yet."""
        record = job.record
        if record.webhook_url is None or record.webhook != "pending":
            return
        body = job_body(job.view, record.base_url, self._urls).model_dump_json(exclude={"webhook"})
        taken = await self._webhooks.deliver(record.webhook_url, record.id, body.encode())
        job.record = record.model_copy(update={"webhook": "delivered" if taken else "failed"})
        await self._patiently(self._records.put_done, job.record, self._settings.max_age_s)

    async def _patiently(
        self, write: Callable[[Written], Awaitable[None]], what: Written, timeout_s: float
    ) -> None:
        """Writes to the store; while it is away, again and again: what is left undone may be done twice.

        Raises:
            StoreUnavailable: It was away for `timeout_s`.
        """
        async for attempt in stamina.retry_context(
            on=StoreUnavailable, attempts=None, timeout=timeout_s, wait_max=30.0
        ):
            with attempt:
                await write(what)
