"""`JobDrawing`: draws one job until it ends, however often the pools refuse it or die."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Protocol

import stamina

from serve_app.errors import (
    DeadlineExceeded,
    GenerationFailed,
    ImagineError,
    Overloaded,
    PoolUnavailable,
    StoreUnavailable,
)
from serve_app.jobs.events import JobProgress
from serve_app.jobs.job import Job
from serve_app.jobs.records import JobError, JobImage, JobResult, JobState
from serve_app.jobs.turns import Turns
from serve_app.request import RequestDraft, traceparent_here
from serve_app.result import GenerationResult, StepProgress
from serve_app.settings import Settings
from serve_app.store import PictureStore, picture_name

log = logging.getLogger(__name__)

MAX_DEATHS = 5
"""A job whose replicas died this often, each time after it had begun (and after the router's own retries), fails:
more likely than not it is what kills them."""

FIRST_PAUSE_S, MAX_PAUSE_S = 0.5, 30.0
"""Pauses of a job that no pool takes now."""


class Drawer(Protocol):
    """What draws for the jobs: the router over all pools, or a fake."""

    async def check(self, draft: RequestDraft) -> None:
        """Whether it could be drawn.

        Raises:
            InvalidRequest: No pool ever could.
            PoolUnavailable: Nobody who knows answers.
        """
        ...

    def stream(
        self, draft: RequestDraft, *, progress: bool = False
    ) -> AsyncGenerator[StepProgress | GenerationResult, None]:
        """Draws; yields progress and, last, the result. Closing the iterator cancels the drawing.

        Raises:
            ImagineError: Any of the domain errors.
        """
        ...


class JobDrawing:
    """Hands jobs to the pools in turn, and stores what comes back.

    Args:
        settings: The application's settings.
        drawer: Draws.
        pictures: Where finished pictures go.
        turns: Who is handed to the pools next.
        first_pause_s: Seconds before a job that was refused is handed to the pools again; doubles each time.
    """

    def __init__(
        self,
        settings: Settings,
        drawer: Drawer,
        pictures: PictureStore,
        turns: Turns,
        *,
        first_pause_s: float = FIRST_PAUSE_S,
    ) -> None:
        self._max_age_s = settings.jobs.max_age_s
        self._drawer = drawer
        self._pictures = pictures
        self._turns = turns
        self._first_pause_s = first_pause_s

    async def until_end(self, job: Job) -> Mapping[str, object]:
        """Draws the job however often it takes. Returns the fields of its record that tell its end."""
        draft, created_at = job.record.draft, job.record.created_at
        traceparent_here.set(draft.traceparent)
        ends_at = min(draft.deadline or float("inf"), created_at + self._max_age_s)
        limit = asyncio.timeout(max(0.0, ends_at - time.time()))
        try:
            async with limit:
                result = await self._draw_patiently(job)
            return {"state": JobState.FINISHED, "result": result}
        except asyncio.CancelledError:
            if not job.cancel_requested:
                raise
            task = asyncio.current_task()
            assert task is not None
            task.uncancel()  # the rest of this task is not cancelled
            return {"state": JobState.CANCELLED}
        # The boundary that ends a job whatever went wrong: otherwise it would be drawn again for ever.
        except Exception as failure:
            if isinstance(failure, TimeoutError) and limit.expired():
                reason = f" ({job.progress.message})" if job.progress.message else ""
                error: ImagineError = DeadlineExceeded(
                    f"it was not finished within {ends_at - created_at:.0f} s{reason}"
                )
            elif isinstance(failure, ImagineError):
                error = failure
            else:
                log.exception("Job %s failed unexpectedly", job.record.id)
                error = ImagineError("the service failed; see its log")
        log.warning("Job %s failed: %s", job.record.id, error)
        return {"state": JobState.FAILED, "error": JobError.of(error)}

    async def _draw_patiently(self, job: Job) -> JobResult:
        """Draws the job; while the pools refuse it or are not there, waits and tries again."""
        draft, created_at = job.record.draft, job.record.created_at
        pause, deaths = self._first_pause_s, 0
        while True:
            try:
                async with self._turns.take(draft.request_id, created_at, draft.priority, draft.owner):
                    drawn = await self._draw(job)
                    # Still in its place: while the store is away, no more pictures pile up than there are places.
                    return await self._keep(job, drawn)
            except Overloaded as error:
                wait_s, reason = max(pause, min(error.retry_after_s, MAX_PAUSE_S)), str(error)
            except PoolUnavailable as error:
                wait_s, reason = pause, str(error)
                if job.progress.state is JobState.RUNNING:
                    deaths += 1
                if deaths >= MAX_DEATHS:
                    raise GenerationFailed(f"its replica died {deaths} times while drawing it") from error
            job.show(JobProgress(JobState.QUEUED, message=reason))
            await asyncio.sleep(wait_s * random.uniform(0.75, 1.25))
            pause = min(2.0 * pause, MAX_PAUSE_S)

    async def _draw(self, job: Job) -> GenerationResult:
        job.begin_drawing()
        async with aclosing(self._drawer.stream(job.record.draft, progress=True)) as events:
            async for event in events:
                if isinstance(event, GenerationResult):
                    return event
                job.step(event)
        raise PoolUnavailable("the pool ended its answer without a picture")

    async def _keep(self, job: Job, drawn: GenerationResult) -> JobResult:
        """Stores the pictures. What they are called depends on the job alone, so doing it again changes nothing."""
        kept: list[JobImage] = []
        for image in drawn.images:
            name = picture_name(0, image.index, image.format)
            async for attempt in stamina.retry_context(
                on=StoreUnavailable, attempts=None, timeout=None, wait_max=30.0
            ):
                with attempt:
                    await self._pictures.put(job.record.id, name, image.data)
            stages = ("queue", "prepare", "denoise", "decode", "encode")
            kept.append(
                JobImage(
                    name=name,
                    seed=image.seed,
                    width=image.width,
                    height=image.height,
                    seconds={stage: round(getattr(image.seconds, stage), 4) for stage in stages},
                )
            )
        return JobResult(
            images=tuple(kept),
            pool=drawn.pool,
            model=drawn.model,
            accelerator=drawn.accelerator,
            num_inference_steps=drawn.request.num_inference_steps,
            guidance_scale=drawn.request.guidance_scale,
            total_s=round(drawn.total_s, 4),
            cost=drawn.cost,
        )
