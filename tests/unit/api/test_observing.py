"""What the HTTP application tells its observer: route, contract, status, for answers, refusals and faults."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import httpx
import pytest

from serve_app.api import build_app
from serve_app.api.deps import get_service
from serve_app.api.observing import NoHttpObserver
from serve_app.errors import GenerationFailed
from serve_app.fake_service import FakeImageService
from serve_app.metrics import MemoryInstruments
from serve_app.settings import Settings
from serve_app.telemetry import HttpTelemetry
from tests.unit.api.conftest import ServedAt

REQUESTS = "imagine_http_requests"


@pytest.fixture
def instruments() -> MemoryInstruments:
    return MemoryInstruments()


@pytest.fixture
async def observed(
    service: FakeImageService, settings: Settings, instruments: MemoryInstruments
) -> AsyncIterator[httpx.AsyncClient]:
    app = build_app(settings, HttpTelemetry(instruments))
    app.dependency_overrides[get_service] = lambda: service
    transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:5000") as client:
        yield client


@pytest.mark.parametrize(
    ("method", "path", "body", "expected"),
    [
        ("GET", "/imagine?prompt=a", None, ("/imagine", "imagine", "GET", "200")),
        ("GET", "/imagine?prompt=a&width=7", None, ("/imagine", "imagine", "GET", "422")),
        (
            "POST",
            "/v1/images/generations",
            {"prompt": "a"},
            ("/v1/images/generations", "openai", "POST", "200"),
        ),
        ("POST", "/sdapi/v1/txt2img", {"prompt": "a"}, ("/sdapi/v1/txt2img", "a1111", "POST", "200")),
        ("POST", "/", {"inputs": "a"}, ("/", "huggingface", "POST", "200")),
        ("GET", "/images/x/y.png", None, ("/images/{picture_id}/{name}", "pictures", "GET", "404")),
        ("GET", "/api/jobs/x", None, ("/api/jobs/{job_id}", "jobs", "GET", "404")),
        ("GET", "/no/such/path", None, ("none", "none", "GET", "404")),
        ("BREW", "/no/such/path", None, ("none", "none", "other", "404")),
        ("GET", "/health", None, ("/health", "system", "GET", "200")),
    ],
)
async def test_requests_are_counted_by_route_contract_and_status(
    observed: httpx.AsyncClient,
    instruments: MemoryInstruments,
    method: str,
    path: str,
    body: dict[str, str] | None,
    expected: tuple[str, ...],
) -> None:
    answer = await observed.request(method, path, json=body)
    assert str(answer.status_code) == expected[3]
    assert instruments.counters == {(REQUESTS, *expected): 1}
    assert len(instruments.observed[("imagine_http_request_seconds", *expected[:2])]) == 1
    assert instruments.gauges[("imagine_http_in_flight",)] == 0


async def test_a_prefix_of_a_proxy_is_no_part_of_the_route(
    observed: httpx.AsyncClient, instruments: MemoryInstruments
) -> None:
    await observed.get("/imagine?prompt=a", headers={"X-Forwarded-Prefix": "/serve"})
    assert instruments.counters == {(REQUESTS, "/imagine", "imagine", "GET", "200"): 1}


async def test_faults_and_callers_who_leave_have_a_status_too(
    observed: httpx.AsyncClient, instruments: MemoryInstruments, service: FakeImageService
) -> None:
    service.failure = GenerationFailed("no")
    await observed.get("/imagine?prompt=a")
    service.failure = RuntimeError("a bug")
    await observed.get("/imagine?prompt=a")
    service.failure, service.delay_s = None, 5.0
    leaving = asyncio.create_task(observed.get("/imagine?prompt=a"))
    await asyncio.sleep(0.1)
    assert instruments.gauges[("imagine_http_in_flight",)] == 1
    leaving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leaving
    route = (REQUESTS, "/imagine", "imagine", "GET")
    assert instruments.counters == {(*route, "500"): 2, (*route, "499"): 1}
    assert instruments.gauges[("imagine_http_in_flight",)] == 0


@pytest.mark.parametrize(
    ("path", "contract", "media_type"),
    [
        ("/generate", "generate", "application/json"),
        ("/v1/images/generations", "openai", "application/json"),
        ("/api/replay", "replay", "multipart/form-data; boundary=x"),
        ("/api/replay", "replay", "image/png"),
    ],
)
async def test_who_leaves_while_sending_is_no_fault_of_ours(
    served_at: ServedAt,
    service: FakeImageService,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    path: str,
    contract: str,
    media_type: str,
) -> None:
    told: list[tuple[str, int]] = []
    monkeypatch.setattr(
        NoHttpObserver, "ended", lambda self, **facts: told.append((facts["contract"], facts["status"]))
    )
    address = httpx.URL(served_at(service))
    _, sender = await asyncio.open_connection(address.host, address.port)
    head = f"POST {path} HTTP/1.1\r\nHost: h\r\nContent-Type: {media_type}\r\nContent-Length: 100\r\n\r\n--x"
    sender.write(head.encode())
    await sender.drain()
    await asyncio.sleep(0.1)
    sender.close()
    async with asyncio.timeout(5):
        while not told:
            await asyncio.sleep(0.01)
    assert told == [(contract, 499)]
    assert "Traceback" not in caplog.text
