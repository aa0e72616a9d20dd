"""Traces played to real servers, with drawing that only sleeps."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import pytest

from bench.batching import long_among_short
from bench.batching.latency import Point
from bench.batching.open_loop import play
from bench.batching.results import Results, SweepResult, read_results
from bench.batching.servers import EngineServer, StaticServer
from bench.batching.static import StaticBatching
from bench.batching.workloads import Job, Kind
from serve_app.capabilities import PoolFacts
from serve_app.engine.fake import POISON_STEP, FakePipeline

KIND = Kind(64, 64, 4, 0.0)


class _Stock:
    def __init__(self, call_s: float) -> None:
        self.call_s = call_s
        self.calls: list[list[int]] = []

    def draw(self, jobs: Sequence[Job]) -> list[bytes]:
        self.calls.append([job.number for job in jobs])
        time.sleep(self.call_s)
        return [bytes(3 * job.kind.width * job.kind.height) for job in jobs]


def _jobs(*arrivals: float, kind: Kind = KIND, prompt: str = "x") -> list[Job]:
    return [Job(number, at_s, kind, prompt, number) for number, at_s in enumerate(arrivals)]


def _engine_server(pipeline: FakePipeline) -> EngineServer:
    facts = PoolFacts("fake", "fake", "cpu", pipeline.defaults, pipeline.capabilities)
    return EngineServer(pipeline, facts, max_rows=8)


def test_latency_counts_from_the_arrival_that_was_planned() -> None:
    played = play(StaticServer(_Stock(0.1).draw, StaticBatching(1)), _jobs(0.0, 0.01, 0.02))
    for latency, least in zip(played.latencies_s, (0.1, 0.19, 0.28), strict=True):
        assert least - 0.001 <= latency < least + 0.5
    assert not played.given_up


def test_greedy_draws_together_what_waited() -> None:
    stock = _Stock(0.4)
    play(StaticServer(stock.draw, StaticBatching(8)), _jobs(0.0, 0.02, 0.04))
    assert stock.calls == [[0], [1, 2]]


def test_windowed_waits_for_the_batch_to_fill_but_not_for_ever() -> None:
    stock = _Stock(0.0)
    played = play(StaticServer(stock.draw, StaticBatching(2, 4.0)), _jobs(0.0, 0.05, 0.1))
    assert stock.calls == [[0, 1], [2]]
    assert played.latencies_s[0] < 3.5, "it was full long before its window was over"
    # The server's clock starts a little before the client's.
    assert 3.5 <= played.latencies_s[2] < 15.0


def test_a_hopeless_run_is_given_up_and_says_at_least_how_late_it_was() -> None:
    stock = _Stock(0.05)
    played = play(StaticServer(stock.draw, StaticBatching(1)), _jobs(*[0.0] * 100), target_s=0.1)
    assert played.given_up
    assert len(stock.calls) < 20
    assert min(played.latencies_s) > 0
    point = Point("serial", 2.0, 1.0, 100, played.latencies_s, given_up=True, elapsed_s=played.elapsed_s)
    assert point.p99_s > 0.1


def test_the_engine_draws_a_trace() -> None:
    pipeline = FakePipeline(step_s=0.01)
    played = play(_engine_server(pipeline), _jobs(0.0, 0.0, 0.2))
    assert all(0.04 <= latency < 1.0 for latency in played.latencies_s)
    assert len(pipeline.batches) < 12  # steps were shared


def test_a_failed_picture_ends_the_run() -> None:
    with pytest.raises(RuntimeError, match="failed"):
        play(_engine_server(FakePipeline()), _jobs(0.0, prompt=POISON_STEP))

    def broken(jobs: Sequence[Job]) -> list[bytes]:
        raise ValueError("broken")

    with pytest.raises(RuntimeError, match="failed"):
        play(StaticServer(broken, StaticBatching(1)), _jobs(0.0))
    with pytest.raises(RuntimeError, match="failed"):
        play(StaticServer(lambda jobs: [b"short"] * len(jobs), StaticBatching(1)), _jobs(0.0))


def test_short_requests_arrive_while_the_long_one_runs() -> None:
    for jobs in long_among_short.rounds(64, 2.0, 3, seed=0):
        assert [job.kind.steps for job in jobs] == [50, 4, 4, 4, 4]
        assert all(earlier.at_s < job.at_s < 2.0 for earlier, job in pairwise(jobs))


def test_an_engine_lets_short_ones_pass_and_serial_does_not() -> None:
    figures = long_among_short.measure(
        "engine",
        lambda: _engine_server(FakePipeline(step_s=0.004)),
        side=64,
        count=1,
        seed=0,
    )
    assert 0.5 * figures.long_solo_s < 50 * figures.step_s < 1.5 * figures.long_solo_s
    assert statistics.median(figures.short_s) < figures.long_solo_s / 2

    def in_turn(jobs: Sequence[Job]) -> list[bytes]:
        time.sleep(0.004 * jobs[0].kind.steps)
        return [bytes(3 * 64 * 64) for _ in jobs]

    serial = long_among_short.measure(
        "serial",
        lambda: StaticServer(in_turn, StaticBatching(1)),
        side=64,
        count=1,
        seed=0,
        span_s=0.2,
    )
    assert max(serial.short_s) > 4 * serial.solo_s


def test_results_come_back_as_they_were_written(tmp_path: Path) -> None:
    point = Point("serial", 0.5, 1.0, 2, (0.1, 0.2), given_up=False, elapsed_s=2.0)
    sweep = SweepResult("x", 2, {"k": 1.0}, 2.0, 3.0, {"serial": "one"}, {"serial": (1, 0.0)}, [point])
    figures = long_among_short.Fairness("serial", 0.1, 1.0, 0.02, (0.2,), (1.1,), (1.2,))
    results = Results({"seed": 0}, {"device": "cpu"}, {"w": sweep}, {"serial": figures})
    results.write(tmp_path / "results.json")
    assert read_results(tmp_path / "results.json") == results
