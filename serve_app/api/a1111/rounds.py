"""Drawing the rounds of one request while its caller may watch, interrupt or skip."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace

from serve_app.api.drawing import store_pictures, time_limit
from serve_app.api.unattended import detached
from serve_app.live_drawings import LiveDrawing, LiveDrawings, LiveProgress
from serve_app.request import RequestDraft
from serve_app.result import GenerationResult
from serve_app.service import ImageService

REPORT_EVERY_S = 0.3
"""Seconds between two reports, and so the longest time until an interrupt is heard of."""

FINISH_TIMEOUT_S = 3.0


@dataclass(slots=True)
class _Round:
    """One round: what it has come to so far."""

    task: asyncio.Task[GenerationResult]
    steps: int
    step: int = 0
    queue_position: int | None = None
    preview: bytes | None = None
    starting: bool = False


class LiveRounds:
    """Draws all rounds of a request at once, and reports them as one drawing.

    Args:
        service: Draws them.
        drawing: As first reported.
        drafts: One per round.
        keep_as: Id under which finished rounds are stored, or None.
    """

    def __init__(
        self, service: ImageService, drawing: LiveDrawing, drafts: Sequence[RequestDraft], keep_as: str | None
    ) -> None:
        self._service = service
        self._live: LiveDrawings = service.live
        self._drawing = drawing
        self._drafts = drafts
        self._keep_as = keep_as
        self._rounds: list[_Round] = []
        self._skipped = 0

    async def draw(self) -> list[GenerationResult]:
        """Draws until all rounds are finished, skipped or interrupted.

        Returns:
            Results of the finished ones, in their order; none when it was interrupted before.

        Raises:
            ImagineError: The first domain error of any round; the others are stopped.
        """
        images = sum(draft.num_images for draft in self._drafts)
        async with self._service.quotas.drawing(self._drawing.caller, images):
            return await self._report_and_draw()

    async def _report_and_draw(self) -> list[GenerationResult]:
        self._drawing = await self._live.report(self._drawing)
        try:
            async with time_limit(self._service.settings.request_timeout_s) as deadline:
                return await self._draw(deadline)
        finally:
            unfinished = [one.task for one in self._rounds if not one.task.done()]
            for task in unfinished:
                task.cancel()
            # Not awaited itself: this may run while the caller's own task is being cancelled.
            finishing = detached(self._live.finish(self._drawing.drawing_id))
            await asyncio.wait({finishing, *unfinished}, timeout=FINISH_TIMEOUT_S)

    async def _draw(self, deadline: float) -> list[GenerationResult]:
        for number, draft in enumerate(self._drafts):
            task = asyncio.create_task(self._draw_round(number, replace(draft, deadline=deadline)))
            self._rounds.append(_Round(task, self._drawing.num_inference_steps))
        tasks = [one.task for one in self._rounds]
        while waiting := [task for task in tasks if not task.done()]:
            await asyncio.wait(waiting, timeout=REPORT_EVERY_S, return_when=asyncio.FIRST_EXCEPTION)
            self._raise_failure()
            self._drawing = await self._live.report(replace(self._drawing, progress=self._progress()))
            await self._obey()
        self._raise_failure()
        return [task.result() for task in tasks if not task.cancelled()]

    async def _draw_round(self, number: int, draft: RequestDraft) -> GenerationResult:
        async with aclosing(self._service.stream(draft, progress=True)) as events:
            async for event in events:
                if isinstance(event, GenerationResult):
                    if self._keep_as is not None:
                        await store_pictures(self._service.store, self._keep_as, event, number=number)
                    return event
                one = self._rounds[number]
                one.steps, one.queue_position = event.num_inference_steps, event.queue_position
                one.starting = event.starting_pool is not None
                one.step = max(one.step, event.step)
                one.preview = event.preview or one.preview
        raise AssertionError("stream() ends with a result or an error")

    async def _obey(self) -> None:
        """Stops what the caller has asked to be stopped since the last report."""
        unfinished = [one.task for one in self._rounds if not one.task.done()]
        if not self._drawing.interrupted:
            unfinished = unfinished[: self._drawing.skips - self._skipped]
            self._skipped = self._drawing.skips
        for task in unfinished:
            task.cancel()
        if unfinished:
            await asyncio.wait(unfinished)

    def _raise_failure(self) -> None:
        for one in self._rounds:
            if one.task.done() and not one.task.cancelled() and (error := one.task.exception()) is not None:
                raise error

    def _progress(self) -> LiveProgress:
        current = next((one for one in self._rounds if not one.task.done()), self._rounds[-1])
        return LiveProgress(
            rounds_done=sum(one.task.done() for one in self._rounds),
            steps_done=sum(one.steps if one.task.done() else one.step for one in self._rounds),
            step=current.step,
            queue_position=current.queue_position,
            preview=current.preview,
            starting=current.starting,
        )


def live_drawing(
    drawing_id: str, caller: str, task_id: str | None, drafts: Sequence[RequestDraft], steps: int
) -> LiveDrawing:
    """A drawing that begins now.

    Args:
        drawing_id: Unguessable.
        caller: Whose.
        task_id: The client's own id, or None.
        drafts: One per round.
        steps: Denoising steps of each round.
    """
    return LiveDrawing(
        drawing_id=drawing_id,
        caller=caller,
        task_id=task_id,
        rounds=len(drafts),
        num_inference_steps=steps,
        started_at=time.time(),
    )
