"""Traces: the spans of a drawing, their times and parents, the batch, and a real exporter to a collector."""

from __future__ import annotations

import asyncio
import gzip
import http.server
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind

from serve_app.api import build_app
from serve_app.api.deps import get_service
from serve_app.deployment import Replica
from serve_app.errors import ConfigurationError, UnsupportedRequest
from serve_app.fake_service import FakeImageService
from serve_app.jobs.drawing import JobDrawing
from serve_app.jobs.job import Job
from serve_app.jobs.records import JobRecord
from serve_app.jobs.turns import Turns
from serve_app.metrics import NoInstruments
from serve_app.request import GenerationRequest, ImageFormat, RequestDraft
from serve_app.result import BatchShare, GeneratedImage, GenerationResult, StageSeconds
from serve_app.settings import PoolSettings, Settings, StoreSettings
from serve_app.store import PictureStore
from serve_app.telemetry import DrawingTelemetry, HttpTelemetry, StoreTelemetry
from serve_app.tracing import NoTracer, OpenTelemetryTracer, tracer_for
from tests.unit.api.conftest import client_for, client_of

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


@pytest.fixture
def exporter() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
def service(tmp_path: Path) -> FakeImageService:
    return FakeImageService(Settings(store=StoreSettings(url=str(tmp_path))))


async def _draw(
    service: FakeImageService, exporter: InMemorySpanExporter, draft: RequestDraft
) -> list[ReadableSpan]:
    tracer = OpenTelemetryTracer(exporter)
    telemetry = DrawingTelemetry(NoInstruments(), tracer)
    try:
        async for _ in telemetry.followed(draft, service.stream(draft)):
            pass
    finally:
        tracer.close()
    return list(exporter.get_finished_spans())


async def test_a_drawing_is_a_span_with_a_span_for_each_stage(
    service: FakeImageService, exporter: InMemorySpanExporter
) -> None:
    spans = await _draw(service, exporter, RequestDraft("a fox", num_images=2))
    (draw,) = [span for span in spans if span.name == "draw"]
    assert draw.attributes is not None
    assert (draw.attributes["imagine.outcome"], draw.attributes["imagine.pool"]) == ("finished", "default")
    assert draw.parent is None
    stages = [span for span in spans if span.name != "draw"]
    assert sorted(span.name for span in stages) == sorted(
        ["queue", "prepare", "denoise", "decode", "encode"] * 2
    )
    for span in stages:
        assert span.parent is not None
        assert span.parent.span_id == draw.context.span_id
        assert span.start_time is not None
        assert span.end_time is not None
        assert draw.start_time is not None
        assert draw.start_time <= span.start_time <= span.end_time
    assert "a fox" not in str([span.to_json() for span in spans])


def test_stages_follow_each_other_and_denoise_tells_its_batch(exporter: InMemorySpanExporter) -> None:
    image = GeneratedImage(
        0, 1, b"", ImageFormat.PNG, 64, 64, StageSeconds(1.0, 0.5, 4.0, 0.25, 0.25), BatchShare(7, 11, 3.5)
    )
    request = GenerationRequest("id", "a fox", "", 64, 64, 4, 0.0, seed=1)
    result = GenerationResult(request, (image,), "p", "m", "fake", total_s=6.0)
    tracer = OpenTelemetryTracer(exporter)
    tracer.drawn(RequestDraft("a fox"), result, "finished", 1000.0, 1010.0)
    tracer.close()
    spans = {span.name: span for span in exporter.get_finished_spans()}
    starts = [spans[name].start_time for name in ("queue", "prepare", "denoise", "decode", "encode")]
    assert [(start or 0) / 1e9 for start in starts] == [1004.0, 1005.0, 1005.5, 1009.5, 1009.75]
    batch = {name: value for name, value in (spans["denoise"].attributes or {}).items() if "batch" in name}
    assert batch == {
        "imagine.batch.first_step": 7,
        "imagine.batch.last_step": 11,
        "imagine.batch.mean_rows": 3.5,
    }


async def test_a_failure_is_an_error_and_a_caller_is_the_parent(
    service: FakeImageService, exporter: InMemorySpanExporter
) -> None:
    draft = RequestDraft("a fox", width=65, traceparent=f"00-{TRACE}-{SPAN}-01")
    with pytest.raises(UnsupportedRequest):
        await _draw(service, exporter, draft)
    (draw,) = exporter.get_finished_spans()
    assert (draw.status.status_code.name, draw.status.description) == ("ERROR", "unsupported_request")
    assert f"{draw.context.trace_id:032x}" == TRACE
    assert draw.parent is not None
    assert f"{draw.parent.span_id:016x}" == SPAN


@pytest.mark.parametrize(
    ("header", "carried"), [(f"00-{TRACE}-{SPAN}-01", True), ("00-x-y-01", False), (None, False)]
)
async def test_drafts_carry_the_trace_of_their_request(
    service: FakeImageService, header: str | None, carried: bool
) -> None:
    headers = {} if header is None else {"traceparent": header}
    async with client_for(service) as client:
        answers = [
            await client.get("/imagine?prompt=a", headers=headers),
            await client.post("/api/jobs", json={"prompt": "a"}, headers=headers),
            await client.get("/imagine?prompt=a"),
        ]
    assert [answer.status_code for answer in answers] == [200, 202, 200]
    async with asyncio.timeout(10):
        while len(service.drafts) < 3:
            await asyncio.sleep(0.01)
    await service.jobs.close()
    carriers = sorted((draft.traceparent or "" for draft in service.drafts), reverse=True)
    assert carriers == ([header, header, ""] if carried else ["", "", ""])


