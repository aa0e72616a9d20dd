"""The chaos run without a cluster: the load on a fake service, its figures, and what its checks catch."""

from __future__ import annotations

import asyncio
import json
from itertools import islice
from pathlib import Path
from typing import Any

import httpx
import pytest

from bench.chaos import load as load_module
from bench.chaos.faults import Fault, Injury
from bench.chaos.load import ConstantLoad, Outcome, Sample
from bench.chaos.log_lines import DrawnAgain
from bench.chaos.orders import MENU, Order, Way, orders
from bench.chaos.report import as_data, checks_of, figures
from serve_app import errors
from serve_app.api import build_app
from serve_app.api.deps import get_service
from serve_app.fake_service import FakeImageService
from serve_app.settings import Settings, StoreSettings


class Network(httpx.AsyncBaseTransport):
    """The application without sockets; `broken` answers in its place."""

    def __init__(self, service: FakeImageService) -> None:
        app = build_app(service.settings)
        app.dependency_overrides[get_service] = lambda: service
        self._inside = httpx.ASGITransport(app=app, raise_app_exceptions=False)
        self.broken: Exception | httpx.Response | None = None

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if isinstance(self.broken, Exception):
            raise self.broken
        return self.broken or await self._inside.handle_async_request(request)


@pytest.fixture
def service(tmp_path: Path) -> FakeImageService:
    return FakeImageService(Settings(store=StoreSettings(url=str(tmp_path))))


@pytest.fixture
def network(service: FakeImageService) -> Network:
    return Network(service)


@pytest.fixture
def load(network: Network, monkeypatch: pytest.MonkeyPatch) -> ConstantLoad:
    monkeypatch.setattr(load_module, "_JOB_POLL_S", 0.02)
    monkeypatch.setattr(load_module, "_AGAIN_S", 0.02)
    made = ConstantLoad("http://chaos", rate=200.0, seed=3, max_in_flight=50)
    made._client = httpx.AsyncClient(transport=network, base_url="http://chaos", timeout=5.0)
    return made


async def _until(samples: int, load: ConstantLoad) -> None:
    async with asyncio.timeout(60.0):
        while len(load.samples) < samples:
            await asyncio.sleep(0.01)


async def _run(load: ConstantLoad, samples: int) -> list[Sample]:
    """Sends until so many have ended, and waits for the rest."""
    stop = asyncio.Event()
    running = asyncio.create_task(load.run(stop))
    await _until(samples, load)
    stop.set()
    async with asyncio.timeout(60.0):
        await running
    assert load.in_flight(*Way) == 0
    return load.samples


def test_orders_are_those_of_the_seed_and_of_every_kind() -> None:
    first, again, other = ([(o.way, o.recipe) for o in islice(orders(seed), 200)] for seed in (1, 1, 2))
    assert first == again != other
    assert {way for way, _ in first} == set(Way)
    assert {recipe for _, recipe in first} == set(MENU)
    keys = {order.key for seed in (1, 1) for order in islice(orders(seed), 200)}
    assert len(keys) == 400  # two runs on one service share no job


async def test_a_sound_service_answers_everything(load: ConstantLoad) -> None:
    await load.learn()
    samples = await _run(load, 60)
    assert {sample.outcome for sample in samples} == {Outcome.ANSWERED}
    assert {sample.order.way for sample in samples} == set(Way)
    assert all(sample.waited_s > 0 for sample in samples)


@pytest.mark.parametrize(
    ("failure", "outcome"),
    [
        (errors.GenerationFailed("not finite"), Outcome.FAILED),
        (errors.PoolUnavailable("died", 3.0), Outcome.FAILED),
        (errors.QueueFull("full", 3.0), Outcome.REFUSED),
    ],
)
async def test_the_services_own_errors(
    load: ConstantLoad, service: FakeImageService, failure: Exception, outcome: Outcome
) -> None:
    await load.learn()
    service.failure = failure
    stop = asyncio.Event()
    running = asyncio.create_task(load.run(stop))
    await _until(10, load)
    direct = [sample for sample in load.samples if sample.order.way is not Way.JOB]
    assert {sample.outcome for sample in direct} == {outcome}
    service.failure = None  # jobs that were refused meanwhile come to their end
    stop.set()
    await running
    jobs = [sample for sample in load.samples if sample.order.way is Way.JOB]
    broken = isinstance(failure, errors.GenerationFailed)
    assert jobs
    assert {sample.outcome for sample in jobs} <= (
        {Outcome.FAILED, Outcome.ANSWERED} if broken else {Outcome.ANSWERED}
    )


@pytest.mark.parametrize(
    ("broken", "outcome"),
    [
        (httpx.ConnectError("refused"), Outcome.BY_PROXY),
        (httpx.RemoteProtocolError("cut"), Outcome.BY_PROXY),
        (httpx.Response(404, text="Path '/imagine' not found."), Outcome.BY_PROXY),
        (httpx.Response(500, text="Internal Server Error"), Outcome.BY_INGRESS),
    ],
)
async def test_who_broke_the_connection(
    load: ConstantLoad, network: Network, broken: Exception | httpx.Response, outcome: Outcome
) -> None:
    await load.learn()
    network.broken = broken
    stop = asyncio.Event()
    running = asyncio.create_task(load.run(stop))
    await _until(5, load)
    network.broken = None
    stop.set()
    await running
    lost = [sample for sample in load.samples if sample.outcome is not Outcome.ANSWERED]
    assert {sample.outcome for sample in lost} == {outcome}
    # A job's client sends its order again, under the same key, until it is taken.
    jobs = [sample for sample in load.samples if sample.order.way is Way.JOB]
    assert {sample.outcome for sample in jobs} == {Outcome.ANSWERED}
    assert max(sample.repeats for sample in jobs) > 0


