"""What happens to a job, for any number of readers at their own pace: `EventLog`."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator
from dataclasses import dataclass, replace

from serve_app.jobs.records import JobRecord, JobState


@dataclass(frozen=True, slots=True)
class JobProgress:
    """Where a job stands now.

    Attributes:
        state: Its state.
        position: How many drawings go before it, as far as is known; None unless it waits for its turn.
        step: Steps that each of its pictures has made.
        num_inference_steps: Steps of each picture; None while no pool has begun it.
        fraction: Of all its steps, 0..1.
        eta_s: Seconds until its end, predicted from its own steps so far; None before the first.
        message: Why it waits, when a pool refused it for now or is being started for it.
    """

    state: JobState
    position: int | None = None
    step: int = 0
    num_inference_steps: int | None = None
    fraction: float = 0.0
    eta_s: float | None = None
    message: str | None = None


@dataclass(frozen=True, slots=True)
class JobEvent:
    """One numbered event. Each holds the whole current state, so a reader may skip any but the last.

    Attributes:
        id: Number; grows, also from one runner to the next.
        progress: Where the job stands now.
        image_index: Whose step it is, or None.
        preview: Small PNG of where that picture stands, or None.
        record: The final record; set exactly in the last event.
    """

    id: int
    progress: JobProgress
    image_index: int | None = None
    preview: bytes | None = None
    record: JobRecord | None = None

    @property
    def kind(self) -> str:
        """Name of the event."""
        return "step" if self.progress.state is JobState.RUNNING else self.progress.state.value


class EventLog:
    """The last events of one job.

    Args:
        capacity: Events kept.
        first_id: Number of the first event.
    """

    def __init__(self, capacity: int, first_id: int = 1) -> None:
        self._events: deque[JobEvent] = deque(maxlen=capacity)
        self._next_id = first_id
        self._changed = asyncio.Event()
        self._closed = False

    @property
    def is_empty(self) -> bool:
        """Whether nothing has happened yet."""
        return not self._events

    @property
    def last_id(self) -> int:
        """Number of the newest event; one less than the first when there is none."""
        return self._next_id - 1

    def append(
        self,
        progress: JobProgress,
        image_index: int | None = None,
        preview: bytes | None = None,
        record: JobRecord | None = None,
    ) -> None:
        """Adds an event and wakes the readers."""
        if preview is not None or record is not None:
            # Of each picture the newest preview is enough, and none after the end: they would fill the memory.
            for position, event in enumerate(self._events):
                if event.preview is not None and (record is not None or event.image_index == image_index):
                    self._events[position] = replace(event, preview=None)
        self._events.append(JobEvent(self._next_id, progress, image_index, preview, record))
        self._next_id += 1
        self._wake()

    def close(self) -> None:
        """Nothing more will be added; readers are let go, whether they have seen an end or not."""
        self._closed = True
        self._wake()

    def _wake(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    def after(self, last_seen: int) -> list[JobEvent]:
        """Events newer than number `last_seen`; only the newest one when some of them are no longer kept."""
        if not self._events or last_seen == self.last_id:
            return []
        if not self._events[0].id - 1 <= last_seen <= self.last_id:
            return [self._events[-1]]
        return [event for event in self._events if event.id > last_seen]

    async def follow(self, last_seen: int = 0) -> AsyncGenerator[JobEvent, None]:
        """Events newer than `last_seen`, then each as it happens; ends after the last one, or when it is closed."""
        while True:
            changed, closed = self._changed, self._closed
            for event in self.after(last_seen):
                yield event
                last_seen = event.id
            if last_seen == self.last_id and self._events and self._events[-1].record is not None:
                return
            if closed:
                return
            # Both are of the time before the events were read: it is set when any was added since.
            await changed.wait()
