"""Traces by OpenTelemetry: off unless ``traces_url`` is set, and its packages needed only then.

An HTTP request is one span, a child of the caller's own where it had a ``traceparent``. Its children are the drawings
and what was stored; a drawing's are the stages of its pictures. All but the request's are made after their end, and
those of drawings where the drawing is routed, from the times that came with the pictures, so replicas and the engine
know nothing of tracing; only the batch a picture ran in is noted for it (`BatchShare`).
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Protocol

from serve_app.errors import ConfigurationError
from serve_app.request import RequestDraft, traceparent_here
from serve_app.result import GeneratedImage, GenerationResult

if TYPE_CHECKING:
    from opentelemetry.sdk.trace.export import SpanExporter
    from opentelemetry.trace import Span

SERVICE_NAME = "imagine"

_STAGES = ("queue", "prepare", "denoise", "decode", "encode")


class RequestSpan(Protocol):
    """The span of an HTTP request that is being answered."""

    @property
    def traceparent(self) -> str:
        """W3C trace context for its children."""
        ...

    def end(self, method: str, route: str, status: int) -> None:
        """The request was answered; a span that never ends is not sent."""
        ...


class Tracer(Protocol):
    """Told of requests, drawings and stored pictures. `NoTracer` is the one that does not care."""

    def request(self) -> RequestSpan | None:
        """An HTTP request has come, whose caller's trace context is in `traceparent_here`."""
        ...

    def stored(self, seconds: float, size: int, outcome: str) -> None:
        """A picture of `size` bytes was stored just now, or could not be, for the request in `traceparent_here`."""
        ...

    def drawn(
        self, draft: RequestDraft, result: GenerationResult | None, outcome: str, began: float, ended: float
    ) -> None:
        """A drawing has ended.

        Args:
            draft: What was asked for.
            result: What came of it, or None.
            outcome: As in the metric ``imagine_drawings``.
            began: Unix time in seconds.
            ended: Unix time in seconds.
        """
        ...

    def close(self) -> None:
        """Sends what is left; blocks while it does."""
        ...


class NoTracer:
    """Traces nothing."""

    def request(self) -> None:
        """Nothing."""

    def stored(self, seconds: float, size: int, outcome: str) -> None:
        """Nothing."""

    def drawn(
        self, draft: RequestDraft, result: GenerationResult | None, outcome: str, began: float, ended: float
    ) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""


class OpenTelemetryTracer:
    """Makes spans; they are sent in the background, and dropped when the collector does not take them.

    ``OTEL_TRACES_SAMPLER`` and ``OTEL_RESOURCE_ATTRIBUTES`` mean what they mean everywhere.

    Args:
        exporter: Sends them.
    """

    def __init__(self, exporter: SpanExporter) -> None:
        from opentelemetry.sdk.resources import OTELResourceDetector, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        # What OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES say wins.
        resource = Resource({"service.name": SERVICE_NAME}).merge(OTELResourceDetector().detect())
        self._provider = TracerProvider(resource=Resource.create().merge(resource))
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("serve_app")

    def request(self) -> RequestSpan:
        """Begins the request's span; see `Tracer.request`."""
        from opentelemetry.trace import SpanKind

        return _OpenRequestSpan(
            self._tracer.start_span("HTTP", context=_context_of(traceparent_here.get()), kind=SpanKind.SERVER)
        )

    def stored(self, seconds: float, size: int, outcome: str) -> None:
        """Makes the span ``store``; see `Tracer.stored`."""
        now = time.time()
        span = self._tracer.start_span(
            "store",
            context=_context_of(traceparent_here.get()),
            start_time=_nanoseconds(now - seconds),
            attributes={"imagine.outcome": outcome, "imagine.bytes": size},
        )
        _mark(span, outcome)
        span.end(_nanoseconds(now))

    def drawn(
        self, draft: RequestDraft, result: GenerationResult | None, outcome: str, began: float, ended: float
    ) -> None:
        """Makes the drawing's span and those of its pictures' stages; see `Tracer.drawn`."""
        from opentelemetry.trace import set_span_in_context

        attributes: dict[str, Any] = {
            "imagine.drawing_id": draft.request_id,
            "imagine.outcome": outcome,
            "imagine.priority": draft.priority.value,
            "imagine.num_images": draft.num_images,
        }
        if result is not None:
            attributes |= {
                "imagine.pool": result.pool,
                "imagine.model": result.model,
                "imagine.accelerator": result.accelerator,
                "imagine.cost": result.cost,
                "imagine.num_inference_steps": result.request.num_inference_steps,
                "imagine.width": result.request.width,
                "imagine.height": result.request.height,
            }
        span = self._tracer.start_span(
            "draw",
            context=_context_of(draft.traceparent),
            start_time=_nanoseconds(began),
            attributes=attributes,
        )
        _mark(span, outcome)
        if result is not None:
            accepted = max(began, ended - result.total_s)
            for image in result.images:
                self._stages(image, accepted, set_span_in_context(span))
        span.end(_nanoseconds(ended))

    def _stages(self, image: GeneratedImage, accepted: float, parent: Any) -> None:
        start = accepted
        for stage in _STAGES:
            seconds = float(getattr(image.seconds, stage))
            attributes: dict[str, Any] = {"imagine.image_index": image.index}
            if stage == "denoise" and image.batch is not None:
                attributes |= {
                    "imagine.batch.first_step": image.batch.first_step,
                    "imagine.batch.last_step": image.batch.last_step,
                    "imagine.batch.mean_rows": image.batch.mean_rows,
                }
            span = self._tracer.start_span(
                stage, context=parent, start_time=_nanoseconds(start), attributes=attributes
            )
            start += seconds
            span.end(_nanoseconds(start))

    def close(self) -> None:
        """Sends what is left."""
        self._provider.shutdown()


def tracer_for(url: str | None) -> Tracer:
    """The tracer that sends to `url` by OTLP over HTTP, or none.

    Raises:
        ConfigurationError: The packages it needs are not installed.
    """
    if url is None:
        return NoTracer()
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    except ImportError as error:
        raise ConfigurationError(
            "traces_url is set, but the packages for it are not installed: pip install 'imagine-serve[traces]'"
        ) from error
    return OpenTelemetryTracer(OTLPSpanExporter(endpoint=url))


class _OpenRequestSpan:
    """Implements `RequestSpan`."""

    def __init__(self, span: Span) -> None:
        self._span = span

    @property
    def traceparent(self) -> str:
        context = self._span.get_span_context()
        return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"

    def end(self, method: str, route: str, status: int) -> None:
        # Names and values are those of OpenTelemetry's conventions for HTTP servers.
        self._span.update_name(f"{method} {route}")
        self._span.set_attributes(
            {"http.request.method": method, "http.route": route, "http.response.status_code": status}
        )
        if status >= 500:
            _mark(self._span, str(status))
        self._span.end()


def _context_of(traceparent: str | None) -> Any:
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    carrier = {} if traceparent is None else {"traceparent": traceparent}
    return TraceContextTextMapPropagator().extract(carrier)


def _mark(span: Any, outcome: str) -> None:
    """An error where `outcome` is one."""
    from opentelemetry.trace import Status, StatusCode

    if outcome not in ("finished", "cancelled"):
        span.set_status(Status(StatusCode.ERROR, outcome))


def _nanoseconds(unix_s: float) -> int:
    return int(unix_s * 1e9)
