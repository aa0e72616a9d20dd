"""The servers: `StaticServer` around one stock pipeline, `EngineServer` around this service's engine."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Protocol

from bench.batching.static import StaticBatching
from bench.batching.workloads import Job
from serve_app.capabilities import PoolFacts
from serve_app.engine import Engine
from serve_app.engine.pipeline import StepPipeline
from serve_app.errors import ImagineError
from serve_app.request import RequestDraft
from serve_app.result import Pixels, StageSeconds, StepProgress

Draw = Callable[[Sequence[Job]], Sequence[bytes]]
"""Draws pictures of one kind in one call and gives the RGB bytes of each."""

STOP_TIMEOUT_S = 1800.0
_MOST_QUEUED = 1_000_000  # an open loop is never told to come back later


class Sink(Protocol):
    """Hears of the ends, on a server's own thread."""

    def finished(self, job: Job, rgb: bytes) -> None:
        """The picture is there."""
        ...

    def failed(self, job: Job, error: Exception) -> None:
        """It will not come."""
        ...


class Server(Protocol):
    """Draws what is submitted. Used once: started, given a trace, stopped."""

    def start(self) -> None:
        """Begins; the trace's seconds count from now on."""
        ...

    def submit(self, job: Job, sink: Sink) -> None:
        """Accepts a job. Never waits."""
        ...

    def stop(self) -> None:
        """Ends after what is being drawn; what waits is dropped."""
        ...


class StaticServer:
    """One thread, one stock pipeline, batches that stay together.

    Args:
        draw: One call of the stock pipeline.
        batching: Whom to draw together.
    """

    def __init__(self, draw: Draw, batching: StaticBatching) -> None:
        self._draw = draw
        self._batching = batching
        self._waiting: list[Job] = []
        self._sinks: dict[int, Sink] = {}
        self._changed = threading.Condition()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="static-server", daemon=True)
        self._began = 0.0

    def start(self) -> None:
        """As `Server.start`."""
        self._began = time.perf_counter()
        self._thread.start()

    def submit(self, job: Job, sink: Sink) -> None:
        """As `Server.submit`."""
        with self._changed:
            self._waiting.append(job)
            self._sinks[job.number] = sink
            self._changed.notify()

    def stop(self) -> None:
        """As `Server.stop`."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        self._thread.join(STOP_TIMEOUT_S)

    def _run(self) -> None:
        while batch := self._next_batch():
            sinks = [self._sinks.pop(job.number) for job in batch]
            try:
                pictures = self._draw(batch)
            except Exception as error:  # noqa: BLE001 - told to whoever measures, who ends the run
                for job, sink in zip(batch, sinks, strict=True):
                    sink.failed(job, error)
                continue
            for job, sink, rgb in zip(batch, sinks, pictures, strict=True):
                sink.finished(job, rgb)

    def _next_batch(self) -> list[Job]:
        """Waits until a batch may go; empty when stopping."""
        with self._changed:
            while not self._stopping:
                if not self._waiting:
                    self._changed.wait()
                    continue
                left_s = self._batching.release_s(self._waiting) - (time.perf_counter() - self._began)
                if left_s > 0:
                    self._changed.wait(left_s)
                    continue
                batch = self._batching.batch(self._waiting)
                taken = {job.number for job in batch}
                self._waiting = [job for job in self._waiting if job.number not in taken]
                return batch
            return []


class EngineServer:
    """This service's engine.

    Args:
        pipeline: Loaded once, for all runs.
        facts: Of the pool.
        max_rows: Most rows of one step.
    """

    def __init__(self, pipeline: StepPipeline, facts: PoolFacts, max_rows: int) -> None:
        self._facts = facts
        self._engine = Engine(pipeline, max_rows=max_rows, max_queued_images=_MOST_QUEUED)

    def start(self) -> None:
        """As `Server.start`."""
        self._engine.start()

    def submit(self, job: Job, sink: Sink) -> None:
        """As `Server.submit`."""
        draft = RequestDraft(
            job.prompt,
            width=job.kind.width,
            height=job.kind.height,
            num_inference_steps=job.kind.steps,
            guidance_scale=job.kind.guidance_scale,
            seed=job.seed,
        )
        self._engine.submit(draft.for_pool(self._facts), _ToSink(job, sink))

    def stop(self) -> None:
        """As `Server.stop`."""
        self._engine.stop(STOP_TIMEOUT_S)


class _ToSink:
    """A `Listener` that passes the ends on."""

    def __init__(self, job: Job, sink: Sink) -> None:
        self._job = job
        self._sink = sink

    def on_progress(self, progress: StepProgress, preview: Pixels | None) -> None:
        pass

    def on_picture(self, index: int, pixels: Pixels, seconds: StageSeconds) -> None:
        self._sink.finished(self._job, pixels.rgb)

    def on_failure(self, index: int, error: ImagineError) -> None:
        self._sink.failed(self._job, error)
