"""`Job`: a job in work, and how its progress follows from its drawing's steps."""

from __future__ import annotations

import asyncio
import time

from serve_app.jobs.events import EventLog, JobProgress
from serve_app.jobs.keeper import JobView
from serve_app.jobs.records import JobRecord, JobState
from serve_app.result import StepProgress

_EVENT_IDS_PER_START = 1_000_000
"""Far more than a job has events: each runner that takes a job up counts from the next multiple of it."""


class Job:
    """A job that a runner has taken up. Only its own task changes it, but for `cancel_requested`.

    Args:
        record: As it is in the store.
        event_buffer: Events to keep.

    Attributes:
        record: As it is in the store.
        progress: Where it stands.
        log: What has happened.
        task: Draws it.
        cancel_requested: Whether its task was cancelled because the client wants so, not to be taken up later.
        ending: From here on nothing changes its end any more.
        ended: Set once its end is in the store.
    """

    def __init__(self, record: JobRecord, event_buffer: int) -> None:
        self.record = record
        # Of one that has ended only its end is told, under the number that it had the first time.
        first_id = (
            record.last_event_id if record.state.ended else (record.starts - 1) * _EVENT_IDS_PER_START + 1
        )
        self.log = EventLog(event_buffer, first_id)
        self.progress = JobProgress(JobState.QUEUED)
        self.task: asyncio.Task[None] | None = None
        self.cancel_requested = False
        self.ending = False
        self.ended = asyncio.Event()
        self._steps: dict[int, int] = {}
        self._first_step_at = 0.0

    @property
    def view(self) -> JobView:
        """For a reader."""
        return JobView(self.record, self.progress)

    def show(self, progress: JobProgress) -> None:
        """Tells where it stands, if that is new."""
        if progress != self.progress or self.log.is_empty:
            self.progress = progress
            self.log.append(progress)

    def begin_drawing(self) -> None:
        """A pool has been asked to draw it, from its first step on."""
        self._steps.clear()
        self.show(JobProgress(JobState.STARTING))

    def step(self, step: StepProgress) -> None:
        """A step of one of its pictures, a new place in the pool's queue, or a pool that must be started for it."""
        if step.starting_pool is not None:
            self._steps.clear()
            message = f"starting an accelerator of pool {step.starting_pool}"
            self.show(JobProgress(JobState.STARTING, message=message))
            return
        if step.queue_position is not None:
            if not self._steps:
                self.show(JobProgress(JobState.STARTING, position=step.queue_position))
            return
        now = time.time()
        if self._steps.get(step.image_index, 0) > step.step:
            self._steps.clear()  # its replica died: another one has begun again
        if not self._steps:
            self._first_step_at = now
            self.record = self.record.model_copy(update={"started_at": now})
        self._steps[step.image_index] = step.step
        images = self.record.draft.num_images
        fraction = sum(self._steps.values()) / (images * max(1, step.num_inference_steps))
        self.progress = JobProgress(
            JobState.RUNNING,
            step=min(self._steps.get(index, 0) for index in range(images)),
            num_inference_steps=step.num_inference_steps,
            fraction=fraction,
            eta_s=(now - self._first_step_at) / fraction * (1.0 - fraction) if fraction else None,
        )
        self.log.append(self.progress, step.image_index, step.preview)

    def end(self, record: JobRecord) -> None:
        """Its end is in the store."""
        self.record = record
        self.progress = ended_progress(record, self.progress)
        self.log.append(self.progress, record=record)
        self.ended.set()


def ended_progress(record: JobRecord, before: JobProgress | None = None) -> JobProgress:
    """Where an ended job stands.

    Args:
        record: Its final record.
        before: Its progress before the end, where it is known.
    """
    if record.result is not None:
        steps = record.result.num_inference_steps
        return JobProgress(record.state, step=steps, num_inference_steps=steps, fraction=1.0, eta_s=0.0)
    if before is None:
        return JobProgress(record.state)
    return JobProgress(
        record.state,
        step=before.step,
        num_inference_steps=before.num_inference_steps,
        fraction=before.fraction,
    )
