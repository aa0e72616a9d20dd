"""What the doctor finds: a healthy service, and each of the faults it knows."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from PIL import Image

from serve_app import doctor
from serve_app.doctor import Finding, State, examine
from serve_app.errors import QueueFull
from serve_app.fake_service import FakeImageService
from serve_app.settings import Settings, StoreSettings
from tests.unit.api.conftest import client_for, served

Change = Callable[[httpx.Request, httpx.Response], httpx.Response]


@pytest.fixture
def service(tmp_path: Path) -> FakeImageService:
    return FakeImageService(Settings(store=StoreSettings(url=str(tmp_path))))


class _Gateway(httpx.AsyncBaseTransport):
    """Changes answers on their way, as misconfigured gateways do."""

    def __init__(self, inner: httpx.AsyncBaseTransport, change: Change) -> None:
        self._inner, self._change = inner, change

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        answer = await self._inner.handle_async_request(request)
        await answer.aread()
        changed = self._change(request, answer)
        changed.request = request
        return changed


async def _findings(service: FakeImageService, change: Change | None = None) -> dict[str, Finding]:
    client = client_for(service)
    transport = client._transport if change is None else _Gateway(client._transport, change)
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:5000/") as through:
        return {finding.check: finding async for finding in examine(through, timeout_s=20.0)}


async def _socket_findings(service: FakeImageService) -> dict[str, Finding]:
    with served(service) as url:
        async with httpx.AsyncClient(base_url=url + "/", trust_env=False) as client:
            return {finding.check: finding async for finding in examine(client, timeout_s=20.0)}


async def test_a_well_service_is_found_well(service: FakeImageService) -> None:
    service.delay_s = 0.05
    found = await _socket_findings(service)
    # The fake draws flat colours, which is what is wrong with it.
    assert found.pop("picture") == Finding(
        "picture",
        State.WRONG,
        "one flat colour",
        "The weights or the compute type do not work: try dtype float32 or another model.",
    )
    assert {finding.state for finding in found.values()} == {State.OK}
    assert found["same seed, same picture"].found == "yes"
    assert found["job and its events"].found.startswith("finished, ")
    assert len(found) == 7


async def test_another_server_is_told_from_ours(service: FakeImageService) -> None:
    found = await _findings(service, lambda request, answer: httpx.Response(200, text="<html>"))
    assert list(found) == ["address"]
    assert "path prefix" in found["address"].remedy
    found = await _findings(service, lambda request, answer: httpx.Response(401))
    assert "--api-key" in found["address"].remedy


async def test_nobody_there_is_one_finding() -> None:
    async with httpx.AsyncClient(base_url="http://127.0.0.1:9/", trust_env=False) as client:
        found = [finding async for finding in examine(client, timeout_s=5.0)]
    assert [(finding.check, finding.state) for finding in found] == [("address", State.WRONG)]


async def test_a_wrong_clock_and_another_version_are_warnings(service: FakeImageService) -> None:
    def old(request: httpx.Request, answer: httpx.Response) -> httpx.Response:
        if request.url.path == "/":
            return httpx.Response(200, json={"name": "imagine", "version": "0.0.1"})
        answer.headers["date"] = "Wed, 21 Oct 2015 07:28:00 GMT"
        return answer

    found = await _findings(service, old)
    assert (found["address"].state, found["clock"].state) == (State.WARNING, State.WARNING)
    assert "0.0.1" in found["address"].found
    assert "behind this machine" in found["clock"].found


async def test_pools_that_are_away_and_a_full_service(service: FakeImageService) -> None:
    service.is_ready = False
    found = await _findings(service)
    assert found["pools"].state is State.WARNING
    assert found["picture"].state is State.WRONG
    service.is_ready, service.failure = True, QueueFull("full", 7.0)
    found = await _findings(service)
    assert "Try again in 7 s" in found["picture"].remedy


@pytest.mark.parametrize(("code", "remedy"), [("queue_full", "again in 7 s"), ("store_unavailable", "store")])
async def test_a_full_service_is_not_taken_for_a_broken_store(
    service: FakeImageService, code: str, remedy: str
) -> None:
    def later_full(request: httpx.Request, answer: httpx.Response) -> httpx.Response:
        if request.url.path != "/api/text2image":
            return answer
        error = {"code": code, "message": "not now"}
        return httpx.Response(503, json={"error": error}, headers={"retry-after": "7"})

    found = await _findings(service, later_full)
    assert remedy in found["picture by url"].remedy


async def test_a_job_that_takes_too_long_is_not_taken_for_a_lost_connection(
    service: FakeImageService, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def endless(*_: object) -> str:
        async with asyncio.timeout(0.01):
            await asyncio.sleep(60.0)
        return ""

    monkeypatch.setattr(doctor, "_job", endless)
    found = await _findings(service)
    assert found["job and its events"].found == "no answer in time"


async def test_headers_that_a_gateway_takes_away_are_not_missed(service: FakeImageService) -> None:
    def stripped(request: httpx.Request, answer: httpx.Response) -> httpx.Response:
        answer.headers.pop("x-pool", None)
        return answer

    found = await _findings(service, stripped)
    assert found["same seed, same picture"].state is State.OK


def _flat(value: int) -> bytes:
    data = io.BytesIO()
    Image.new("RGB", (256, 256), (value, 255 - value, value)).save(data, "PNG")
    return data.getvalue()


async def test_pictures_that_differ_are_found(service: FakeImageService) -> None:
    shades = iter(range(0, 250, 40))

    def drifting(request: httpx.Request, answer: httpx.Response) -> httpx.Response:
        if request.url.path != "/imagine" or answer.status_code != 200:
            return answer
        return httpx.Response(200, content=_flat(next(shades)), headers={"x-pool": "default"})

    found = await _findings(service, drifting)
    assert found["same seed, same picture"].state is State.WRONG
    assert "same model revision" in found["same seed, same picture"].remedy


async def test_urls_that_lead_elsewhere_are_found(service: FakeImageService) -> None:
    def moved(request: httpx.Request, answer: httpx.Response) -> httpx.Response:
        if request.url.path == "/api/text2image":
            return httpx.Response(200, json={"output": [{"url": "http://10.0.0.3:8000/images/x/0_0.png"}]})
        return answer

    found = await _findings(service, moved)
    assert found["picture by url"].state is State.WRONG
    assert "X-Forwarded" in found["picture by url"].remedy


async def test_a_gateway_that_replaces_errors_is_found(service: FakeImageService) -> None:
    def replaced(request: httpx.Request, answer: httpx.Response) -> httpx.Response:
        return answer if answer.is_success else httpx.Response(answer.status_code, text="<html>Oops")

    found = await _findings(service, replaced)
    assert "proxy_intercept_errors" in found["refusal"].remedy


async def test_a_gateway_that_buffers_is_found(service: FakeImageService) -> None:
    # Without a socket the whole answer is there at once, as behind a gateway that buffers.
    found = await _findings(service)
    assert found["job and its events"].state is State.WARNING
    assert "proxy_buffering" in found["job and its events"].remedy
