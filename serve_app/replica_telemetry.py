"""`ReplicaTelemetry`: what a replica's engine and encoders tell, as metrics.

Nothing is recorded on the engine's thread: it notes steps in a queue, which a thread of its own empties once a second.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence

from serve_app import metrics
from serve_app.engine import EngineStats
from serve_app.engine.picture import Picture
from serve_app.metrics import Instruments
from serve_app.result import BatchShare, StageSeconds
from serve_app.telemetry import FLUSH_S

_MAX_FOLLOWED = 10_000
_MAX_NOTED_STEPS = 100_000  # bounds the memory should the recording thread ever stand still
_STAGES = ("queue", "prepare", "denoise", "decode", "encode")


class ReplicaTelemetry:
    """Counts what one replica does; implements `serve_app.engine.observer.EngineObserver`.

    Args:
        pool: The pool's name.
        instruments: Record.
        follow_batches: Whether to note for each picture which batches it runs in.
    """

    def __init__(self, pool: str, instruments: Instruments, *, follow_batches: bool = False) -> None:
        self._pool = pool
        self._instruments = instruments
        # Filled by the engine's thread, emptied by ours: appending and popping of a deque are safe against each other.
        self._steps: deque[tuple[int, float]] = deque(maxlen=_MAX_NOTED_STEPS)
        self._out_of_memory = 0  # written by the engine's thread alone
        self._follow_batches = follow_batches
        self._steps_made = 0
        # First and last step and sum of rows of each picture, by request id and index; the oldest go first.
        self._batches: dict[tuple[str, int], tuple[int, int, int, int]] = {}
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def on_step(self, pictures: Sequence[Picture], rows: int, seconds: float) -> None:
        """Notes a step."""
        self._steps.append((rows, seconds))
        if self._follow_batches:
            self._steps_made += 1
            for picture in pictures:
                key = (picture.request.request_id, picture.index)
                first, _, steps, total = self._batches.get(key, (self._steps_made, 0, 0, 0))
                self._batches[key] = (first, self._steps_made, steps + 1, total + rows)
            while len(self._batches) > _MAX_FOLLOWED:  # of pictures that failed or were left
                del self._batches[next(iter(self._batches))]

    def batch_of(self, request_id: str, index: int) -> BatchShare | None:
        """The batches of a finished picture, once; None where they are not followed."""
        if (noted := self._batches.pop((request_id, index), None)) is None:
            return None
        first, last, steps, rows = noted
        return BatchShare(first, last, rows / steps)

    def on_out_of_memory(self, rows: int) -> None:
        """Notes a step that found no memory."""
        self._out_of_memory += 1

    def on_image(self, seconds: StageSeconds) -> None:
        """A picture is finished and encoded."""
        record, pool = self._instruments.record, self._pool
        record(metrics.IMAGES, pool=pool, outcome="finished")
        for stage in _STAGES:
            record(metrics.STAGE_SECONDS, getattr(seconds, stage), pool=pool, stage=stage)
            record(metrics.STAGE_TIME, getattr(seconds, stage), pool=pool, stage=stage)
        record(metrics.DEVICE_SECONDS, seconds.device, pool=pool)

    def on_end(self, images: int, outcome: str) -> None:
        """A request of so many pictures ended without an answer: ``cancelled``, or the kind of its error."""
        self._instruments.record(metrics.IMAGES, images, pool=self._pool, outcome=outcome)

    def start(self, stats: Callable[[], EngineStats]) -> None:
        """Records once a second what was noted and how the engine stands, until `close`."""
        self._thread = threading.Thread(target=self._run, args=(stats,), name="telemetry", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Ends the thread, which records what is left."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join(FLUSH_S)
        self._instruments.close()

    def _run(self, stats: Callable[[], EngineStats]) -> None:
        while not self._stopping.wait(FLUSH_S):
            self.flush(stats())
        self.flush(stats())

    def flush(self, stats: EngineStats) -> None:
        """Records what was noted since the last time, and how the engine stands."""
        record, pool = self._instruments.record, self._pool
        steps = [self._steps.popleft() for _ in range(len(self._steps))]
        for rows, seconds in steps:
            record(metrics.STEP_ROWS, rows, pool=pool)
            record(metrics.STEP_SECONDS, seconds, pool=pool)
        record(metrics.STEPS, len(steps), pool=pool)
        record(metrics.STEPPED_ROWS, sum(rows for rows, _ in steps), pool=pool)
        record(metrics.STEPPING_TIME, sum(seconds for _, seconds in steps), pool=pool)
        record(metrics.OUT_OF_MEMORY, self._out_of_memory, pool=pool)
        record(metrics.QUEUED_IMAGES, stats.queued_images, pool=pool)
        record(metrics.RUNNING_IMAGES, stats.running_images, pool=pool)
        record(metrics.ROWS_IN_FLIGHT, stats.rows_in_flight, pool=pool)
        record(metrics.PREDICTED_WAIT_SECONDS, stats.predicted_wait_s, pool=pool)
        record(metrics.STUCK_SECONDS, stats.stuck_for_s, pool=pool)
