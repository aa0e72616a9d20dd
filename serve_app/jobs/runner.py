"""`JobRunner`: accepts, keeps and ends all jobs, whatever happens to store, callers and itself."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
import weakref
from collections.abc import AsyncGenerator, Coroutine
from contextlib import aclosing
from typing import Any

from serve_app.errors import InvalidRequest, NotFound, PoolUnavailable, StoreUnavailable
from serve_app.jobs.drawing import FIRST_PAUSE_S, Drawer, JobDrawing
from serve_app.jobs.ending import JobEnding
from serve_app.jobs.events import JobEvent, JobProgress
from serve_app.jobs.job import Job, ended_progress
from serve_app.jobs.keeper import JobOrder, JobView, Submission
from serve_app.jobs.record_store import JobRecordStore
from serve_app.jobs.records import JobRecord, JobState
from serve_app.jobs.room import refuse_too_many
from serve_app.jobs.turns import Turns
from serve_app.jobs.webhooks import Webhooks
from serve_app.picture_urls import PictureUrls
from serve_app.settings import Settings
from serve_app.store import PictureStore

log = logging.getLogger(__name__)

CHECK_TIMEOUT_S = 3.0
"""How long an order waits for pools to say whether they could draw it; after that it is accepted unchecked."""

RECOVERY_TIMEOUT_S = 10.0
"""How long a call waits for the records of the last runner to be read."""

_SWEEPS_PER_RETENTION = 100
_NOT_BEGUN = (JobState.QUEUED, JobState.STARTING)
_KEPT_IN_MEMORY = 256
_TAKEN_UP_AT_ONCE = 16


class JobRunner:
    """All jobs of a service; implements `serve_app.jobs.keeper.JobKeeper`. One at a time per store.

    It starts with the first call, or with `start`.

    Args:
        settings: The application's settings.
        drawer: Draws.
        pictures: Where finished pictures go.
        webhooks: Delivers; None makes them from the settings.
        first_pause_s: Seconds before a job that was refused is handed to the pools again; doubles each time.
    """

    def __init__(
        self,
        settings: Settings,
        drawer: Drawer,
        pictures: PictureStore,
        *,
        webhooks: Webhooks | None = None,
        first_pause_s: float = FIRST_PAUSE_S,
    ) -> None:
        self._settings = settings.jobs
        self._sweep_interval_s = settings.store.sweep_interval_s
        self._drawer = drawer
        self._records = JobRecordStore(settings.store, settings.jobs)
        self._webhooks = webhooks or Webhooks(settings.jobs)
        self._ending = JobEnding(settings.jobs, self._records, self._webhooks, PictureUrls(settings.access))
        self._turns = Turns(settings.jobs.max_running, self._show_positions)
        self._drawing = JobDrawing(settings, drawer, pictures, self._turns, first_pause_s=first_pause_s)
        self._jobs: dict[str, Job] = {}  # something is left to do for them
        self._ended: dict[str, Job] = {}  # the last ones, for readers who are a little late
        self._accepting: dict[str, str] = {}  # and whose they are
        self._locks: weakref.WeakValueDictionary[str, asyncio.Lock] = weakref.WeakValueDictionary()
        self._recovered = asyncio.Event()
        self._caretaker: asyncio.Task[None] | None = None
        self._calls: set[asyncio.Task[Any]] = set()

    # --- the keeper ---

    async def submit(self, order: JobOrder) -> Submission:
        """Accepts a job; see `JobKeeper.submit`."""
        await self._ready()
        # In a task of its own: a caller who leaves halfway must not leave half a job.
        return await asyncio.shield(self._call(self._accept(order)))

    async def get(self, job_id: str) -> JobView:
        """A job; see `JobKeeper.get`."""
        job = self._in_memory(job_id)
        if job is None:
            await self._ready()
            job = self._in_memory(job_id)
        if job is not None:
            return job.view
        record = await self._records.get(job_id)
        return JobView(record, ended_progress(record))

    async def cancel(self, job_id: str) -> JobView:
        """Stops a job; see `JobKeeper.cancel`."""
        view = await self.get(job_id)
        job = self._jobs.get(job_id)
        if job is None or job.task is None:
            return view
        await asyncio.sleep(0)  # a task that is cancelled before its first step would never end its job
        if not job.ending and not job.cancel_requested:
            job.cancel_requested = True
            job.task.cancel()
        try:
            async with asyncio.timeout(RECOVERY_TIMEOUT_S):
                await job.ended.wait()
        except TimeoutError:
            raise StoreUnavailable("The job is being stopped; its end could not be stored yet") from None
        return job.view

    async def events(self, job_id: str, last_seen: int = 0) -> AsyncGenerator[JobEvent, None]:
        """Events of a job; see `JobKeeper.events`."""
        view = await self.get(job_id)
        job = self._in_memory(job_id)
        if job is None:
            record = view.record
            if last_seen != record.last_event_id:
                yield JobEvent(record.last_event_id, view.progress, record=record)
            return
        async with aclosing(job.log.follow(last_seen)) as events:
            async for event in events:
                yield event

    # --- starting and stopping ---

    def start(self) -> None:
        """Takes up what the last runner left, and cleans up in the background; needs a running event loop."""
        if self._caretaker is None:
            self._caretaker = asyncio.get_running_loop().create_task(self._take_care())

    async def close(self) -> None:
        """Stops; what is unfinished is for the next runner to take up."""
        tasks = [job.task for job in self._jobs.values() if job.task is not None]
        if self._caretaker is not None:
            tasks.append(self._caretaker)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=5.0)

    def is_alive(self) -> bool:
        """Whether its background task runs."""
        return self._caretaker is not None and not self._caretaker.done()

    async def _take_care(self) -> None:
        next_sweep = 0.0
        while True:
            try:
                await self._take_up_what_is_left()
                self._recovered.set()
                if time.monotonic() >= next_sweep:
                    await self._records.sweep()
                    # Listing all that is kept costs more than listing what is open.
                    next_sweep = time.monotonic() + self._settings.retention_s / _SWEEPS_PER_RETENTION
            except StoreUnavailable as error:
                log.warning("The job records could not be read: %s", error)
            await asyncio.sleep(self._sweep_interval_s if self._recovered.is_set() else 1.0)

    async def _take_up_what_is_left(self) -> None:
        left = await self._records.open_jobs(known={*self._jobs, *self._ended, *self._accepting})
        for start in range(0, len(left), _TAKEN_UP_AT_ONCE):
            some = left[start : start + _TAKEN_UP_AT_ONCE]
            # One by one, a thousand jobs on an object store would keep all calls waiting for a minute.
            taken_up = await asyncio.gather(*map(self._take_up, some), return_exceptions=True)
            for failure in taken_up:
                if failure is not None:
                    raise failure

    async def _take_up(self, record: JobRecord) -> None:
        if any(record.id in known for known in (self._jobs, self._ended, self._accepting)):
            return
        if not record.state.ended:
            # Numbers of events go on from where no earlier runner has been.
            record = record.model_copy(update={"starts": record.starts + 1})
            await self._records.put_open(record)
            log.info("Job %s was left unfinished and is drawn again", record.id)
        self._begin(record)

    async def _ready(self) -> None:
        self.start()
        try:
            async with asyncio.timeout(RECOVERY_TIMEOUT_S):
                await self._recovered.wait()
        except TimeoutError:
            raise StoreUnavailable("The job store does not answer; try again later") from None

    def _call(self, work: Coroutine[Any, Any, Submission]) -> asyncio.Task[Submission]:
        task = asyncio.get_running_loop().create_task(work)
        self._calls.add(task)  # the loop itself holds tasks weakly
        task.add_done_callback(self._calls.discard)
        return task

    def _in_memory(self, job_id: str) -> Job | None:
        job = self._jobs.get(job_id) or self._ended.get(job_id)
        ended_at = None if job is None else job.record.ended_at
        # Whether it can still be asked for must not depend on how many came after it.
        return None if ended_at is not None and ended_at < time.time() - self._settings.retention_s else job

    # --- accepting ---

    async def _accept(self, order: JobOrder) -> Submission:
        key, job_id = order.idempotency_key, order.draft.request_id
        async with self._locks.setdefault(key.hash if key else job_id, asyncio.Lock()):
            known = await self._accepted_before(order)
            if known is not None:
                return Submission(known, created=False)
            self._refuse_too_many(order)
            self._accepting[job_id] = order.owner
            try:
                await self._check(order)
                record = JobRecord(
                    id=job_id,
                    draft=order.draft,
                    created_at=time.time(),
                    owner=order.owner,
                    base_url=order.base_url,
                    webhook_url=order.webhook_url,
                    webhook="pending" if order.webhook_url else None,
                    starts=1,
                )
                if key is not None:
                    # Before the record: a key that leads nowhere is no harm, a job without its key is drawn twice.
                    await self._records.put_key(key.hash, key.fingerprint, job_id)
                await self._records.put_open(record)
                return Submission(self._begin(record).view, created=True)
            finally:
                self._accepting.pop(job_id, None)

    def _refuse_too_many(self, order: JobOrder) -> None:
        bounds: list[tuple[int, str, list[Job], int]] = [
            (self._settings.max_unfinished, "jobs", list(self._jobs.values()), len(self._accepting))
        ]
        if order.max_unfinished is not None:
            own = [job for job in self._jobs.values() if job.record.owner == order.owner]
            accepting = list(self._accepting.values()).count(order.owner)
            bounds.append((order.max_unfinished, "of your jobs", own, accepting))
        for most, whose, jobs, accepting in bounds:
            refuse_too_many(
                jobs,
                accepting,
                most,
                whose=whose,
                webhook=order.webhook_url is not None,
                retry_after_s=self._ending.seconds_per_job(),
            )

    async def _accepted_before(self, order: JobOrder) -> JobView | None:
        job = self._in_memory(order.draft.request_id)
        if job is not None:
            return job.view
        if order.idempotency_key is None:
            return None
        stored = await self._records.get_key(order.idempotency_key.hash)
        if stored is None:
            return None
        fingerprint, job_id = stored
        with contextlib.suppress(NotFound):
            view = await self.get(job_id)
            if fingerprint != order.idempotency_key.fingerprint:
                raise InvalidRequest(
                    "idempotency_key",
                    "it was used for another request; a repetition must be the same in all its fields",
                )
            return view
        return None

    async def _check(self, order: JobOrder) -> None:
        if order.webhook_url is not None:
            await self._webhooks.check(order.webhook_url)
        try:
            async with asyncio.timeout(CHECK_TIMEOUT_S):
                await self._drawer.check(order.draft)
        except (PoolUnavailable, TimeoutError):
            return  # nobody can tell now; should it turn out to be impossible, the job fails with the reason

    def _begin(self, record: JobRecord) -> Job:
        job = Job(record, self._settings.event_buffer)
        ahead = sum(other.progress.state in _NOT_BEGUN for other in self._jobs.values())
        self._jobs[record.id] = job
        if record.state.ended:
            job.ending = True
            job.end(record)
        else:
            job.show(JobProgress(JobState.QUEUED, position=ahead))
        job.task = asyncio.get_running_loop().create_task(self._live(job))
        return job

    # --- a job's own task ---

    async def _live(self, job: Job) -> None:
        try:
            if not job.ending:
                end = await self._drawing.until_end(job)
                job.ending = True
                await self._ending.store(job, end)
            await self._ending.settle(job)
        except StoreUnavailable as error:
            log.warning("Job %s is left for the next start: %s", job.record.id, error)
        finally:
            del self._jobs[job.record.id]
            # Who reads comes again, and then reads of the job as it is taken up the next time.
            job.log.close()
        if job.ended.is_set():
            self._ended[job.record.id] = job
        while len(self._ended) > _KEPT_IN_MEMORY:
            del self._ended[next(iter(self._ended))]

    def _show_positions(self) -> None:
        starting = sum(job.progress.state is JobState.STARTING for job in self._jobs.values())
        for place, job_id in enumerate(self._turns.waiting()):
            job = self._jobs.get(job_id)
            if job is not None:
                job.show(
                    JobProgress(JobState.QUEUED, position=starting + place, message=job.progress.message)
                )
