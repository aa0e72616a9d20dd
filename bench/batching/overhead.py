"""The time the engine itself adds per tick: everything but the pipeline, with a pipeline that costs nothing."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from bench.batching.open_loop import play
from bench.batching.servers import EngineServer
from bench.batching.workloads import Job, Kind
from serve_app.capabilities import PoolFacts
from serve_app.engine.fake import FakePipeline
from serve_app.engine.state import ImageState
from serve_app.request import GenerationRequest, Pixels

PICTURES = 16
_STEPS = 150
_REPEATS = 5


@dataclass(frozen=True, slots=True)
class Overhead:
    """The engine's own time.

    Attributes:
        pictures: In flight at once.
        max_rows: Most rows of one step.
        ticks: Steps done in one run.
        tick_us: Microseconds per tick, the least of the runs.
    """

    pictures: int
    max_rows: int
    ticks: int
    tick_us: float


class _Timed(FakePipeline):
    """Counts its calls, and the seconds spent in them, which are not the engine's."""

    def __init__(self, max_rows: int) -> None:
        super().__init__(max_rows=max_rows)
        self.inside_s = 0.0
        self.steps = 0

    def prepare(self, request: GenerationRequest, index: int) -> ImageState:
        began = time.perf_counter()
        state = super().prepare(request, index)
        self.inside_s += time.perf_counter() - began
        return state

    def denoise_step(self, batch: Sequence[ImageState]) -> None:
        began = time.perf_counter()
        super().denoise_step(batch)
        self.steps += 1
        self.inside_s += time.perf_counter() - began

    def decode(self, state: ImageState) -> Pixels:
        began = time.perf_counter()
        pixels = super().decode(state)
        self.inside_s += time.perf_counter() - began
        return pixels


def measure_overhead(max_rows: int) -> Overhead:
    """Draws 16 pictures of 150 steps at once, several times; submitting and ending them is in the figure too.

    Args:
        max_rows: Most rows of one step.
    """
    best = float("inf")
    ticks = 0
    for _ in range(_REPEATS):
        pipeline = _Timed(max_rows)
        facts = PoolFacts("fake", "fake", "cpu", pipeline.defaults, pipeline.capabilities)
        jobs = [Job(number, 0.0, Kind(64, 64, _STEPS, 0.0), "x", number) for number in range(PICTURES)]
        played = play(EngineServer(pipeline, facts, max_rows), jobs)
        ticks = pipeline.steps
        best = min(best, 1e6 * (played.elapsed_s - pipeline.inside_s) / ticks)
    return Overhead(PICTURES, max_rows, ticks, best)
