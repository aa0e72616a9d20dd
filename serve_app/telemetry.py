"""What the service tells its operators: metrics through Ray's own endpoint, and its log lines in Serve's log.

Each part of the service tells an observer of its own; here they become the metrics of `serve_app.metrics`. Nothing
is recorded on the engine's thread: it notes steps in a queue, which a thread of its own empties once a second.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter, deque
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import aclosing, contextmanager

from ray import serve
from ray.serve import metrics as ray_metrics
from ray.serve.exceptions import RayServeException

from serve_app import metrics
from serve_app.engine import EngineStats
from serve_app.engine.picture import Picture
from serve_app.metrics import Instruments, Kind, Metric, kind_of
from serve_app.paced_instruments import PacedInstruments
from serve_app.request import RequestDraft
from serve_app.result import BatchShare, GenerationResult, StageSeconds, StepProgress
from serve_app.tracing import NoTracer, Tracer

logger = logging.getLogger(__name__)

FLUSH_S = 1.0
"""Seconds between two recordings of what was noted; Ray itself reports every ten seconds."""

_MAX_FOLLOWED = 10_000
_MAX_NOTED_STEPS = 100_000  # bounds the memory should the recording thread ever stand still
_STAGES = ("queue", "prepare", "denoise", "decode", "encode")


class RayInstruments:
    """Records by ``ray.serve.metrics``; made inside a replica, whose labels Serve adds."""

    def __init__(self) -> None:
        self._made: dict[str, ray_metrics.Counter | ray_metrics.Gauge | ray_metrics.Histogram] = {}
        self._lock = threading.Lock()

    def record(self, metric: Metric, value: float = 1.0, **labels: str) -> None:
        """See `Instruments.record`."""
        with self._lock:
            made = self._made.get(metric.name)
            if made is None:
                made = self._made[metric.name] = self._make(metric)
        if metric.kind is Kind.COUNTER:
            if value > 0:
                made.inc(value, tags=labels)
        elif metric.kind is Kind.GAUGE:
            made.set(value, tags=labels)
        else:
            made.observe(value, tags=labels)

    def close(self) -> None:
        """Nothing: Ray has it already."""

    @staticmethod
    def _make(metric: Metric) -> ray_metrics.Counter | ray_metrics.Gauge | ray_metrics.Histogram:
        if metric.kind is Kind.COUNTER:
            return ray_metrics.Counter(metric.name, metric.description, metric.labels)
        if metric.kind is Kind.GAUGE:
            return ray_metrics.Gauge(metric.name, metric.description, metric.labels)
        return ray_metrics.Histogram(metric.name, metric.description, list(metric.boundaries), metric.labels)


def here() -> Instruments:
    """The instruments of this process: Ray's inside a replica, else none."""
    return PacedInstruments(RayInstruments(), FLUSH_S) if in_replica() else metrics.NoInstruments()


def join_serve_log() -> None:
    """Lets our loggers write where Serve's own write, in its format and from its level on; only inside a replica.

    Without it they end at Python's root logger, which drops everything below a warning.
    """
    if in_replica():
        ours = logging.getLogger("serve_app")
        ours.parent = logging.getLogger("ray.serve")


def in_replica() -> bool:
    """Whether this process is a replica of Ray Serve."""
    try:
        serve.get_replica_context()
    except RayServeException:
        return False
    return True


class HttpTelemetry:
    """Implements `serve_app.api.observing.HttpObserver`.

    Args:
        instruments: Record.
    """

    def __init__(self, instruments: Instruments) -> None:
        self._instruments = instruments
        self._in_flight = 0

    def began(self) -> None:
        """A request has come."""
        self._in_flight += 1
        self._instruments.record(metrics.HTTP_IN_FLIGHT, self._in_flight)

    def ended(self, *, route: str, contract: str, method: str, status: int, seconds: float) -> None:
        """It was answered."""
        self._in_flight -= 1
        record = self._instruments.record
        record(metrics.HTTP_IN_FLIGHT, self._in_flight)
        record(metrics.HTTP_REQUESTS, route=route, contract=contract, method=method, status=str(status))
        record(metrics.HTTP_SECONDS, seconds, route=route, contract=contract)