async def test_another_picture_is_noticed(load: ConstantLoad) -> None:
    await load.learn()
    load._expected = dict.fromkeys(MENU, "something else")
    assert {sample.outcome for sample in await _run(load, 5)} == {Outcome.WRONG}


async def test_it_keeps_its_bound(load: ConstantLoad, service: FakeImageService) -> None:
    await load.learn()
    service.delay_s = 30.0
    running = asyncio.create_task(load.run(asyncio.Event()))
    async with asyncio.timeout(30.0):
        while not load.not_sent:
            await asyncio.sleep(0.01)
    assert load.in_flight(*Way) == 50
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert load.in_flight(*Way) == 0


def test_handed_on_drawings_are_counted_once(tmp_path: Path) -> None:
    again = DrawnAgain(tmp_path)
    assert again.since_last() == 0
    log = tmp_path / "replica_imagine_Ingress_abc.log"
    line = "WARNING pool drawing failed request 0b1d6f9e-0000-4000-8000-000000000000: a replica died\n"
    log.write_text("INFO started\n" + line + line[:40])
    assert again.since_last() == 1
    log.write_text("INFO started\n" + line + line)
    (tmp_path / "replica_imagine_Jobs_abc.log").write_text(
        "INFO Job 0b1d was left unfinished and is drawn again\n"
    )
    assert again.since_last() == 2
    assert again.since_last() == 0


def _sample(outcome: Outcome, ended_s: float, way: Way = Way.BYTES, waited_s: float = 0.5) -> Sample:
    return Sample(Order(way, MENU[0], "k"), outcome, ended_s - waited_s, ended_s, "seen")


def _injury(fault: Fault, at_s: float = 10.0, **more: Any) -> Injury:
    return Injury(fault, at_s, **{"whole_after_s": 4.0, "answers_after_s": 1.0, **more})


def test_figures_belong_to_the_fault_before_the_end() -> None:
    samples = [
        _sample(Outcome.ANSWERED, 9.0),
        _sample(Outcome.ANSWERED, 14.0, waited_s=6.0),  # held by the fault
        _sample(Outcome.BY_INGRESS, 10.5),
        _sample(Outcome.BY_PROXY, 31.0),
        _sample(Outcome.REFUSED, 32.0),
        _sample(Outcome.ANSWERED, 40.0, Way.JOB),
    ]
    injuries = [_injury(Fault.INGRESS_REPLICA, in_flight_at_ingress=3), _injury(Fault.PROXY, 30.0)]
    calm, ingress, proxy = figures(samples, injuries, [0, 2, 1])
    assert (calm.fault, calm.accepted, calm.answered, calm.whole_after_s) == (None, 1, 1, None)
    assert (ingress.accepted, ingress.answered, ingress.drawn_again, ingress.failed_by_ingress) == (
        2,
        1,
        2,
        1,
    )
    assert (ingress.longest_wait_s, ingress.last_failure_after_s) == (6.0, 0.5)
    assert (proxy.accepted, proxy.answered, proxy.refused, proxy.failed_by_proxy) == (1, 1, 1, 1)
    assert json.loads(json.dumps(as_data([calm])))[0]["longest_wait_s"] == 0.5
    assert all(check.passed for check in checks_of(samples, injuries, [calm, ingress, proxy]))


@pytest.mark.parametrize(
    ("sample", "injury", "promise"),
    [
        (_sample(Outcome.FAILED, 11.0, Way.JOB), _injury(Fault.JOBS_REPLICA), "no accepted job is lost"),
        (_sample(Outcome.FAILED, 11.0), _injury(Fault.POOL_REPLICA), "none fails while a replica lives"),
        (_sample(Outcome.WRONG, 11.0), _injury(Fault.NODE), "every picture is the one asked for"),
        (
            _sample(Outcome.BY_INGRESS, 11.0),
            _injury(Fault.INGRESS_REPLICA, in_flight_at_ingress=0),
            "a dead ingress replica takes along no more than it had in hand",
        ),
        (
            _sample(Outcome.BY_INGRESS, 11.0),
            _injury(Fault.CONTROLLER),
            "nothing else breaks a connection",
        ),
        (_sample(Outcome.BY_PROXY, 11.0), _injury(Fault.POOL_REPLICA), "nothing else breaks a connection"),
        (
            _sample(Outcome.BY_PROXY, 11.0),
            _injury(Fault.PROXY, answers_after_s=61.0),
            "a dead proxy is replaced within 60 s",
        ),
        (
            _sample(Outcome.ANSWERED, 11.0),
            _injury(Fault.NODE, whole_after_s=None),
            "everything is whole again within 120 s",
        ),
    ],
)
def test_a_promise_that_was_not_kept_is_named(sample: Sample, injury: Injury, promise: str) -> None:
    checks = checks_of([sample], [injury], figures([sample], [injury], [0, 0]))
    assert [check.name for check in checks if not check.passed] == [promise]
