"""What tests of the engine share: a clock of their own, a listener that remembers, ticks until done."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest

from serve_app.engine import Engine
from serve_app.engine.fake import FakePipeline
from serve_app.errors import ImagineError
from serve_app.request import GenerationRequest, Priority
from serve_app.result import Pixels, StageSeconds, StepProgress

WAIT_S = 10.0


class ManualClock:
    """Seconds that pass only when somebody sleeps."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


class Recorder:
    """A listener that remembers."""

    def __init__(self, images: int = 1) -> None:
        self.progress: list[StepProgress] = []
        self.previews: list[Pixels] = []
        self.pictures: dict[int, Pixels] = {}
        self.seconds: dict[int, StageSeconds] = {}
        self.failures: dict[int, ImagineError] = {}
        self.admitted = threading.Event()
        self.ended = threading.Event()
        self._left = images

    def on_progress(self, progress: StepProgress, preview: Pixels | None) -> None:
        self.progress.append(progress)
        if progress.queue_position is None:
            self.admitted.set()
        if preview is not None:
            self.previews.append(preview)

    def on_picture(self, index: int, pixels: Pixels, seconds: StageSeconds) -> None:
        assert index not in self.pictures
        assert index not in self.failures
        self.pictures[index] = pixels
        self.seconds[index] = seconds
        self._end()

    def on_failure(self, index: int, error: ImagineError) -> None:
        assert index not in self.pictures
        assert index not in self.failures
        self.failures[index] = error
        self._end()

    def _end(self) -> None:
        self._left -= 1
        if not self._left:
            self.ended.set()


def ask(
    name: str = "a",
    prompt: str = "a cat",
    *,
    steps: int = 4,
    guidance: float = 0.0,
    side: int = 64,
    images: int = 1,
    seed: int = 1,
    priority: Priority = Priority.INTERACTIVE,
    deadline: float | None = None,
    preview_every: int = 0,
    owner: str = "",
) -> GenerationRequest:
    return GenerationRequest(
        request_id=name,
        prompt=prompt,
        negative_prompt="",
        height=side,
        width=side,
        num_inference_steps=steps,
        guidance_scale=guidance,
        seed=seed,
        num_images=images,
        priority=priority,
        deadline=deadline,
        preview_every=preview_every,
        owner=owner,
    )


def make(
    *,
    step_s: float = 1.0,
    row_s: float = 0.0,
    decode_s: float = 0.0,
    max_rows: int = 8,
    fixed_rows: tuple[int, ...] = (),
    max_queued_images: int = 64,
    memory_rows: int | None = None,
    max_queue_s: float | None = None,
) -> tuple[Engine, FakePipeline, ManualClock]:
    clock = ManualClock()
    pipeline = FakePipeline(
        step_s=step_s,
        row_s=row_s,
        decode_s=decode_s,
        max_rows=max_rows,
        fixed_rows=fixed_rows,
        memory_rows=memory_rows,
        sleep=clock.sleep,
    )
    engine = Engine(
        pipeline,
        max_rows=max_rows,
        max_queued_images=max_queued_images,
        max_queue_s=max_queue_s,
        clock=clock,
        wall_clock=clock,
    )
    return engine, pipeline, clock


def put(engine: Engine, request: GenerationRequest) -> Recorder:
    recorder = Recorder(request.num_images)
    engine.submit(request, recorder)
    return recorder


def run(engine: Engine, until: Callable[[], bool] | None = None, most: int = 2000) -> int:
    """Ticks until done; answers how many."""
    for count in range(most):
        if until() if until else not busy(engine):
            return count
        engine.tick()
    raise AssertionError(f"not done after {most} ticks")


def busy(engine: Engine) -> bool:
    stats = engine.stats()
    return stats.queued_images + stats.running_images > 0


def drawn_alone(request: GenerationRequest, index: int = 0) -> Pixels:
    pipeline = FakePipeline()
    state = pipeline.prepare(request, index)
    while not state.finished:
        pipeline.denoise_step([state])
        state.step += 1
    return pipeline.decode(state)


def until(condition: Callable[[], bool]) -> None:
    """Waits for a started engine, a bounded time."""
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def stands_still(engine: Engine) -> bool:
    """Whether a started engine makes no steps for a moment."""
    before = engine.stats().steps_done
    time.sleep(0.05)
    return engine.stats().steps_done == before


def count_ticks(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> list[None]:
    """Gets one longer with every tick."""
    ticks: list[None] = []
    original = engine.tick

    def counted() -> None:
        ticks.append(None)
        original()

    monkeypatch.setattr(engine, "tick", counted)
    return ticks