async def test_a_request_is_a_span_around_its_drawings_and_what_it_stores(
    tmp_path: Path, exporter: InMemorySpanExporter
) -> None:
    tracer = OpenTelemetryTracer(exporter)
    settings = Settings(store=StoreSettings(url=str(tmp_path)))
    service = FakeImageService(settings, store_observer=StoreTelemetry(NoInstruments(), tracer))
    app = build_app(settings, HttpTelemetry(NoInstruments(), tracer))
    app.dependency_overrides[get_service] = lambda: service
    async with client_of(app) as client:
        called = await client.post(
            "/api/text2image", json={"prompt": "a"}, headers={"traceparent": f"00-{TRACE}-{SPAN}-01"}
        )
        refused = await client.get("/imagine?prompt=a&width=7")
        probed = await client.get("/health")
    tracer.close()
    assert [answer.status_code for answer in (called, refused, probed)] == [200, 422, 200]
    stored, drawing, bad = exporter.get_finished_spans()
    assert [stored.name, drawing.name, bad.name] == ["store", "POST /api/text2image", "GET /imagine"]
    assert drawing.kind is SpanKind.SERVER
    assert drawing.parent is not None
    assert (f"{drawing.parent.trace_id:032x}", f"{drawing.parent.span_id:016x}") == (TRACE, SPAN)
    assert stored.parent is not None
    assert stored.parent.span_id == drawing.context.span_id
    (draft,) = service.drafts
    assert draft.traceparent == f"00-{TRACE}-{drawing.context.span_id:016x}-01"
    assert (drawing.attributes or {})["http.response.status_code"] == 200
    assert (bad.attributes or {})["http.response.status_code"] == 422
    assert bad.parent is None


async def test_what_a_job_stores_belongs_to_the_request_that_ordered_it(
    service: FakeImageService, exporter: InMemorySpanExporter
) -> None:
    tracer = OpenTelemetryTracer(exporter)
    pictures = PictureStore(service.settings.store, StoreTelemetry(NoInstruments(), tracer))
    drawing = JobDrawing(service.settings, service, pictures, Turns(1, lambda: None))
    draft = RequestDraft("a fox", traceparent=f"00-{TRACE}-{SPAN}-01")
    job = Job(JobRecord(id=draft.request_id, draft=draft, created_at=time.time()), 10)
    await asyncio.create_task(drawing.until_end(job))
    tracer.close()
    (stored,) = exporter.get_finished_spans()
    assert stored.parent is not None
    assert f"{stored.parent.span_id:016x}" == SPAN


async def test_a_replica_notes_the_batches_of_its_pictures() -> None:
    replica = Replica(PoolSettings(accelerator="fake", model="fake"), "fake", follow_batches=True)
    try:
        requests = [GenerationRequest(name, "a fox", "", 64, 64, 6, 0.0, seed=3) for name in ("one", "two")]

        async def draw(request: GenerationRequest) -> BatchShare | None:
            async for event in replica.generate(request):
                if isinstance(event, GenerationResult):
                    return event.images[0].batch
            return None

        one, two = await asyncio.gather(*map(draw, requests))
    finally:
        replica.close()
    assert one is not None
    assert two is not None
    assert one.last_step - one.first_step >= 5
    assert one.first_step <= two.last_step
    assert 1.0 <= one.mean_rows <= 2.0


class _Collector(http.server.BaseHTTPRequestHandler):
    received: list[ExportTraceServiceRequest]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        self.received.append(ExportTraceServiceRequest.FromString(body))
        self.send_response(200)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        return


@pytest.fixture
def collector() -> Iterator[tuple[str, list[ExportTraceServiceRequest]]]:
    _Collector.received = []
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Collector)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/v1/traces", _Collector.received
    server.shutdown()
    server.server_close()


def test_spans_reach_a_collector(collector: tuple[str, list[ExportTraceServiceRequest]]) -> None:
    pytest.importorskip("opentelemetry.exporter.otlp.proto.http")
    url, received = collector
    tracer = tracer_for(url)
    assert isinstance(tracer, OpenTelemetryTracer)
    tracer.drawn(RequestDraft("a fox"), None, "cancelled", 1.0, 2.0)
    tracer.close()
    (resource,) = received[0].resource_spans
    attributes = {one.key: one.value.string_value for one in resource.resource.attributes}
    assert attributes["service.name"] == "imagine"
    assert [span.name for span in resource.scope_spans[0].spans] == ["draw"]


def test_without_a_url_nothing_is_traced_and_without_packages_it_is_said(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert isinstance(tracer_for(None), NoTracer)
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    with pytest.raises(ConfigurationError, match=r"imagine-serve\[traces\]"):
        tracer_for("http://127.0.0.1:1/v1/traces")
