"""`Results`: all that was measured, in one JSON file that is written after each point, so that a run can go on."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from bench.batching.latency import Point
from bench.batching.long_among_short import Fairness

SERVERS = ("serial", "greedy", "windowed", "engine")


@dataclass
class SweepResult:
    """One workload on one device.

    Attributes:
        title: For people.
        requests: Of each point.
        solo_s: By kind, seconds of a picture alone on plain diffusers.
        capacity_per_s: Pictures per second of plain diffusers without a pause: load 1.
        target_s: Seconds the 99th percentile may take.
        settings: By server, its tuning in words.
        batching: By static server, largest batch and window in seconds.
        points: In the order of measuring.
    """

    title: str
    requests: int
    solo_s: dict[str, float]
    capacity_per_s: float
    target_s: float
    settings: dict[str, str]
    batching: dict[str, tuple[int, float]]
    points: list[Point] = field(default_factory=list)

    def of(self, server: str) -> list[Point]:
        """One server's points, by load."""
        return sorted((p for p in self.points if p.server == server), key=lambda point: point.load)


@dataclass
class Results:
    """One device.

    Attributes:
        options: What must be the same for a run to go on.
        description: Device, model, dtype, threads.
        sweeps: By workload.
        fairness: By server.
        overhead: Of the engine; see `bench.engine_overhead.measure_tick_overhead`.
    """

    options: dict[str, Any]
    description: dict[str, Any] = field(default_factory=dict)
    sweeps: dict[str, SweepResult] = field(default_factory=dict)
    fairness: dict[str, Fairness] = field(default_factory=dict)
    overhead: dict[str, float] | None = None

    def write(self, file: Path) -> None:
        """Replaces the file."""
        fresh = file.with_suffix(".tmp")
        fresh.write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")
        fresh.replace(file)


def read_results(file: Path) -> Results:
    """What `Results.write` wrote.

    Raises:
        OSError: It cannot be read.
    """
    content: Mapping[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    sweeps = {}
    for name, sweep in content["sweeps"].items():
        points = [Point(**{**point, "latencies_s": tuple(point["latencies_s"])}) for point in sweep["points"]]
        batching = {
            server: (int(size), float(window)) for server, (size, window) in sweep["batching"].items()
        }
        sweeps[name] = SweepResult(**{**sweep, "points": points, "batching": batching})
    lists = ("short_s", "long_s", "busy_s")
    fairness = {
        server: Fairness(**{**figures, **{name: tuple(figures[name]) for name in lists}})
        for server, figures in content["fairness"].items()
    }
    return Results(content["options"], content["description"], sweeps, fairness, content["overhead"])
