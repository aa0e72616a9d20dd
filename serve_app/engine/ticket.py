"""What a caller gives the engine (`Listener`) and gets back (`Ticket`)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from serve_app.errors import ImagineError
from serve_app.request import GenerationRequest
from serve_app.result import Pixels, StageSeconds, StepProgress


class Listener(Protocol):
    """Hears of one request's pictures, on the engine's threads: be quick, never block, hand work over.

    It hears of one picture from one thread at a time, of several maybe from several.
    Every picture ends with one `on_picture` or one `on_failure`. A listener that raises loses its picture.
    """

    def on_progress(self, progress: StepProgress, preview: Pixels | None) -> None:
        """A picture waits (`queue_position` set), was admitted (``step == 0``) or made a step.

        Args:
            progress: Where it stands; its `preview` is always None (encoding is not the engine's work).
            preview: A small picture of where it stands, or None.
        """
        ...

    def on_picture(self, index: int, pixels: Pixels, seconds: StageSeconds) -> None:
        """Picture `index` is finished; ``seconds.encode`` is 0, for the encoder to fill in."""
        ...

    def on_failure(self, index: int, error: ImagineError) -> None:
        """Picture `index` will not come: failed, too late, cancelled, or the engine stopped."""
        ...


class Ticket:
    """An accepted request.

    Args:
        request: What was accepted.
        cancel: Called by `cancel`.
    """

    def __init__(self, request: GenerationRequest, cancel: Callable[[], None]) -> None:
        self.request = request
        self._cancel = cancel

    def cancel(self) -> None:
        """Gives up the unfinished pictures, from the next step on. From any thread, any number of times."""
        self._cancel()
