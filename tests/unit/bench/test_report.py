"""What people see of the results."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from bench.batching import tables
from bench.batching.latency import Point
from bench.batching.long_among_short import Fairness
from bench.batching.results import SERVERS, Results, SweepResult

OVERHEAD = {"pictures": 16, "listened_median_us": 75.0, "pipeline_median_us": 5.0}


def _results() -> Results:
    points = []
    for server, capacity in zip(SERVERS, (1.0, 1.5, 1.5, 3.0), strict=True):
        for load in (0.5, capacity):
            late = load >= capacity
            latencies = (0.2, 3.0 if late else 0.75)
            points.append(Point(server, load, 2 * load, 2, latencies, given_up=late, elapsed_s=4.0))
    settings = dict.fromkeys(SERVERS, "as it is")
    sweep = SweepResult("some steps", 2, {"k": 0.5}, 2.0, 1.5, settings, {"serial": (1, 0.0)}, points)
    fairness = {
        name: Fairness(name, 0.1, 1.0, 0.02, (0.15, 0.2), (1.2,), (1.3,)) for name in ("serial", "engine")
    }
    description = {"device": "cpu", "dtype": "torch.float32"}
    return Results({}, description, {"few-steps": sweep}, fairness, OVERHEAD)


def test_the_tables_say_the_ratio_and_what_was_given_up() -> None:
    text = io.StringIO()
    tables.show(_results(), Console(file=text, width=200))
    # Halfway in log latency: serial at 0.75, greedy at 1.0, the engine at 1.75.
    assert "over the best of the others (greedy): 1.75" in text.getvalue()
    assert "> 3.00" in text.getvalue()
    assert "70 us a tick" in text.getvalue()
    engine = next(line for line in text.getvalue().splitlines() if line.strip().startswith("engine"))
    assert engine.split()[1:4] == ["3.5", "1.75", "2.33"]


def test_each_workload_gets_a_picture(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from bench.batching import plots

    written = plots.draw(_results(), tmp_path)
    assert [file.name for file in written] == ["few-steps.png", "long-among-short.png"]
    assert all(file.read_bytes().startswith(b"\x89PNG") for file in written)
