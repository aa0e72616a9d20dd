"""What the soak's callers hear, and what is wrong with it: `Asked`, `Tally`."""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from bench.poison import MARKS, PoisonedPipeline
from bench.soak_checks import Sample
from serve_app.errors import DeadlineExceeded, GenerationCancelled, GenerationFailed, ImagineError
from serve_app.request import GenerationRequest
from serve_app.result import Pixels, StageSeconds, StepProgress


class Dropped(RuntimeError):
    """What a listener raises on purpose."""


@dataclass(eq=False)
class Asked:
    """One accepted request and its listener. All but `cancelled` is written on the engine's thread."""

    request: GenerationRequest
    tally: Tally
    kept: bool  # whether its pictures are compared with those drawn alone
    raises_at: int | None  # its listener raises at this step
    cancelled: bool = False
    steps: dict[int, int] = field(default_factory=dict)
    ended: set[int] = field(default_factory=set)

    def on_progress(self, progress: StepProgress, preview: Pixels | None) -> None:
        before = self.steps.get(progress.image_index, 0)
        if not before <= progress.step <= progress.num_inference_steps or progress.image_index in self.ended:
            self.tally.wrong(f"step {progress.step} after {before} of {progress.num_inference_steps}")
        self.steps[progress.image_index] = progress.step
        if progress.step == self.raises_at:
            self.cancelled = True
            raise Dropped("a listener that raises on purpose")

    def on_picture(self, index: int, pixels: Pixels, seconds: StageSeconds) -> None:
        self._end(index)
        if any(mark in self.request.prompt for mark in MARKS):
            self.tally.wrong(f"a picture of {self.request.prompt!r}")
        if (pixels.width, pixels.height) != (self.request.width, self.request.height):
            self.tally.wrong(f"{pixels.width}x{pixels.height} pixels")
        self.tally.picture(self, index, pixels)

    def on_failure(self, index: int, error: ImagineError) -> None:
        self._end(index)
        expected = (
            (isinstance(error, GenerationCancelled) and self.cancelled)
            or (isinstance(error, DeadlineExceeded) and self.request.deadline is not None)
            or (isinstance(error, GenerationFailed) and self.tally.may_fail(self.request, index))
        )
        if not expected:
            self.tally.wrong(f"{type(error).__name__}: {error} for {self.request}")
        self.tally.count(type(error).__name__)

    def _end(self, index: int) -> None:
        if index in self.ended or not 0 <= index < self.request.num_images:
            self.tally.wrong(f"picture {index} of {self.request.num_images} ended again")
        self.ended.add(index)


class Tally:
    """What came of all requests. Pictures to compare lie in files, so that memory shows the engine's own."""

    def __init__(self, pipeline: PoisonedPipeline, folder: Path, most_samples: int) -> None:
        self._pipeline = pipeline
        self._folder = folder
        self._most_samples = most_samples
        self._lock = threading.Lock()
        self.ends: Counter[str] = Counter()
        self.samples: list[Sample] = []
        self.problems: list[str] = []

    def may_fail(self, request: GenerationRequest, index: int) -> bool:
        """Whether this picture was made to fail."""
        poisoned = any(mark in request.prompt for mark in MARKS)
        return poisoned or (request.request_id, index) in self._pipeline.oom_decodes

    def wrong(self, problem: str) -> None:
        """Notes what must never happen."""
        with self._lock:
            self.problems.append(problem[:500])

    def count(self, end: str) -> None:
        """Notes how a picture ended."""
        with self._lock:
            self.ends[end] += 1

    def picture(self, asked: Asked, index: int, pixels: Pixels) -> None:
        """Notes a finished picture, and keeps it where it will be compared."""
        self.count("picture")
        with self._lock:
            number = len(self.samples)
            if not asked.kept or number >= self._most_samples:
                return
            file = self._folder / f"{number}.rgb"
            self.samples.append(Sample(asked.request, index, file))
        file.write_bytes(pixels.rgb)
