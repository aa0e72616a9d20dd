"""What becomes a metric: drawings, attempts at pools, the replica's pictures and steps, the store."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path

import pytest

from serve_app import errors, metrics
from serve_app.deployment import Replica
from serve_app.engine.fake import POISON_STEP
from serve_app.errors import GenerationFailed, PoolUnavailable, StoreUnavailable
from serve_app.fake_service import FakeImageService
from serve_app.metrics import METRICS, MemoryInstruments, kind_of
from serve_app.paced_instruments import PacedInstruments
from serve_app.request import GenerationRequest, RequestDraft, new_request_id
from serve_app.result import GenerationResult, ReplicaLoad, StepProgress
from serve_app.settings import PoolSettings, Settings, StoreSettings
from serve_app.store import PictureStore
from serve_app.telemetry import DrawingTelemetry, HttpTelemetry, RayInstruments, StoreTelemetry, here
from serve_app.tracing import NoTracer
from tests.serve.monitoring import alerts

Events = AsyncGenerator[StepProgress | GenerationResult, None]


def test_names_follow_the_conventions_and_stand_once() -> None:
    names = [metric.name for metric in METRICS]
    assert len(set(names)) == len(names)
    for metric in METRICS:
        assert metric.name.startswith("imagine_")
        assert not metric.name.endswith("_total")
        assert list(metric.boundaries) == sorted(metric.boundaries)
        assert (metric.kind is metrics.Kind.HISTOGRAM) == bool(metric.boundaries)
    declared = {value for name, value in vars(metrics).items() if isinstance(value, metrics.Metric)}
    assert declared == set(METRICS)


def test_kinds_of_errors() -> None:
    assert kind_of(errors.QueueFull("full")) == "queue_full"
    assert kind_of(errors.ImagineError("x")) == "imagine_error"
    assert kind_of(KeyError("x")) == "internal"


def test_outside_of_a_replica_nothing_is_recorded() -> None:
    assert not isinstance(here(), RayInstruments)


def test_an_ingress_reports_before_its_first_request() -> None:
    """The alert ``ImagineNoMetrics`` takes it for dead otherwise."""
    instruments = MemoryInstruments()
    HttpTelemetry(instruments)
    assert instruments.gauges == {(metrics.HTTP_IN_FLIGHT.name,): 0}
    (query,) = (query for name, query in alerts() if name == "ImagineNoMetrics")
    assert query == f"absent({metrics.HTTP_IN_FLIGHT.exported})"


@pytest.fixture
def instruments() -> MemoryInstruments:
    return MemoryInstruments()


async def _followed(service: FakeImageService, telemetry: DrawingTelemetry, draft: RequestDraft) -> None:
    async for _ in telemetry.followed(draft, service.stream(draft, progress=True)):
        pass


async def test_drawings_are_counted_by_outcome(tmp_path: Path, instruments: MemoryInstruments) -> None:
    service = FakeImageService(Settings(store=StoreSettings(url=str(tmp_path))))
    telemetry = DrawingTelemetry(instruments)
    await _followed(service, telemetry, RequestDraft("a fox", num_images=2))
    with pytest.raises(errors.UnsupportedRequest):
        await _followed(service, telemetry, RequestDraft("a fox", width=65))
    service.delay_s = 1.0
    async with aclosing(
        telemetry.followed(draft := RequestDraft("a"), service.stream(draft, progress=True))
    ) as left:
        await anext(left)
    assert instruments.counters[("imagine_drawings", "finished")] == 1
    assert instruments.counters[("imagine_drawings", "unsupported_request")] == 1
    assert instruments.counters[("imagine_drawings", "cancelled")] == 1
    assert instruments.counters[("imagine_drawn_images", "default", "small-sdxl")] == 2
    assert len(instruments.observed[("imagine_drawing_wait_seconds", "default")]) == 1


async def test_a_consumer_that_stops_at_the_result_has_a_finished_drawing(
    tmp_path: Path, instruments: MemoryInstruments
) -> None:
    service = FakeImageService(Settings(store=StoreSettings(url=str(tmp_path))))
    draft = RequestDraft("a fox")
    async with aclosing(DrawingTelemetry(instruments).followed(draft, service.stream(draft))) as events:
        await anext(events)
    assert instruments.counters[("imagine_drawings", "finished")] == 1
    assert instruments.counters[("imagine_drawings", "cancelled")] == 0


def test_attempts_are_counted_by_pool_and_outcome(instruments: MemoryInstruments) -> None:
    telemetry = DrawingTelemetry(instruments)
    with telemetry.attempt("a") as finished:
        assert instruments.gauges[("imagine_pool_in_flight", "a")] == 1
        finished()
    with pytest.raises(PoolUnavailable), telemetry.attempt("a"):
        raise PoolUnavailable("died")
    with telemetry.attempt("b"):
        pass
    counted = {key[1:]: value for key, value in instruments.counters.items()}
    assert counted == {("a", "finished"): 1, ("a", "pool_unavailable"): 1, ("b", "cancelled"): 1}
    assert instruments.gauges[("imagine_pool_in_flight", "a")] == 0


async def test_a_replica_tells_of_its_pictures_and_steps(instruments: MemoryInstruments) -> None:
    replica = Replica(PoolSettings(name="test", accelerator="fake", model="fake"), "fake", instruments)
    request = GenerationRequest("id", "a red fox", "", 64, 64, 4, 5.0, seed=3, num_images=2)
    try:
        assert [type(event) async for event in replica.generate(request)] == [ReplicaLoad, GenerationResult]
        with pytest.raises(GenerationFailed):
            [event async for event in replica.generate(replace(request, prompt=POISON_STEP))]
        async with asyncio.timeout(10):
            while ("imagine_step_rows", "test") not in instruments.observed:
                await asyncio.sleep(0.05)
    finally:
        replica.close()
    assert instruments.counters[("imagine_images", "test", "finished")] == 2
    assert instruments.counters[("imagine_images", "test", "generation_failed")] == 2
    for stage in ("queue", "prepare", "denoise", "decode", "encode"):
        assert len(instruments.observed[("imagine_stage_seconds", "test", stage)]) == 2
    assert instruments.counters[("imagine_device_seconds", "test")] > 0
    rows = instruments.observed[("imagine_step_rows", "test")]
    assert max(rows) == 4  # two guided pictures in one step
    assert len(rows) == len(instruments.observed[("imagine_step_seconds", "test")])
    assert instruments.gauges[("imagine_queued_images", "test")] == 0


async def test_a_replica_that_ends_records_what_it_noted_last(instruments: MemoryInstruments) -> None:
    paced = PacedInstruments(instruments, every_s=3600.0)
    replica = Replica(PoolSettings(name="test", accelerator="fake", model="fake"), "fake", paced)
    request = GenerationRequest("id", "a red fox", "", 64, 64, 4, 0.0, seed=3)
    [event async for event in replica.generate(request)]
    replica.close()
    assert instruments.counters[("imagine_images", "test", "finished")] == 1
    assert instruments.counters[("imagine_steps", "test")] >= 4


def test_what_counts_drawings_records_and_sends_the_last_ones_at_its_end(
    instruments: MemoryInstruments,
) -> None:
    sent: list[str] = []

    class NotingTracer(NoTracer):
        def close(self) -> None:
            sent.append("the last")

    telemetry = DrawingTelemetry(PacedInstruments(instruments, every_s=3600.0), NotingTracer())
    with telemetry.attempt("a") as finished:
        finished()
    assert not instruments.counters
    telemetry.close()
    assert instruments.counters[("imagine_pool_attempts", "a", "finished")] == 1
    assert sent == ["the last"]


async def test_the_store_tells_what_it_holds(tmp_path: Path, instruments: MemoryInstruments) -> None:
    settings = StoreSettings(url=str(tmp_path / "pictures"), max_bytes=5)
    store = PictureStore(settings, StoreTelemetry(instruments))
    await store.put(new_request_id(), "0_0.png", b"1234")
    await store.put(new_request_id(), "0_0.png", b"123")
    await store.sweep()
    assert instruments.counters[("imagine_store_written_bytes",)] == 7
    assert instruments.gauges[("imagine_store_pictures",)] == 1
    assert instruments.gauges[("imagine_store_bytes",)] in (3, 4)
    assert len(instruments.observed[("imagine_store_put_seconds", "finished")]) == 2
    broken = PictureStore(
        StoreSettings(url="s3://x", options={"endpoint": "http://127.0.0.1:1", "region": "r"}),
        StoreTelemetry(instruments),
    )
    with pytest.raises(StoreUnavailable):
        await broken.put(new_request_id(), "0_0.png", b"1")
    assert len(instruments.observed[("imagine_store_put_seconds", "store_unavailable")]) == 1


def test_every_metric_is_documented_with_its_labels() -> None:
    text = (Path(__file__).parents[2] / "docs" / "operate.md").read_text()
    documented = dict(re.findall(r"^\| `(ray_imagine_\w+)` \| ([^|]+) \|", text, flags=re.M))
    assert documented == {
        metric.exported: ", ".join(f"`{label}`" for label in metric.labels) or "-" for metric in METRICS
    }


def test_every_alert_is_documented() -> None:
    text = (Path(__file__).parents[2] / "docs" / "operate.md").read_text()
    assert {name for name, _ in alerts()} == set(re.findall(r"`(Imagine\w+)`", text))
