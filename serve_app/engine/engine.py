"""`Engine`: draws pictures one denoising step at a time, on one thread; where the device gains from it, others decode.

The life of a picture is `Engine.tick`: accepted by `submit`, prepared when there is room, one step per batch
it is chosen for, decoded after its last step, its end told to its listener. It may leave between any two.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from serve_app.engine.admission import backlog_s, refuse_unless_possible
from serve_app.engine.picture import Picture
from serve_app.engine.pipeline import StepPipeline
from serve_app.engine.scheduler import Scheduler
from serve_app.engine.stats import EngineStats
from serve_app.engine.step_times import StepTimes
from serve_app.engine.ticket import Listener, Ticket
from serve_app.errors import (
    DeadlineExceeded,
    GenerationCancelled,
    GenerationFailed,
    ImagineError,
    PoolUnavailable,
)
from serve_app.request import GenerationRequest, Pixels

log = logging.getLogger(__name__)

MAX_DECODE_ATTEMPTS = 3
"""Decodes of one picture that may run out of memory: what the others hold is often free a moment later."""

_PREPARE_BUDGET_S = (
    0.02  # per tick, beyond the first picture: so that preparing never stalls a batch for long
)


class Engine:
    """Step-level continuous batching over a `StepPipeline`.

    Args:
        pipeline: Driven from the engine's thread, but for the decodes that its capabilities let run beside.
        max_rows: Most rows of one step; the pipeline's own limit wins where it is lower.
        max_queued_images: Most pictures that wait.
        max_queue_s: Most predicted seconds of accepted work, or None for no such limit.
        clock: Monotonic seconds.
        wall_clock: Unix time in seconds, for deadlines.
    """

    def __init__(
        self,
        pipeline: StepPipeline,
        *,
        max_rows: int = 8,
        max_queued_images: int = 64,
        max_queue_s: float | None = None,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self.pipeline = pipeline
        rows = min(max_rows, pipeline.capabilities.max_rows)
        self._scheduler = Scheduler(rows, max_queued_images, max_rows_in_flight=4 * rows)
        self._times = StepTimes()
        self._max_queue_s = max_queue_s
        self._clock, self._wall_clock = clock, wall_clock
        # Guards the scheduler, the times and the counters; never held while the pipeline or a listener runs.
        self._lock = threading.Condition()
        self._thread: threading.Thread | None = None
        self._decode_slots = pipeline.capabilities.concurrent_decodes
        self._decoders = (
            ThreadPoolExecutor(self._decode_slots, thread_name_prefix="engine-decode")
            if self._decode_slots
            else None
        )
        self._stopping = False
        self._abandoned = False  # somebody cancelled since the last tick
        self._concerned: Sequence[Picture] = ()  # whom an unexpected error of this tick fails
        self._last_progress = clock()
        self._last_step = (0, 0.0)  # rows, seconds
        self._steps_done = self._done = self._failed = self._cancelled = 0

    # --- any thread ---

    def start(self) -> None:
        """Starts the thread named ``engine``. Once."""
        if self._thread is not None:
            raise RuntimeError("the engine was started before")
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    def stop(self, timeout_s: float) -> bool:
        """Ends after the step in progress; what is unfinished fails with `PoolUnavailable`.

        Args:
            timeout_s: Most seconds to wait for the thread.

        Returns:
            Whether the thread has ended.
        """
        with self._lock:
            self._stopping = True
            self._lock.notify_all()
        if self._decoders is not None:
            self._decoders.shutdown(wait=False, cancel_futures=True)
        if self._thread is None:
            return True
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def submit(self, request: GenerationRequest, listener: Listener) -> Ticket:
        """Accepts all pictures of `request`, or none.

        Args:
            request: Already checked against the pipeline's capabilities.
            listener: Hears of its pictures on the engine's thread.

        Raises:
            QueueFull: No room; says when to try again.
            DeadlineUnreachable: It would not finish in time; says when to try again.
            DeadlineExceeded: The deadline is already over.
            PoolUnavailable: The engine is stopping.
        """
        now = self._clock()
        pictures = [Picture(request, index, listener, now) for index in range(request.num_images)]
        with self._lock:
            if self._stopping:
                raise PoolUnavailable("this replica is shutting down")
            refuse_unless_possible(
                pictures,
                self._scheduler,
                self._times,
                max_queue_s=self._max_queue_s,
                unix_now=self._wall_clock(),
            )
            if not self._scheduler.has_work():
                self._last_progress = now  # the idle time before was not being stuck
            for picture in pictures:
                self._scheduler.add(picture)
            self._lock.notify_all()
        return Ticket(request, partial(self._cancel, pictures))

    def stats(self) -> EngineStats:
        """A snapshot of the counters."""
        with self._lock:
            return EngineStats(
                queued_images=self._scheduler.queued,
                running_images=sum(1 for _ in self._scheduler.in_flight()),
                rows_in_flight=self._scheduler.rows_in_flight,
                last_step_rows=self._last_step[0],
                last_step_s=self._last_step[1],
                steps_done=self._steps_done,
                images_done=self._done,
                images_failed=self._failed,
                images_cancelled=self._cancelled,
                stuck_for_s=self._stuck_for_s(),
                predicted_wait_s=backlog_s(self._scheduler, self._times),
            )

    def stuck_for_s(self) -> float:
        """Seconds since the engine last got anywhere, for a watchdog; 0 while it has nothing to do."""
        with self._lock:
            return self._stuck_for_s()

    def _stuck_for_s(self) -> float:
        return max(0.0, self._clock() - self._last_progress) if self._scheduler.has_work() else 0.0

    def _cancel(self, pictures: Sequence[Picture]) -> None:
        with self._lock:
            for picture in pictures:
                picture.cancelled = True
            self._abandoned = True
            self._lock.notify_all()

    # --- the engine's thread ---

    def _run(self) -> None:
        while True:
            with self._lock:
                while not self._stopping and not self._can_go_on():
                    self._lock.wait()
                if self._stopping:
                    break
            try:
                self.tick()
            # The boundary that keeps the thread alive: whatever went wrong ends the pictures concerned only.
            except Exception as error:
                log.exception("unexpected error in the engine")
                with self._lock:
                    concerned = list(self._concerned) or list(self._scheduler.pictures())
                for picture in concerned:
                    self._fail(picture, GenerationFailed(f"unexpected {type(error).__name__} in the engine"))
        with self._lock:
            left = list(self._scheduler.pictures())
        for picture in left:
            self._fail(picture, PoolUnavailable("this replica is shutting down"))

    def _can_go_on(self) -> bool:
        """Whether a tick would do anything: not while all that is left is being decoded."""
        free = self._decode_slots == 0 or self._decode_slots > self._scheduler.decoding
        return self._abandoned or self._scheduler.has_steps() or (self._scheduler.undecoded > 0 and free)

    def tick(self) -> None:
        """One turn: drop, admit, step, decode. Only on the engine's thread (or, unstarted, in a test)."""
        self._concerned = ()
        self._drop_abandoned()
        self._admit()
        with self._lock:
            batch = self._scheduler.next_batch(self._times.hoped_step_s)
        if batch:
            self._step(batch)
        self._start_decodes()

    def _drop_abandoned(self) -> None:
        now = self._wall_clock()
        with self._lock:
            self._abandoned = False
            pictures = list(self._scheduler.pictures())
        for picture in pictures:
            if picture.cancelled:
                self._fail(picture, GenerationCancelled("cancelled by the caller"))
            elif picture.request.deadline is not None and now >= picture.request.deadline:
                self._fail(picture, DeadlineExceeded("the deadline passed before the picture was finished"))

    def _admit(self) -> None:
        """Prepares one picture; more within the budget, or of the same request (its text is cached then)."""
        began = self._clock()
        last: Picture | None = None
        while last is None or self._clock() - began < _PREPARE_BUDGET_S or self._sibling_waits(last):
            with self._lock:
                picture = self._scheduler.next_to_prepare()
            if picture is None:
                break
            last = picture
            self._prepare(picture)
        if last is not None or any(p.told_position is None for p in self._waiting()):
            for position, waiting in enumerate(self._waiting()):
                if waiting.told_position != position:
                    waiting.told_position = position
                    self._tell(
                        waiting, partial(waiting.listener.on_progress, waiting.progress(position), None)
                    )

    def _waiting(self) -> list[Picture]:
        with self._lock:
            return list(self._scheduler.waiting())

    def _sibling_waits(self, picture: Picture) -> bool:
        return any(other.request is picture.request for other in self._waiting())

    def _prepare(self, picture: Picture) -> None:
        self._concerned = (picture,)
        began = self._clock()
        try:
            picture.state = self.pipeline.prepare(picture.request, picture.index)
        except Exception as error:  # noqa: BLE001 - a pipeline may raise anything; it fails alone
            self._fail(picture, self._failure(error, "preparing"))
            return
        picture.prepare_s = self._clock() - began
        with self._lock:
            self._scheduler.start(picture)
            self._last_progress = self._clock()
        self._tell(picture, partial(picture.listener.on_progress, picture.progress(), None))

    def _step(self, batch: list[Picture]) -> None:
        """One step of `batch`; on an error again with fewer rows, or each picture alone: only culprits fail."""
        self._concerned = batch
        states = [picture.state for picture in batch if picture.state is not None]
        rows = sum(state.rows for state in states)
        began = self._clock()
        try:
            self.pipeline.denoise_step(states)
        except Exception as error:
            if len(batch) == 1:
                self._fail(batch[0], self._failure(error, f"step {states[0].step + 1}"))
            elif self.pipeline.is_out_of_memory(error):
                log.warning("out of memory with %d rows of %s: halving", rows, states[0].batch_key)
                with self._lock:
                    self._scheduler.limit_rows(states[0].batch_key, rows // 2)
                    fewer = self._scheduler.fitting(batch)
                self._step(fewer)
            else:
                log.warning("a step of %d pictures failed; trying each alone", len(batch), exc_info=error)
                for picture in batch:
                    self._step([picture])
            return
        ended = self._clock()
        with self._lock:
            self._times.record_step(batch[0].shape, rows, ended - began)
            self._last_step = (rows, ended - began)
            self._scheduler.went_well(states[0].batch_key)
            self._steps_done += 1
            self._last_progress = ended
            for picture, state in zip(batch, states, strict=True):
                picture.first_step_at = picture.first_step_at if state.step else began
                picture.last_step_at = ended
                picture.steps_share_s += (ended - began) * state.rows / rows
                state.step += 1
                self._scheduler.stepped(picture)
        for picture in batch:
            self._tell(picture, partial(self._on_step, picture))

    def _on_step(self, picture: Picture) -> None:
        state = picture.state
        assert state is not None
        every = picture.request.preview_every if self.pipeline.capabilities.previews else 0
        wanted = every and not state.finished and state.step % every == 0
        preview: Pixels | None = self.pipeline.preview(state) if wanted else None
        picture.listener.on_progress(picture.progress(), preview)

    def _start_decodes(self) -> None:
        """At most one here, so that decoding never stalls the others for longer; beside, as many as may be.

        The only picture there is gets the whole device, here.
        """
        while True:
            with self._lock:
                if self._decoders is not None and self._scheduler.decoding >= self._decode_slots:
                    return
                picture = self._scheduler.next_to_decode()
                alone = picture is not None and sum(1 for _ in self._scheduler.pictures()) == 1
            if picture is None:
                return
            if self._decoders is None or alone:
                self._concerned = (picture,)
                self._decode(picture)
                return
            try:
                self._decoders.submit(self._decode_beside, picture)
            except RuntimeError:  # stopping: whoever stops ends the pictures that are left
                return

    def _decode_beside(self, picture: Picture) -> None:
        try:
            self._decode(picture)
        except Exception as error:  # as in _run: it ends this picture only
            log.exception("unexpected error in a decoder")
            self._fail(picture, GenerationFailed(f"unexpected {type(error).__name__} in the engine"))
        with self._lock:
            self._lock.notify_all()  # a slot is free

    def _decode(self, picture: Picture) -> None:
        """On the engine's thread or on a decoder's; the picture may be cancelled or too late meanwhile."""
        state = picture.state
        if state is None or picture.cancelled or picture.ended:
            return
        began = self._clock()
        try:
            pixels = self.pipeline.decode(state)
        except Exception as error:  # noqa: BLE001 - as in _prepare
            picture.decode_attempts += 1
            if self.pipeline.is_out_of_memory(error) and picture.decode_attempts < MAX_DECODE_ATTEMPTS:
                log.warning("out of memory while decoding %s: once more later", picture.shape)
                with self._lock:
                    self._scheduler.decode_later(picture)
            else:
                self._fail(picture, self._failure(error, "decoding"))
            return
        ended = self._clock()
        with self._lock:
            self._last_progress = ended
            if picture.ended:
                return
            self._times.record_decode(picture.shape, ended - began)
            self._done += 1
            picture.ended = True
            self._scheduler.remove(picture)
        self._tell(
            picture,
            partial(picture.listener.on_picture, picture.index, pixels, picture.seconds(ended - began)),
        )

    def _failure(self, error: Exception, stage: str) -> ImagineError:
        """The domain error for what the pipeline raised; details go to the log, not to the client."""
        if isinstance(error, ImagineError):
            return error
        if self.pipeline.is_out_of_memory(error):
            return GenerationFailed(f"not enough memory on the device for one picture of this size ({stage})")
        log.error("a picture failed (%s)", stage, exc_info=error)
        return GenerationFailed(f"drawing failed ({stage}): {type(error).__name__}")

    def _fail(self, picture: Picture, error: ImagineError) -> None:
        with self._lock:
            if picture.ended:
                return
            picture.ended = True
            self._scheduler.remove(picture)
            self._last_progress = self._clock()
            if isinstance(error, GenerationCancelled):
                self._cancelled += 1
            else:
                self._failed += 1
        self._tell(picture, partial(picture.listener.on_failure, picture.index, error))

    def _tell(self, picture: Picture, deliver: Callable[[], None]) -> None:
        try:
            deliver()
        except Exception:  # a caller's bug must not concern the other callers: it loses its picture, no more
            log.exception("the listener of request %s failed", picture.request.request_id)
            with self._lock:
                picture.cancelled = True
                self._abandoned = True  # the next tick must come, even with nothing else to do
                self._lock.notify_all()
