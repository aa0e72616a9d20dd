"""Load on a service: arrivals, what is counted how, figures, and the plot."""

from __future__ import annotations

import itertools
import statistics
import xml.etree.ElementTree as ET
from pathlib import Path

import httpx
import pytest

from serve_app.errors import QueueFull
from serve_app.fake_service import FakeImageService
from serve_app.load_plot import plot
from serve_app.load_test import Load, Sample, percentiles, run, summary
from serve_app.settings import Settings, StoreSettings
from tests.unit.api.conftest import client_for


@pytest.fixture
def service(tmp_path: Path) -> FakeImageService:
    return FakeImageService(Settings(store=StoreSettings(url=str(tmp_path))))


def test_arrivals_are_a_poisson_process_that_can_be_repeated() -> None:
    load = Load(rate=50.0, duration_s=100.0, seed=3)
    due = [due for due, _ in load.arrivals()]
    gaps = [later - earlier for earlier, later in itertools.pairwise(due)]
    assert 0.9 < len(due) / 5000 < 1.1
    # Of an exponential distribution mean and standard deviation are the same.
    assert 0.9 < statistics.stdev(gaps) / statistics.fmean(gaps) < 1.1
    assert load.arrivals() == load.arrivals()
    assert Load(50.0, 100.0, seed=4).arrivals() != load.arrivals()


async def test_requests_do_not_wait_for_answers(service: FakeImageService) -> None:
    service.delay_s = 0.1
    load = Load(rate=40.0, duration_s=0.5, query={"width": 64, "height": 64, "num_inference_steps": 4})
    async with client_for(service) as client:
        samples = await run(load, client)
    figures = summary(load, samples)
    assert figures["answered"] == figures["requests"] == len(load.arrivals()) > 5
    # One after the other they would take 0.4 s each.
    assert figures["latency_s"]["max"] < 0.4 * len(samples) / 2
    assert figures["latency_s"]["p50"] >= 0.4
    assert figures["pools"] == {"default": len(samples)}
    assert set(figures["stage_mean_s"]) == {"queue", "prepare", "denoise", "decode", "encode"}
    assert figures["failed"] == 0


async def test_refusals_failures_and_what_could_not_be_sent_are_told_apart(service: FakeImageService) -> None:
    load = Load(rate=100.0, duration_s=0.1, query={"width": 64, "height": 64}, max_in_flight=1)
    service.failure = QueueFull("full", 6.5)
    async with client_for(service) as client:
        refused = await run(load, client)
    assert {sample.outcome for sample in refused} <= {"503", "not sent"}
    assert summary(load, refused)["refused"] >= 1
    assert summary(load, refused)["retry_after_s"]["max"] == 7.0  # whole seconds, none too few
    service.failure = RuntimeError("a bug")
    async with client_for(service) as client:
        assert summary(load, await run(load, client))["outcomes"].get("500", 0) >= 1
    service.failure, service.delay_s = None, 1.0
    slow = Load(rate=100.0, duration_s=0.05, timeout_s=0.05)
    async with client_for(service) as client:
        assert {sample.outcome for sample in await run(slow, client)} == {"timeout"}
    async with httpx.AsyncClient(base_url="http://127.0.0.1:9/", trust_env=False) as nobody:
        assert {sample.outcome for sample in await run(slow, nobody)} <= {"ConnectError", "timeout"}


def test_percentiles_are_values_that_were_seen() -> None:
    values = [float(value) for value in range(1, 101)]
    found = percentiles(values[::-1])
    assert found == {"mean": 50.5, "p50": 50.0, "p90": 90.0, "p95": 95.0, "p99": 99.0, "max": 100.0}
    assert percentiles([2.0]) == {"mean": 2.0, "p50": 2.0, "p90": 2.0, "p95": 2.0, "p99": 2.0, "max": 2.0}
    assert percentiles([]) == {}


def test_the_plot_shows_every_request() -> None:
    samples = [
        *(Sample(float(number), 0.0, 0.1 * (number + 1), "200") for number in range(20)),
        Sample(3.0, 0.0, 0.002, "503"),
        Sample(4.0, 0.0, 60.0, "<timeout>"),
    ]
    root = ET.fromstring(plot(samples, "a & b"))
    circles = [node for node in root.iter() if node.tag.endswith("circle")]
    assert len(circles) == 22
    assert len({node.get("fill") for node in circles}) == 3
    assert all(
        0 <= float(node.get("cy", "-1")) <= 480 and 0 <= float(node.get("cx", "-1")) <= 900
        for node in circles
    )
    text = " ".join(node.text or "" for node in root.iter())
    assert "20 answered" in text
    assert "a & b" in text
    ET.fromstring(plot([], "nothing"))
