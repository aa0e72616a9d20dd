"""What the service tells its operators: metrics through Ray's own endpoint, and its log lines in Serve's log.

Each part of the service tells an observer of its own; here, and in `serve_app.replica_telemetry`, they become the
metrics of `serve_app.metrics`.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing, contextmanager
from contextvars import ContextVar

from ray import serve
from ray.serve import metrics as ray_metrics
from ray.serve.exceptions import RayServeException

from serve_app import metrics
from serve_app.metrics import Instruments, Kind, Metric, kind_of
from serve_app.paced_instruments import PacedInstruments
from serve_app.request import RequestDraft, traceparent_here
from serve_app.result import GenerationResult, StepProgress
from serve_app.tracing import NoTracer, RequestSpan, Tracer

logger = logging.getLogger(__name__)

FLUSH_S = 1.0
"""Seconds between two recordings of what was noted; Ray itself reports every ten seconds."""

_UNTRACED = frozenset({"system", "docs"})  # probes come every few seconds, and tell nothing

_span_here: ContextVar[RequestSpan | None] = ContextVar("span", default=None)


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
        tracer: Told of each request; `traceparent_here` then leads to its span.
    """

    def __init__(self, instruments: Instruments, tracer: Tracer | None = None) -> None:
        self._instruments = instruments
        self._tracer: Tracer = tracer or NoTracer()
        self._in_flight = 0
        # From the start on: that no replica reports it means that none runs, not that nobody has asked one yet.
        instruments.record(metrics.HTTP_IN_FLIGHT, 0)

    def began(self) -> None:
        """A request has come."""
        span = self._tracer.request()
        if span is not None:
            traceparent_here.set(span.traceparent)
        _span_here.set(span)
        self._in_flight += 1
        self._instruments.record(metrics.HTTP_IN_FLIGHT, self._in_flight)

    def ended(self, *, route: str, contract: str, method: str, status: int, seconds: float) -> None:
        """It was answered."""
        span = _span_here.get()
        if span is not None and contract not in _UNTRACED:
            span.end(method, route, status)
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
        tracer: Told of each picture.
    """

    def __init__(self, instruments: Instruments, tracer: Tracer | None = None) -> None:
        self._instruments = instruments
        self._tracer: Tracer = tracer or NoTracer()

    def on_put(self, size: int, seconds: float, *, stored: bool) -> None:
        """A picture was stored, or could not be."""
        outcome = "finished" if stored else "store_unavailable"
        self._instruments.record(metrics.STORE_PUT_SECONDS, seconds, outcome=outcome)
        self._tracer.stored(seconds, size, outcome)
        if stored:
            self._instruments.record(metrics.STORE_WRITTEN_BYTES, size)

    def on_sweep(self, pictures: int, size: int) -> None:
        """This much is kept."""
        self._instruments.record(metrics.STORE_PICTURES, pictures)
        self._instruments.record(metrics.STORE_BYTES, size)
