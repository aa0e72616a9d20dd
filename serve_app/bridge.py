"""`Bridge`: from the engine's thread to the event loop."""

from __future__ import annotations

import asyncio

from serve_app.errors import ImagineError
from serve_app.result import GeneratedImage, Pixels, StageSeconds, StepProgress


class Bridge:
    """Carries what the engine's thread says about one request to a coroutine on the event loop.

    The engine calls the three ``on_`` methods; the coroutine reads `events`. The queue needs no limit of its own: it
    holds at most one event per step of the request.

    Args:
        loop: The event loop of the coroutine.
        progress: Whether `StepProgress` is wanted.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, *, progress: bool) -> None:
        self._loop = loop
        self._progress = progress
        self.events: asyncio.Queue[
            tuple[StepProgress, Pixels | None] | tuple[int, Pixels, StageSeconds] | BaseException
        ] = asyncio.Queue()

    def on_progress(self, progress: StepProgress, preview: Pixels | None) -> None:
        """A step is done, or the place in the queue has changed."""
        if self._progress:
            self._loop.call_soon_threadsafe(self.events.put_nowait, (progress, preview))

    def on_picture(self, index: int, pixels: Pixels, seconds: StageSeconds) -> None:
        """A picture is finished."""
        self._loop.call_soon_threadsafe(self.events.put_nowait, (index, pixels, seconds))

    def on_failure(self, index: int, error: ImagineError) -> None:
        """A picture has failed."""
        self._loop.call_soon_threadsafe(self.events.put_nowait, error)

    def on_file(self, file: asyncio.Task[GeneratedImage]) -> None:
        """A picture's file is there, or will not be: then nobody needs the other pictures. On the event loop."""
        if not file.cancelled() and (error := file.exception()) is not None:
            self.events.put_nowait(error)