class DrawingTelemetry:
    """Counts drawings where they are routed: in the ingress and in the keeper of the jobs.

    Args:
        instruments: Record.
        tracer: Told of each at its end.
    """

    def __init__(self, instruments: Instruments, tracer: Tracer | None = None) -> None:
        self._instruments = instruments
        self._tracer: Tracer = tracer or NoTracer()
        self._in_flight: Counter[str] = Counter()

    async def followed(
        self, draft: RequestDraft, events: AsyncGenerator[StepProgress | GenerationResult, None]
    ) -> AsyncGenerator[StepProgress | GenerationResult, None]:
        """The events of one drawing as they are, counted, and told in the log at the end."""
        began, unix_began = time.monotonic(), time.time()
        outcome, pool = "cancelled", ""
        result: GenerationResult | None = None
        try:
            async with aclosing(events):
                async for event in events:
                    if isinstance(event, GenerationResult):
                        outcome, pool, result = "finished", event.pool, event
                        self._drawn(event, time.monotonic() - began)
                    yield event
        except Exception as error:
            outcome = kind_of(error)
            raise
        finally:
            self._instruments.record(metrics.DRAWINGS, outcome=outcome)
            seconds = time.monotonic() - began
            self._tracer.drawn(draft, result, outcome, unix_began, unix_began + seconds)
            # Serve adds the HTTP request's id; the drawing's is the one that replicas know.
            logger.info(
                "drawing %s %s%s after %.3f s",
                draft.request_id,
                outcome,
                f" on {pool}" if pool else "",
                seconds,
                extra={
                    "drawing_id": draft.request_id,
                    "outcome": outcome,
                    "pool": pool,
                    "seconds": round(seconds, 4),
                },
            )

    def _drawn(self, result: GenerationResult, seconds: float) -> None:
        record, labels = self._instruments.record, {"pool": result.pool, "model": result.model}
        record(metrics.DRAWN_IMAGES, len(result.images), **labels)
        record(metrics.COST, result.cost, **labels)
        record(metrics.DRAWING_WAIT_SECONDS, max(0.0, seconds - result.total_s), pool=result.pool)

    @contextmanager
    def attempt(self, pool: str) -> Iterator[Callable[[], None]]:
        """One drawing in the hands of one pool.

        Yields:
            To be called when the pool has finished it; else it ended as the error that leaves the block, or was left.
        """
        outcome = "cancelled"

        def finished() -> None:
            nonlocal outcome
            outcome = "finished"

        self._change_in_flight(pool, 1)
        try:
            yield finished
        except Exception as error:
            outcome = kind_of(error)
            raise
        finally:
            self._change_in_flight(pool, -1)
            self._instruments.record(metrics.POOL_ATTEMPTS, pool=pool, outcome=outcome)

    def close(self) -> None:
        """Records and sends what is left; blocks while it does."""
        self._instruments.close()
        self._tracer.close()

    def _change_in_flight(self, pool: str, change: int) -> None:
        self._in_flight[pool] += change
        self._instruments.record(metrics.POOL_IN_FLIGHT, self._in_flight[pool], pool=pool)


class StoreTelemetry:
    """Implements `serve_app.store.StoreObserver`.

    Args:
        instruments: Record.
    """

    def __init__(self, instruments: Instruments) -> None:
        self._instruments = instruments

    def on_put(self, size: int, seconds: float, *, stored: bool) -> None:
        """A picture was stored, or could not be."""
        self._instruments.record(
            metrics.STORE_PUT_SECONDS, seconds, outcome="finished" if stored else "store_unavailable"
        )
        if stored:
            self._instruments.record(metrics.STORE_WRITTEN_BYTES, size)

    def on_sweep(self, pictures: int, size: int) -> None:
        """This much is kept."""
        self._instruments.record(metrics.STORE_PICTURES, pictures)
        self._instruments.record(metrics.STORE_BYTES, size)


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
