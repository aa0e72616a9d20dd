"""What is being drawn right now and for whom, so that a caller can ask for its own progress and stop its own drawing.

One place for all ingress replicas: `LiveDrawingsHere` is that place, in the process of the only replica or as a
deployment of its own. It holds nothing that must survive: after a restart the drawings report themselves again.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol, TypeVar

Key = TypeVar("Key")
Value = TypeVar("Value")

LEASE_S = 15.0
"""Seconds after which a drawing that did not report itself is forgotten: its ingress replica died."""

MAX_REMEMBERED = 10_000
"""Most finished tasks, and most callers with a model of their own choice, that are remembered; the oldest go first."""


@dataclass(frozen=True, slots=True)
class LiveProgress:
    """How far a drawing is.

    Attributes:
        rounds_done: Rounds that are finished or were skipped.
        steps_done: Denoising steps of all rounds together, those of finished rounds included.
        step: Step of the first unfinished round.
        queue_position: Pictures ahead of that round while it waits, else None.
        preview: Latest preview of that round, an encoded small picture, or None.
        starting: Whether that round waits for an accelerator that is being started.
    """

    rounds_done: int = 0
    steps_done: int = 0
    step: int = 0
    queue_position: int | None = None
    preview: bytes | None = None
    starting: bool = False


@dataclass(frozen=True, slots=True)
class LiveDrawing:
    """One request being drawn.

    Attributes:
        drawing_id: Unguessable.
        caller: Whose, as `serve_app.api.caller.caller_of` says.
        task_id: The id that the client gave it, or None.
        rounds: Rounds in all.
        num_inference_steps: Steps of each round.
        started_at: Unix time in seconds.
        progress: How far it is.
        interrupted: The caller wants it to stop.
        skips: How many of its rounds the caller wants to be left out so far.
    """

    drawing_id: str
    caller: str
    task_id: str | None
    rounds: int
    num_inference_steps: int
    started_at: float
    progress: LiveProgress = LiveProgress()
    interrupted: bool = False
    skips: int = 0


class LiveDrawings(Protocol):
    """The one place that knows what is being drawn."""

    async def report(self, drawing: LiveDrawing) -> LiveDrawing:
        """Says that `drawing` goes on, and how far it is; the first time, that it begins.

        To be repeated within `LEASE_S`.

        Returns:
            The same with what its caller has asked for since.
        """
        ...

    async def finish(self, drawing_id: str) -> None:
        """It has come to its end, whichever."""
        ...

    async def of(self, caller: str) -> list[LiveDrawing]:
        """What is being drawn for a caller, oldest first."""
        ...

    async def task(self, task_id: str) -> list[LiveDrawing]:
        """What is being drawn under a client's own id; ids of several callers may be alike."""
        ...

    async def was_finished(self, caller: str, task_id: str) -> bool:
        """Whether this caller's task has come to its end."""
        ...

    async def interrupt(self, drawing_id: str) -> None:
        """Asks a drawing to stop; nothing happens when it has ended."""
        ...

    async def skip(self, drawing_id: str) -> None:
        """Asks a drawing to leave its current round out."""
        ...

    async def choose_model(self, caller: str, model: str) -> None:
        """From now on a caller means this model where it names none."""
        ...

    async def chosen_model(self, caller: str) -> str | None:
        """The model that a caller chose, if any."""
        ...


@dataclass(slots=True)
class _Entry:
    drawing: LiveDrawing
    heard_at: float


class LiveDrawingsHere:
    """`LiveDrawings` in this process. Not for several threads.

    Args:
        clock: Monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._entries: dict[str, _Entry] = {}
        self._finished: OrderedDict[tuple[str, str], None] = OrderedDict()
        self._models: OrderedDict[str, str] = OrderedDict()

    async def report(self, drawing: LiveDrawing) -> LiveDrawing:
        """As the protocol says."""
        known = self._entries.get(drawing.drawing_id)
        if known is not None:
            drawing = replace(drawing, interrupted=known.drawing.interrupted, skips=known.drawing.skips)
        self._entries[drawing.drawing_id] = _Entry(drawing, self._clock())
        return drawing

    async def finish(self, drawing_id: str) -> None:
        """As the protocol says."""
        entry = self._entries.pop(drawing_id, None)
        if entry is not None and entry.drawing.task_id is not None:
            _remember(self._finished, (entry.drawing.caller, entry.drawing.task_id), None)

    async def of(self, caller: str) -> list[LiveDrawing]:
        """As the protocol says."""
        return [drawing for drawing in self._alive() if drawing.caller == caller]

    async def task(self, task_id: str) -> list[LiveDrawing]:
        """As the protocol says."""
        return [drawing for drawing in self._alive() if drawing.task_id == task_id]

    async def was_finished(self, caller: str, task_id: str) -> bool:
        """As the protocol says."""
        return (caller, task_id) in self._finished

    async def interrupt(self, drawing_id: str) -> None:
        """As the protocol says."""
        if entry := self._entries.get(drawing_id):
            entry.drawing = replace(entry.drawing, interrupted=True)

    async def skip(self, drawing_id: str) -> None:
        """As the protocol says."""
        if entry := self._entries.get(drawing_id):
            entry.drawing = replace(entry.drawing, skips=entry.drawing.skips + 1)

    async def choose_model(self, caller: str, model: str) -> None:
        """As the protocol says."""
        _remember(self._models, caller, model)

    async def chosen_model(self, caller: str) -> str | None:
        """As the protocol says."""
        return self._models.get(caller)

    def _alive(self) -> list[LiveDrawing]:
        oldest = self._clock() - LEASE_S
        self._entries = {key: entry for key, entry in self._entries.items() if entry.heard_at >= oldest}
        return sorted((entry.drawing for entry in self._entries.values()), key=lambda one: one.started_at)


def _remember(memory: OrderedDict[Key, Value], key: Key, value: Value) -> None:
    memory[key] = value
    memory.move_to_end(key)
    while len(memory) > MAX_REMEMBERED:
        memory.popitem(last=False)
