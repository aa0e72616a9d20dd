"""`EngineObserver`: what the engine tells of its work to whoever counts it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from serve_app.engine.picture import Picture


class EngineObserver(Protocol):
    """Hears of steps on the engine's thread, between two of them: note it down and return, in microseconds.

    It must not raise, keep the pictures, or call the engine.
    """

    def on_step(self, pictures: Sequence[Picture], rows: int, seconds: float) -> None:
        """A denoising step of `pictures` was made: `rows` of the UNet's batch in `seconds`."""
        ...

    def on_out_of_memory(self, rows: int) -> None:
        """A step of `rows` found no memory, and is made again: with fewer, or once more where one picture is alone."""
        ...


class NoObserver:
    """Counts nothing."""

    def on_step(self, pictures: Sequence[Picture], rows: int, seconds: float) -> None:
        """Nothing."""

    def on_out_of_memory(self, rows: int) -> None:
        """Nothing."""


@dataclass
class RecordingObserver:
    """Keeps what it hears, for tests.

    Attributes:
        steps: (request ids, rows, seconds) of each step.
        out_of_memory: Rows of each step that found none.
    """

    steps: list[tuple[tuple[str, ...], int, float]] = field(default_factory=list)
    out_of_memory: list[int] = field(default_factory=list)

    def on_step(self, pictures: Sequence[Picture], rows: int, seconds: float) -> None:
        """Keeps it."""
        self.steps.append((tuple(picture.request.request_id for picture in pictures), rows, seconds))

    def on_out_of_memory(self, rows: int) -> None:
        """Keeps it."""
        self.out_of_memory.append(rows)
