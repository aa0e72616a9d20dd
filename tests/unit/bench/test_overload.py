"""Overload: its figures and aims, and a short run against a service in this process that has little room."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bench import whole_service
from bench.overload import measure
from bench.overload_figures import aims_of, overload_figures, process_figures
from bench.whole_service import ProcessReading, drawing_threads, pool_for, process_name, serve_actors
from serve_app.cpu_topology import Core
from serve_app.errors import QueueFull
from serve_app.fake_service import FakeImageService
from serve_app.load_test import Sample
from serve_app.request import RequestDraft
from serve_app.result import GenerationResult, StepProgress
from serve_app.settings import Settings, StoreSettings
from tests.unit.api.conftest import served


def _samples() -> list[Sample]:
    """Ten seconds: a picture every half second, and four times as many refusals."""
    drawn = [Sample(number / 2, 0.0, 1.0, "200") for number in range(20)]
    refused = [Sample(number / 8, 0.03, 0.04, "503", retry_after_s=2.0) for number in range(80)]
    return [*drawn, *refused]


def test_goodput_is_what_ended_in_time_within_the_counted_seconds() -> None:
    figures = overload_figures(_samples(), capacity_per_s=2.0, bound_s=1.5, settle_s=2.0, seconds=10.0)
    assert figures["goodput_per_s"] == pytest.approx(2.0)  # those that ended from 2.0 to 9.5
    assert figures["goodput_share"] == 1.0
    assert (figures["requests"], figures["failed"], figures["beyond_bound"]) == (100, 0, 0)
    assert figures["accepted_s"]["p99"] == 1.0
    assert figures["refusal_s"]["p99"] == pytest.approx(0.01)  # from when it was sent
    assert figures["retry_after_least_s"] == figures["retry_after_s"]["max"] == 2.0
    flat = [_reading("raylet", 1, 50)]
    assert all(aim.met for aim in aims_of([figures | {"processes": process_figures(flat, flat, flat, 10.0)}]))
    assert not aims_of([figures | {"processes": []}])[4].met
    late = overload_figures(_samples(), capacity_per_s=2.0, bound_s=0.5, settle_s=2.0, seconds=10.0)
    assert late["goodput_per_s"] == 0.0
    assert late["beyond_bound"] == 20


def _round(samples: list[Sample], capacity_per_s: float = 2.0, grown_mib: float = 4.0) -> dict[str, Any]:
    figures = overload_figures(
        samples, capacity_per_s=capacity_per_s, bound_s=1.5, settle_s=2.0, seconds=10.0
    )
    before, middle, after = ([_reading("raylet", 1, mib)] for mib in (50, 100, 100 + grown_mib))
    return figures | {"processes": process_figures(before, middle, after, 10.0)}


def _missed(*rounds: dict[str, Any]) -> list[int]:
    return [number for number, aim in enumerate(aims_of(rounds)) if not aim.met]


def test_each_aim_can_be_missed() -> None:
    good = _samples()
    bad = [
        _round(good, capacity_per_s=2.2),
        _round([*good[:-1], replace(good[0], latency_s=9.0)]),
        _round([replace(one, latency_s=0.2) if one.refused else one for one in good]),
        _round([*good, Sample(1.0, 0.0, 0.1, "500")]),
        _round(good, grown_mib=6.0),
    ]
    assert [_missed(one) for one in bad] == [[0], [1], [2], [3], [4]]
    assert _missed(_round([*good, Sample(1.0, 0.0, 0.01, "503")])) == [3]  # without Retry-After
    assert _missed(_round([])) == [0, 1, 2]


def test_of_goodput_the_mean_of_all_rounds_counts_and_of_all_else_the_worst() -> None:
    good = _round(_samples())
    assert _missed(good, _round(_samples(), capacity_per_s=2.2)) == [], "95.5 % of it"
    assert _missed(good, _round(_samples(), capacity_per_s=2.3)) == [0]
    assert "95.5% (100.0%, 90.9%)" in aims_of([good, _round(_samples(), capacity_per_s=2.2)])[0].seen
    late = _round([*_samples()[:-1], replace(_samples()[0], latency_s=9.0)])
    assert _missed(good, late) == _missed(late, good) == [1]
    assert _missed(good, _round(_samples(), grown_mib=6.0), good) == [4]


def _reading(name: str, pid: int, mib: float, cpu_s: float = 1.0) -> ProcessReading:
    return ProcessReading(pid, name, int(mib * 2**20), threads=3, files=4, cpu_s=cpu_s)


def test_processes_are_compared_with_themselves() -> None:
    before = [
        _reading("raylet", 1, 50),
        _reading("ServeReplica:imagine:default", 2, 700),
        _reading("IDLE", 3, 60),
    ]
    after = [
        _reading("raylet", 1, 51, 2.5),
        _reading("ServeReplica:imagine:default", 2, 690),
        _reading("new", 4, 9),
    ]
    middle = [*after, before[2]]
    replica, raylet = process_figures(before, middle, after, 10.0)
    assert (replica["process"], replica["grown_mib"]) == ("ServeReplica:imagine:default", -10.0)
    assert [raylet[f"rss_{when}_mib"] for when in ("before", "middle", "after")] == [50.0, 51.0, 51.0]
    assert raylet["cores"] == 0.15
    assert serve_actors(before) == {"ServeReplica:imagine:default": 1}


def test_processes_are_named_by_what_they_are() -> None:
    assert process_name(["ray::ServeReplica:imagine:Ingress"]) == "ServeReplica:imagine:Ingress"
    assert process_name(["ray::ProxyActor.handle_request", ""]) == "ProxyActor"
    assert process_name(["/x/ray/core/src/ray/raylet/raylet", "--raylet_socket_name=y"]) == "raylet"
    assert process_name(["/usr/bin/python3.11", "-u", "/x/ray/_private/log_monitor.py"]) == "log monitor"
    assert process_name(["/usr/bin/sleep", "5"]) == "sleep"
    assert process_name([]) == "ended"


def test_the_fake_pipeline_has_an_accelerator_of_its_own() -> None:
    assert pool_for("fake", max_queue_s=3.0).accelerator == "fake"
    assert pool_for("small-sdxl").accelerator == "auto"


@pytest.mark.parametrize(
    ("nodes", "quota", "threads"),
    [
        ([0], None, 1),
        ([0, 0], None, 1),
        ([0] * 8, None, 7),
        ([0] * 8, 3.0, 2),
        ([0] * 4 + [1] * 4, None, 4),
        ([0, 0, 0, 1], None, 3),
    ],
)
def test_a_core_is_left_to_those_who_serve(
    monkeypatch: pytest.MonkeyPatch, nodes: list[int], quota: float | None, threads: int
) -> None:
    cores = tuple(Core(node, (cpu,)) for cpu, node in enumerate(nodes))
    monkeypatch.setattr(whole_service, "physical_cores", lambda: cores)
    monkeypatch.setattr(whole_service, "quota_cpus", lambda: quota)
    assert drawing_threads(pool_for("small-sdxl", accelerator="cpu")) == threads
    assert drawing_threads(pool_for("fake")) is None


class _Cramped(FakeImageService):
    """Draws four at a time and refuses the rest."""

    under_way = 0

    async def stream(
        self, draft: RequestDraft, *, progress: bool = False
    ) -> AsyncGenerator[StepProgress | GenerationResult, None]:
        if self.under_way >= 4:
            raise QueueFull("full", 1.5)
        self.under_way += 1
        try:
            async for event in super().stream(draft, progress=progress):
                yield event
        finally:
            self.under_way -= 1


@pytest.fixture
def cramped_url(tmp_path: Path) -> Iterator[str]:
    service = _Cramped(Settings(store=StoreSettings(url=str(tmp_path))), delay_s=0.02)
    with served(service) as url:
        yield url


async def test_a_short_overload(cramped_url: str) -> None:
    figures = await measure(
        cramped_url,
        {"width": 64, "height": 64, "num_inference_steps": 4},
        bound_s=30.0,
        factor=4.0,
        seconds=1.5,
        capacity_seconds=1.0,
        clients=5,  # one of them is refused, and comes again
    )
    outcomes = figures["outcomes"]
    assert set(outcomes) == {"200", "503"}
    assert outcomes["503"] > outcomes["200"] > 0
    before, after = figures["capacity_before_per_s"], figures["capacity_after_per_s"]
    assert figures["offered_per_s"] == pytest.approx(4 * before, rel=0.01)
    assert after > 0
    assert figures["capacity_per_s"] == pytest.approx((before + after) / 2, rel=0.01)
    assert figures["lone_s"] >= 0.08
    assert figures["retry_after_least_s"] == 2.0  # whole seconds
    assert figures["goodput_share"] == pytest.approx(
        figures["goodput_per_s"] / figures["capacity_per_s"], rel=0.01
    )
    assert 0 < figures["goodput_share"] < 4.0
    assert figures["client_cores"] > 0
    assert aims_of([figures])[3].met
