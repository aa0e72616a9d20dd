"""A whole measurement, with drawing that only sleeps."""

from __future__ import annotations

import io
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast

from rich.console import Console

from bench.batching.measure import Measurement
from bench.batching.results import SERVERS, Results, read_results
from bench.batching.servers import EngineServer, Server, StaticServer
from bench.batching.static import StaticBatching
from bench.batching.workloads import Job, Kind, Workload
from serve_app.capabilities import PoolFacts
from serve_app.engine.fake import FakePipeline

if TYPE_CHECKING:
    from bench.batching.rig import Rig

STEP_S = 0.004
WORKLOAD = Workload("few", "1 or 4 steps", (Kind(64, 64, 1, 0.0), Kind(64, 64, 4, 0.0)))
OPTIONS = {
    "side": 64,
    "loads": [0.5, 4.0],
    "refinements": 1,
    "target": 3.0,
    "requests": 10,
    "point_s": 1.0,
    "seed": 0,
}


class _SleepingRig:
    """A device whose steps take as long whatever the rows: batching is for nothing."""

    max_rows = 8

    def _draw(self, jobs: Sequence[Job]) -> list[bytes]:
        time.sleep(STEP_S * jobs[0].kind.steps)
        return [bytes(3 * job.kind.width * job.kind.height) for job in jobs]

    def call_s(self, kind: Kind, pictures: int) -> float:
        began = time.perf_counter()
        self._draw([Job(0, 0.0, kind, "x", 0)] * pictures)
        return time.perf_counter() - began

    def static_server(self, batching: StaticBatching) -> Server:
        return StaticServer(self._draw, batching)

    def engine_server(self) -> Server:
        pipeline = FakePipeline(step_s=STEP_S)
        facts = PoolFacts("fake", "fake", "cpu", pipeline.defaults, pipeline.capabilities)
        return EngineServer(pipeline, facts, self.max_rows)


def _measure(results: Results, file: Path) -> str:
    told = io.StringIO()
    rig = cast("Rig", _SleepingRig())
    Measurement(rig, results, file, Console(file=told, width=200)).sweep(WORKLOAD)
    return told.getvalue()


def test_a_sweep_measures_every_server_and_goes_on_where_it_stopped(tmp_path: Path) -> None:
    file = tmp_path / "results.json"
    _measure(Results(OPTIONS), file)
    results = read_results(file)
    sweep = results.sweeps["few"]
    assert sweep.requests == 10
    assert {point.server for point in sweep.points} == set(SERVERS)
    assert sweep.batching["greedy"][0] > 1
    assert sweep.batching["windowed"][1] > 0
    assert all(point.rate_per_s == point.load * sweep.capacity_per_s for point in sweep.points)
    assert "mean" not in _measure(results, file)  # nothing is left to do
    measured = len(sweep.points)
    del sweep.points[-2:]
    assert "mean" in _measure(results, file)
    assert len(read_results(file).sweeps["few"].points) > measured - 2
