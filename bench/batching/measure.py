"""`Measurement`: tunes, sweeps and times the servers of one rig, and notes each result as it comes."""

from __future__ import annotations

import gc
import math
import statistics
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from bench.batching import long_among_short
from bench.batching.latency import Point
from bench.batching.open_loop import Played, play
from bench.batching.results import SERVERS, Results, SweepResult
from bench.batching.search import Sweep
from bench.batching.servers import Server
from bench.batching.static import StaticBatching
from bench.batching.tuning import measure_calls, tune
from bench.batching.workloads import Job, Kind, Workload, trace
from bench.engine_overhead import measure_tick_overhead
from bench.stolen_time import DISTURBED_S, least_disturbed

if TYPE_CHECKING:
    from bench.batching.rig import Rig  # which imports torch

_FEWEST_REQUESTS, _MOST_REQUESTS = 40, 400
_SOLO_REPEATS = 3
_ROUNDS = 4


class Measurement:
    """All of one device.

    Args:
        rig: Stock and ours.
        results: What is there already, and where new results go.
        file: Of the results.
        console: Tells how far it is.
    """

    def __init__(self, rig: Rig, results: Results, file: Path, console: Console) -> None:
        self._rig = rig
        self._results = results
        self._file = file
        self._console = console
        self._options = results.options

    def overhead(self) -> None:
        """The engine's own time per tick."""
        if self._results.overhead is None:
            self._results.overhead = measure_tick_overhead()
            self._results.write(self._file)

    def sweep(self, workload: Workload) -> None:
        """All servers over the loads, in turns, so that a slow minute of the machine hits all of them."""
        result = self._results.sweeps.get(workload.name) or self._prepare(workload)
        self._results.sweeps[workload.name] = result
        self._results.write(self._file)
        self._console.print(
            f"[bold]{workload.title}[/bold]: {result.requests} requests a point, "
            f"load 1 is {result.capacity_per_s:.3g}/s, p99 target {result.target_s:.2f} s"
        )
        makers = self._makers(result)
        for name in SERVERS:
            self._warm_up(workload, makers[name])
        # A full collection of all that two pipelines loaded takes a third of a second of whoever is measured then.
        gc.collect()
        gc.freeze()
        plan = {
            name: Sweep(self._options["loads"], result.target_s, self._options["refinements"])
            for name in SERVERS
        }
        for point in result.points:
            plan[point.server].add(point)
        while True:
            wanted = {name: load for name in SERVERS if (load := plan[name].next_load()) is not None}
            if not wanted:
                return
            name = min(wanted, key=lambda server: wanted[server])
            load = wanted[name]
            rate = load * result.capacity_per_s
            jobs = trace(
                workload.kinds, result.requests, rate, seed=self._options["seed"], label=f"{load:.4f}"
            )
            run = partial(_play, makers[name], jobs, result.target_s)
            played, stolen_s = least_disturbed(run)
            point = Point(
                name, load, rate, len(jobs), played.latencies_s, played.given_up, played.elapsed_s, stolen_s
            )
            plan[name].add(point)
            result.points.append(point)
            self._results.write(self._file)
            least = "at least " if point.given_up else ""
            self._console.print(
                f"  {name:8} load {load:.2f} ({rate:.2f}/s): mean {point.mean_s:.2f} s, "
                f"p99 {least}{point.p99_s:.2f} s{_disturbance(point)}"
            )

    def long_among_short(self) -> None:
        """Short requests while a long one is drawn."""
        done = self._results.fairness
        # Greedy and windowed as they come: whatever the tuning, a batch is not left before its last step.
        makers = self._makers(None)
        for name in SERVERS:
            if name not in done:
                done[name] = long_among_short.measure(
                    name,
                    makers[name],
                    side=self._options["side"],
                    count=_ROUNDS,
                    seed=self._options["seed"],
                    span_s=done["serial"].long_solo_s if "serial" in done else None,
                )
                self._results.write(self._file)
                figures = done[name]
                self._console.print(
                    f"  {name:8} short alone {figures.solo_s:.2f} s, behind a long one "
                    f"{statistics.median(figures.short_s):.2f} s, worst {max(figures.short_s):.2f} s"
                )

    def _prepare(self, workload: Workload) -> SweepResult:
        """Times plain diffusers, sets load 1, the target and the number of requests, and tunes the others."""
        with self._console.status(f"{workload.title}: timing plain diffusers and tuning static batching"):
            calls = measure_calls(workload.kinds, self._rig.call_s)
            solo = {
                kind: statistics.median(self._rig.call_s(kind, 1) for _ in range(_SOLO_REPEATS))
                for kind in workload.kinds
            }
            capacity = 1 / statistics.mean(solo.values())
            target_s = self._options["target"] * max(solo.values())
            requests = self._options["requests"] or _whole(self._options["point_s"] * capacity)
            settings = {"serial": "one at a time", "engine": f"up to {self._rig.max_rows} rows"}
            batching = {"serial": (1, 0.0)}
            for name in ("greedy", "windowed"):
                tuned = tune(
                    workload.kinds,
                    calls,
                    capacity_per_s=capacity,
                    target_s=target_s,
                    windowed=name == "windowed",
                    seed=self._options["seed"] + 1,  # not the arrivals that will be measured
                )
                batching[name] = (tuned.batching.max_batch, tuned.batching.window_s)
                settings[name] = f"{tuned.batching} (model: load {tuned.load:.2f})"
        return SweepResult(
            workload.title,
            requests,
            {str(kind): seconds for kind, seconds in solo.items()},
            capacity,
            target_s,
            settings,
            batching,
        )

    def _makers(self, result: SweepResult | None) -> dict[str, Callable[[], Server]]:
        """A fresh server for each run."""

        def static(name: str) -> Callable[[], Server]:
            size, window_s = result.batching[name] if result else _UNTUNED[name]
            return lambda: self._rig.static_server(StaticBatching(size, window_s))

        return {name: self._rig.engine_server if name == "engine" else static(name) for name in SERVERS}

    def _warm_up(self, workload: Workload, make: Callable[[], Server]) -> None:
        """Whatever is compiled or allocated at a shape's first use, alone and in a batch."""
        shapes = {(kind.width, kind.height, kind.guidance_scale) for kind in workload.kinds}
        for width, height, guidance_scale in shapes:
            kind = Kind(width, height, 2, guidance_scale)
            for pictures in (1, 2, 8):
                play(make(), trace([kind], pictures, 1000.0, seed=0, label="warm"))


def _play(make: Callable[[], Server], jobs: Sequence[Job], target_s: float) -> Played:
    return play(make(), jobs, target_s)


def _disturbance(point: Point) -> str:
    if point.stolen_s <= DISTURBED_S:
        return ""
    return (
        f" (disturbed: of a second, {point.stolen_s:.2f} s of processor time were not given to this machine)"
    )


_UNTUNED = {"serial": (1, 0.0), "greedy": (8, 0.0), "windowed": (8, 0.05)}


def _whole(requests: float) -> int:
    return min(_MOST_REQUESTS, max(_FEWEST_REQUESTS, math.ceil(requests)))
