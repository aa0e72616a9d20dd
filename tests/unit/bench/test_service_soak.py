"""The soak of a whole service: its traffic on a service in this process, and growth that is found."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path

import httpx
import pytest

from bench.service_soak import ServiceSoak, SoakReading, process_checks
from bench.service_traffic import Traffic
from bench.soak_checks import Check
from bench.soak_warm_up import ask_every_size
from bench.whole_service import ProcessReading, http_client
from serve_app.errors import GenerationFailed, QueueFull
from serve_app.fake_service import FakeImageService
from serve_app.settings import Settings, StoreSettings
from tests.unit.api.conftest import served

REPLICA = ProcessReading(7, "ServeReplica:imagine:default", 700 * 2**20, threads=40, files=90, cpu_s=1.0)
RAYLET = ProcessReading(8, "raylet", 50 * 2**20, threads=20, files=60, cpu_s=1.0)


@pytest.fixture
def service(tmp_path: Path) -> FakeImageService:
    return FakeImageService(Settings(store=StoreSettings(url=str(tmp_path))))


@pytest.fixture
def url(service: FakeImageService) -> Iterator[str]:
    with served(service) as address:
        yield address


async def _soaked(url: str, stored: Path) -> tuple[dict[str, int], dict[str, Check], list[str]]:
    async with http_client(url, 30.0) as client:
        soak = ServiceSoak(client, minutes=0.05, seed=5, stored=stored, processes=lambda: [REPLICA, RAYLET])
        report = await soak.run()
    checks = {name: Check(name, one["passed"], one["seen"]) for name, one in report["checks"].items()}
    assert report["passed"] == all(check.passed for check in checks.values())
    return report["ends"], checks, report["problems"]


async def test_all_kinds_of_requests_end_as_expected(url: str, tmp_path: Path) -> None:
    ends, checks, problems = await _soaked(url, tmp_path)
    assert not problems
    assert all(check.passed for check in checks.values()), checks
    assert {"picture 200", "stored 200", "stream 200", "job 202", "bad 422"} <= set(ends)


@pytest.mark.parametrize("kind", ["picture", "stored", "stream"])
async def test_a_polite_refusal_is_expected_and_a_failure_is_not(
    kind: str, service: FakeImageService, url: str
) -> None:
    async with http_client(url, 30.0) as client:
        traffic = Traffic(client, seed=1)
        service.failure = QueueFull("full")
        await traffic.ask(kind)
        assert (traffic.wrong, traffic.problems) == (0, [])
        service.failure = GenerationFailed("drawing failed")
        await traffic.ask(kind)
        assert traffic.wrong == 1
        assert "drawing failed" in traffic.problems[0]
        service.failure, service.delay_s = None, 0.2
        await traffic.ask(kind, leaves_after_s=0.1)
        assert traffic.ends[f"{kind} left"] == 1


async def test_a_service_that_is_gone_is_found() -> None:
    async with http_client("http://127.0.0.1:9", 5.0) as client:
        traffic = Traffic(client, seed=1)
        await traffic.ask("picture")
    assert "ConnectError" in traffic.problems[0]


def _failed(rounds: Sequence[Sequence[ProcessReading]], duration_s: float = 3600.0) -> set[str]:
    readings = [SoakReading(12.0 * number, processes, 0) for number, processes in enumerate(rounds)]
    return {check.name for check in process_checks(readings, duration_s) if not check.passed}


def test_growth_is_found_process_by_process() -> None:
    steady = [[REPLICA, RAYLET]] * 300
    assert not _failed(steady)
    bursts = [[replace(REPLICA, files=90 + 100 * (n % 3)), RAYLET] for n in range(300)]
    assert not _failed(bursts)
    leaks = [[replace(REPLICA, files=90 + n // 10), RAYLET] for n in range(300)]
    assert _failed(leaks) == {"file handles do not grow (ServeReplica:imagine:default)"}
    assert not _failed(leaks, duration_s=30.0)  # too short to judge
    threads = [[REPLICA, replace(RAYLET, threads=20 + n // 50)] for n in range(300)]
    assert _failed(threads) == {"threads do not grow (raylet)"}
    memory = [[REPLICA, replace(RAYLET, rss_bytes=RAYLET.rss_bytes + n * 2**20)] for n in range(300)]
    assert _failed(memory) == {"memory does not grow (raylet)"}


def test_threads_that_are_given_back_at_rest_are_no_leak() -> None:
    loaded = [[REPLICA, replace(RAYLET, threads=20 + min(9, n // 20))] for n in range(290)]
    assert _failed([*loaded, *[[REPLICA, RAYLET]] * 10]) == set()
    assert _failed([*loaded, *[[REPLICA, replace(RAYLET, threads=29)]] * 10]) == {
        "threads do not grow (raylet)"
    }


async def test_every_size_is_drawn_before_memory_is_watched(service: FakeImageService, url: str) -> None:
    async with http_client(url, 30.0) as client:
        await ask_every_size(client, (64, 128))
        drawn = {(draft.width, draft.height, draft.num_images) for draft in service.drafts}
        assert drawn == set(product((64, 128), (64, 128), (1, 2, 3, 4, 6, 8)))
        service.failure = GenerationFailed("drawing failed")
        with pytest.raises(httpx.HTTPStatusError):
            await ask_every_size(client, (64,))


def test_actors_that_come_go_or_are_restarted_are_found() -> None:
    steady = [[REPLICA, RAYLET]] * 10
    again = [[replace(REPLICA, pid=9), RAYLET]] * 10
    more = [[REPLICA, replace(REPLICA, pid=9), RAYLET]] * 10
    fewer = [[RAYLET]] * 10
    assert _failed([*steady, *again]) == {"none of them was restarted"}
    assert "Ray Serve's actors stay as many" in _failed([*steady, *more])
    assert _failed([*steady, *fewer]) == {"Ray Serve's actors stay as many"}
