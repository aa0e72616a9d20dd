"""What the tests of whole drawings share: a listener that keeps every end, and one picture drawn alone."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from serve_app.engine import Engine
from serve_app.engine.pipeline import StepPipeline
from serve_app.errors import ImagineError
from serve_app.request import GenerationRequest
from serve_app.result import Pixels, StageSeconds, StepProgress

Picture = npt.NDArray[np.int16]


class Ends:
    """A listener that insists on one end per picture."""

    def __init__(self) -> None:
        self.ends: dict[int, Pixels | ImagineError] = {}
        self.twice: list[int] = []

    def on_progress(self, progress: StepProgress, preview: Pixels | None) -> None:
        assert 0 <= progress.step <= progress.num_inference_steps

    def on_picture(self, index: int, pixels: Pixels, seconds: StageSeconds) -> None:
        self._end(index, pixels)

    def on_failure(self, index: int, error: ImagineError) -> None:
        self._end(index, error)

    def _end(self, index: int, end: Pixels | ImagineError) -> None:
        # Kept, not asserted: the engine takes what a listener raises for the listener's own problem.
        if index in self.ends:
            self.twice.append(index)
        self.ends[index] = end


def ask(prompt: str = "a yellow star on a blue background", **changes: Any) -> GenerationRequest:
    """A request for the bundled model."""
    values: dict[str, Any] = {
        "request_id": "a",
        "prompt": prompt,
        "negative_prompt": "",
        "height": 512,
        "width": 512,
        "num_inference_steps": 4,
        "guidance_scale": 0.0,
        "seed": 11,
    }
    return GenerationRequest(**{**values, **changes})


def array(pixels: Pixels) -> Picture:
    """(height, width, 3), signed so that differences do not wrap."""
    flat = np.frombuffer(pixels.rgb, dtype=np.uint8).astype(np.int16)
    return flat.reshape(pixels.height, pixels.width, 3)


def difference(one: Picture, other: Picture) -> int:
    """Largest difference of two pictures' channels, of 255; neither may be flat."""
    assert one.shape == other.shape
    assert one.std() > 5, "a flat picture would prove nothing"
    return int(np.abs(one - other).max())


def draw_alone(pipeline: StepPipeline, request: GenerationRequest, index: int = 0) -> Pixels:
    """Picture `index` of `request`, alone in every step."""
    state = pipeline.prepare(request, index)
    while not state.finished:
        pipeline.denoise_step([state])
        state.step += 1
    return pipeline.decode(state)


def busy(engine: Engine) -> bool:
    """Whether any accepted picture is unfinished."""
    stats = engine.stats()
    return stats.queued_images + stats.running_images > 0


def draw_together(
    pipeline: StepPipeline, requests: Iterable[GenerationRequest], *, max_rows: int = 8
) -> list[Ends]:
    """All pictures of `requests` through one engine, arriving at once."""
    engine = Engine(pipeline, max_rows=max_rows)
    ends = []
    for request in requests:
        ends.append(Ends())
        engine.submit(request, ends[-1])
    for _ in range(10_000):
        if not busy(engine):
            return ends
        engine.tick()
    raise AssertionError("the engine does not come to an end")
