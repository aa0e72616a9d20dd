"""Percentiles and the search for the highest load within the target."""

from __future__ import annotations

import pytest

from bench.batching.latency import Point, bootstrap_interval, late_allowed, percentile
from bench.batching.search import Carried, Sweep, carried


def _point(load: float, p99_s: float) -> Point:
    return Point("engine", load, load, 2, (0.1, p99_s), given_up=False, elapsed_s=1.0)


def _measure(sweep: Sweep, capacity: float) -> list[float]:
    """A queue whose latency grows without bound at `capacity`."""
    while (load := sweep.next_load()) is not None:
        sweep.add(_point(load, 1 / (capacity - load) if load < capacity else 1000.0))
    return [point.load for point in sweep.points]


def test_percentile_is_the_nearest_rank() -> None:
    values = [float(n) for n in range(200, 0, -1)]
    assert percentile(values) == 198.0
    assert late_allowed(200) == 2
    assert percentile(values[:50]) == 200.0
    assert late_allowed(50) == 0
    assert percentile([7.0], 0.5) == 7.0


def test_a_run_that_was_given_up_has_a_lower_bound() -> None:
    partly = Point("serial", 2.0, 2.0, 200, (1.0, 5.0, 4.0, 3.0), given_up=True, elapsed_s=1.0)
    assert partly.p99_s == 3.0  # two of 200 may be later


def test_the_interval_holds_the_percentile_and_shrinks_with_more_requests() -> None:
    few = [n % 10 / 10 for n in range(20)]
    many = [n % 10 / 10 for n in range(2000)]
    widths = []
    for values in (few, many):
        low, high = bootstrap_interval(values, 0.5)
        assert low <= percentile(values, 0.5) <= high
        widths.append(high - low)
    assert widths[1] <= widths[0]


def test_a_sweep_goes_up_to_the_first_miss_and_then_closer() -> None:
    loads = _measure(Sweep([0.5, 1.0, 1.5, 2.0, 3.0], target_s=2.0, refinements=2), capacity=1.8)
    assert loads[:3] == [0.5, 1.0, 1.5]
    assert len(loads) == 5
    assert all(1.0 < load < 1.5 for load in loads[3:])
    assert 3.0 not in loads


def test_a_sweep_goes_on_beyond_a_grid_that_only_hits_or_only_misses() -> None:
    above = _measure(Sweep([0.5, 1.0], target_s=2.0, refinements=0), capacity=2.3)
    assert max(above) > 1.8
    below = _measure(Sweep([1.0, 2.0], target_s=2.0, refinements=0), capacity=0.8)
    assert min(below) < 0.3
    assert 2.0 not in below
    endless = _measure(Sweep([1.0], target_s=2.0, refinements=2), capacity=1e9)
    assert len(endless) < 10


def test_a_sweep_goes_on_where_it_was() -> None:
    whole = Sweep([0.5, 1.0, 1.5], target_s=2.0, refinements=2)
    loads = _measure(whole, capacity=1.4)
    again = Sweep([0.5, 1.0, 1.5], target_s=2.0, refinements=2)
    for point in whole.points[:2]:
        again.add(point)
    assert _measure(again, capacity=1.4) == pytest.approx(loads)


def test_what_is_carried_lies_between_the_last_hit_and_the_first_miss() -> None:
    points = [_point(1.0, 1.0), _point(2.0, 4.0), _point(3.0, 0.5)]
    assert carried(points, 2.0).load == pytest.approx(1.5)
    assert carried(points[1:2], 2.0) == Carried(0.0)
    assert carried(points[:1], 2.0) == Carried(1.0, at_least=True)
    assert carried([_point(1.0, 2.0), _point(2.0, 4.0)], 2.0).load == pytest.approx(1.0)
