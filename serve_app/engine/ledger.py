"""`Ledger`: what the engine's threads share, and the one place where a picture ends."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from functools import partial

from serve_app.engine.admission import backlog_s
from serve_app.engine.pace import Pace
from serve_app.engine.picture import Picture, Shape
from serve_app.engine.pipeline import StepPipeline
from serve_app.engine.scheduler import Scheduler
from serve_app.engine.stats import EngineStats
from serve_app.engine.step_times import StepTimes
from serve_app.errors import GenerationCancelled, GenerationFailed, ImagineError, PoolUnavailable
from serve_app.result import Pixels

log = logging.getLogger(__name__)


class Ledger:
    """Counts, learned times and ends. Every picture ends once: by `finish` or by `fail`.

    Args:
        pipeline: Says what is a lack of memory.
        scheduler: Has every picture that has not ended.
        clock: Monotonic seconds.
        on_broken: Called when the device does not compute any more, before any picture is failed for it.

    Attributes:
        lock: Guards the scheduler and everything here; never held while the pipeline or a listener runs.
        times: Learned while drawing.
        pace: Likewise.
        abandoned: Somebody cancelled since the last tick.
        last_progress: When a picture last got anywhere, in seconds of `clock`.
    """

    def __init__(
        self,
        pipeline: StepPipeline,
        scheduler: Scheduler,
        clock: Callable[[], float],
        on_broken: Callable[[], None],
    ) -> None:
        self.lock = threading.Condition()
        self.scheduler = scheduler
        self.times = StepTimes(pipeline.capabilities.filled_rows)
        self.pace = Pace(1.0 + pipeline.capabilities.concurrent_decodes)
        self.abandoned = False
        self.last_progress = clock()
        self.clock = clock
        self._on_broken = on_broken
        self._pipeline = pipeline
        self._last_step = (0, 0.0)  # rows, seconds
        self._steps_done = self._done = self._failed = self._cancelled = 0

    # --- under the lock ---

    def begins(self, now: float) -> None:
        """Work begins; there was none before, which was not being stuck."""
        self.last_progress = now
        self.pace.begin(now)

    def stepped(self, shape: Shape, rows: int, seconds: float) -> None:
        """Notes a denoising step, before it is counted in its pictures."""
        self.last_progress = self.clock()
        self.pace.done(self._predicted_step_s(shape, rows, seconds), self.last_progress)
        self.times.record_step(shape, rows, seconds)
        self._last_step = (rows, seconds)
        self._steps_done += 1

    def _predicted_step_s(self, shape: Shape, rows: int, seconds: float) -> float:
        """What it takes off the predicted work. A first step of its kind says nothing of how fast the next ones are."""
        if not self.times.is_warm(shape, rows):
            return seconds
        all_rows = sum(picture.rows for picture in self.scheduler.pictures() if picture.shape == shape)
        return rows * self.times.row_step_s(shape, max(rows, all_rows), self.scheduler.max_rows)

    def stuck_for_s(self) -> float:
        """Seconds since anything got anywhere; 0 while there is nothing to do."""
        return max(0.0, self.clock() - self.last_progress) if self.scheduler.has_work() else 0.0

    def stats(self) -> EngineStats:
        """A snapshot."""
        return EngineStats(
            queued_images=self.scheduler.queued,
            running_images=sum(1 for _ in self.scheduler.in_flight()),
            rows_in_flight=self.scheduler.rows_in_flight,
            last_step_rows=self._last_step[0],
            last_step_s=self._last_step[1],
            steps_done=self._steps_done,
            images_done=self._done,
            images_failed=self._failed,
            images_cancelled=self._cancelled,
            stuck_for_s=self.stuck_for_s(),
            predicted_wait_s=backlog_s(self.scheduler, self.times, self.pace),
        )

    # --- without it ---

    def finish(self, picture: Picture, pixels: Pixels, decode_s: float) -> None:
        """Ends `picture` well, unless it has ended meanwhile."""
        with self.lock:
            self.last_progress = self.clock()
            if picture.ended:
                return
            warm = self.times.is_decode_warm(picture.shape)
            self.pace.done(self.times.decode_s(picture.shape) if warm else decode_s, self.last_progress)
            self.times.record_decode(picture.shape, decode_s)
            self._done += 1
            self._remove(picture)
        self.tell(
            picture, partial(picture.listener.on_picture, picture.index, pixels, picture.seconds(decode_s))
        )

    def fail(self, picture: Picture, error: ImagineError) -> None:
        """Ends `picture` with `error`, unless it has ended meanwhile."""
        with self.lock:
            if picture.ended:
                return
            self._remove(picture)
            self.last_progress = self.clock()
            if isinstance(error, GenerationCancelled):
                self._cancelled += 1
            else:
                self._failed += 1
        self.tell(picture, partial(picture.listener.on_failure, picture.index, error))

    def _remove(self, picture: Picture) -> None:
        picture.ended = True
        self.scheduler.remove(picture)

    def failure(self, picture: Picture, error: Exception, stage: str) -> ImagineError:
        """The domain error for what the pipeline raised; details go to the log, not to the client."""
        if isinstance(error, ImagineError):
            return error
        if self._pipeline.is_out_of_memory(error):
            return GenerationFailed(f"not enough memory on the device for one picture of this size ({stage})")
        log.error("a picture failed (%s)", stage, exc_info=error, extra=picture.log_fields)
        if not self._pipeline.works():
            # Not the picture's fault, nor would any other be drawn: elsewhere all of them are.
            self._on_broken()
            return PoolUnavailable("the device of this replica does not work any more")
        return GenerationFailed(f"drawing failed ({stage}): {type(error).__name__}")

    def tell(self, picture: Picture, deliver: Callable[[], None]) -> None:
        """Lets a listener hear something; one that raises loses its picture, no more."""
        try:
            deliver()
        except Exception:  # a caller's bug must not concern the other callers
            log.exception(
                "the listener of request %s failed", picture.request.request_id, extra=picture.log_fields
            )
            with self.lock:
                picture.cancelled = True
                self.abandoned = True  # the next tick must come, even with nothing else to do
                self.lock.notify_all()
