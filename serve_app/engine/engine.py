"""`Engine`: draws pictures one denoising step at a time, on one thread; where the device gains from it, others decode.

The life of a picture is `Engine.tick`: accepted by `submit`, prepared when there is room, one step per batch
it is chosen for, decoded after its last step, its end told to its listener. It may leave between any two.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial

from serve_app.engine.admission import backlog_s, queue_full, refuse_unless_possible
from serve_app.engine.decoding import Decoding
from serve_app.engine.ledger import Ledger
from serve_app.engine.observer import EngineObserver, NoObserver
from serve_app.engine.picture import Picture
from serve_app.engine.pipeline import StepPipeline
from serve_app.engine.scheduler import Scheduler
from serve_app.engine.stats import EngineStats
from serve_app.engine.ticket import Listener, Ticket
from serve_app.errors import (
    DeadlineExceeded,
    GenerationCancelled,
    GenerationFailed,
    PoolUnavailable,
    QueueFull,
)
from serve_app.request import GenerationRequest
from serve_app.result import Pixels

log = logging.getLogger(__name__)

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
        observer: Told of every step.
        on_broken: Called, on one of the engine's threads, when the device does not compute any more.
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
        observer: EngineObserver | None = None,
        on_broken: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self.pipeline = pipeline
        rows = min(max_rows, pipeline.capabilities.max_rows)
        self._scheduler = Scheduler(rows, max_queued_images, max_rows_in_flight=4 * rows)
        self._ledger = Ledger(pipeline, self._scheduler, clock, on_broken)
        self._decoding = Decoding(pipeline, self._ledger)
        self._lock = self._ledger.lock
        self._max_queue_s = max_queue_s
        self._observer: EngineObserver = NoObserver() if observer is None else observer
        self._clock, self._wall_clock = clock, wall_clock
        self._thread: threading.Thread | None = None
        self._stopping = False
        self._concerned: Sequence[Picture] = ()  # whom an unexpected error of this tick fails

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
        self._decoding.stop()
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
            LimitReached: No more room for this owner; says when to try again.
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
                self._ledger.times,
                self._ledger.pace,
                max_queue_s=self._max_queue_s,
                unix_now=self._wall_clock(),
            )
            if not self._scheduler.has_work():
                self._ledger.begins(now)
            for picture in pictures:
                self._scheduler.add(picture)
            self._lock.notify_all()
        return Ticket(request, partial(self._cancel, pictures))

    def stats(self) -> EngineStats:
        """A snapshot of the counters."""
        with self._lock:
            return self._ledger.stats()

    def queue_full(self) -> QueueFull | None:
        """What a request for one more picture would be told for lack of room until a picture ends.

        None where there is room, and where places in the queue come free in a moment, as waiting pictures are prepared.
        """
        with self._lock:
            if not self._scheduler.places and self._scheduler.can_prepare():
                return None
            work_s = backlog_s(self._scheduler, self._ledger.times, self._ledger.pace)
            return queue_full(1, self._scheduler, work_s, max_queue_s=self._max_queue_s)

    def stuck_for_s(self) -> float:
        """Seconds since the engine last got anywhere, for a watchdog; 0 while it has nothing to do."""
        with self._lock:
            return self._ledger.stuck_for_s()

    def _cancel(self, pictures: Sequence[Picture]) -> None:
        with self._lock:
            for picture in pictures:
                picture.cancelled = True
            self._ledger.abandoned = True
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
                    self._ledger.fail(
                        picture, GenerationFailed(f"unexpected {type(error).__name__} in the engine")
                    )
        with self._lock:
            left = list(self._scheduler.pictures())
        for picture in left:
            self._ledger.fail(picture, PoolUnavailable("this replica is shutting down"))

    def _can_go_on(self) -> bool:
        """Whether a tick would do anything: not while all that is left is being decoded, or decodes fill the device."""
        return (
            self._ledger.abandoned
            or (self._scheduler.can_step() and self._decoding.leaves_room())
            or self._decoding.can_start()
        )

    def tick(self) -> None:
        """One turn: drop, admit, step, decode. Only on the engine's thread (or, unstarted, in a test)."""
        self._concerned = ()
        self._drop_abandoned()
        with self._lock:
            room = self._decoding.leaves_room()  # from here on only this thread makes it less
        if room:
            self._admit()
            with self._lock:
                batch = self._scheduler.next_batch(self._ledger.times.hoped_step_s)
            if batch:
                self._step(batch)
        if (finished := self._decoding.start()) is not None:
            self._concerned = (finished,)
            self._decoding.decode(finished)

    def _drop_abandoned(self) -> None:
        now = self._wall_clock()
        with self._lock:
            self._ledger.abandoned = False
            pictures = list(self._scheduler.pictures())
        for picture in pictures:
            if picture.cancelled:
                self._ledger.fail(picture, GenerationCancelled("cancelled by the caller"))
            elif picture.request.deadline is not None and now >= picture.request.deadline:
                self._ledger.fail(
                    picture, DeadlineExceeded("the deadline passed before the picture was finished")
                )

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
                    self._ledger.tell(
                        waiting, partial(waiting.listener.on_progress, waiting.progress(position), None)
                    )

    def _waiting(self) -> list[Picture]:
        with self._lock:
            return list(self._scheduler.waiting())

    def _sibling_waits(self, picture: Picture) -> bool:
        return any(other.request is picture.request for other in self._waiting())

    def _prepare(self, picture: Picture, *, again: bool = False) -> None:
        self._concerned = (picture,)
        began = self._clock()
        try:
            picture.state = self.pipeline.prepare(picture.request, picture.index)
        except Exception as error:  # noqa: BLE001 - a pipeline may raise anything; it fails alone
            if again or not self.pipeline.is_out_of_memory(error):
                self._ledger.fail(picture, self._ledger.failure(picture, error, "preparing"))
                return
        if picture.state is None:  # as in `_step`
            log.warning("out of memory while preparing %s: once more", picture.shape)
            self._prepare(picture, again=True)
            return
        picture.prepare_s = self._clock() - began
        with self._lock:
            self._scheduler.start(picture)
            self._ledger.last_progress = self._clock()
        self._ledger.tell(picture, partial(picture.listener.on_progress, picture.progress(), None))

    def _step(self, batch: list[Picture], *, again: bool = False) -> None:
        """One step of `batch`; on an error again with fewer rows, or each picture alone: only culprits fail.

        Args:
            batch: Pictures that may share a step.
            again: The same step has just found no memory.
        """
        self._concerned = batch
        states = [picture.state for picture in batch if picture.state is not None]
        rows_each = [state.rows for state in states]  # a step may be a picture's last guided one
        rows = sum(rows_each)
        instead: list[list[Picture]] | None = None
        began = self._clock()
        try:
            self.pipeline.denoise_step(states)
        except Exception as error:  # noqa: BLE001 - a pipeline may raise anything
            instead = self._instead_of(batch, error, again=again)
        if instead is not None:
            # Not while the error is handled: until then all that the call had computed is kept in memory.
            for pictures in instead:
                self._step(pictures, again=len(pictures) == len(batch))
            return
        ended = self._clock()
        with self._lock:
            self._scheduler.went_well(states[0].batch_key)
            self._ledger.stepped(batch[0].shape, rows, ended - began)
            for picture, state, own_rows in zip(batch, states, rows_each, strict=True):
                picture.first_step_at = picture.first_step_at if state.step else began
                picture.last_step_at = ended
                picture.steps_share_s += (ended - began) * own_rows / rows
                state.step += 1
                self._scheduler.stepped(picture)
        self._observer.on_step(batch, rows, ended - began)
        for picture in batch:
            self._ledger.tell(picture, partial(self._on_step, picture))

    def _instead_of(self, batch: list[Picture], error: Exception, *, again: bool) -> list[list[Picture]]:
        """The steps to make instead of one of `batch` that raised `error`; none where the picture has failed."""
        states = [picture.state for picture in batch if picture.state is not None]
        if self.pipeline.is_out_of_memory(error) and not again:
            rows = sum(state.rows for state in states)
            self._observer.on_out_of_memory(rows)
            if len(batch) == 1:
                # A pipeline that keeps memory to be faster has given it up by now.
                log.warning("out of memory with one picture of %s: once more", states[0].batch_key)
                return [batch]
            log.warning("out of memory with %d rows of %s: halving", rows, states[0].batch_key)
            with self._lock:
                self._scheduler.limit_rows(states[0].batch_key, rows // 2)
                return [self._scheduler.fitting(batch)]
        if len(batch) == 1:
            self._ledger.fail(batch[0], self._ledger.failure(batch[0], error, f"step {states[0].step + 1}"))
            return []
        log.warning("a step of %d pictures failed; trying each alone", len(batch), exc_info=error)
        return [[picture] for picture in batch]

    def _on_step(self, picture: Picture) -> None:
        state = picture.state
        assert state is not None
        every = picture.request.preview_every if self.pipeline.capabilities.previews else 0
        wanted = every and not state.finished and state.step % every == 0
        picture.listener.on_progress(picture.progress(), self._preview(picture) if wanted else None)

    def _preview(self, picture: Picture) -> Pixels | None:
        assert picture.state is not None
        try:
            return self.pipeline.preview(picture.state)
        except Exception:  # a pipeline may raise anything; the picture itself does not depend on it
            log.exception("no preview of request %s", picture.request.request_id, extra=picture.log_fields)
            return None
