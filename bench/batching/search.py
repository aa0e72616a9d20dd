"""The highest load a server carries within the target: `Sweep` says what to measure next, `carried` what came out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from bench.batching.latency import Point

_SMALLER = 0.6
_LARGER = 1.25
_MOST_EXTRA = 4


class Sweep:
    """One server's loads: up the grid to the first miss, then closer to the crossing.

    Where the whole grid misses, or none of it does, it goes on below or above, a few times.

    Args:
        loads: The grid.
        target_s: Seconds the 99th percentile may take.
        refinements: Measurements between the last hit and the first miss.
    """

    def __init__(self, loads: Sequence[float], target_s: float, refinements: int) -> None:
        self._loads = sorted(loads)
        self._target_s = target_s
        self._refinements = refinements
        self.points: list[Point] = []

    def add(self, point: Point) -> None:
        """Notes what `next_load` came to."""
        self.points.append(point)

    def next_load(self) -> float | None:
        """The load to measure next, or None when done."""
        done = [point.load for point in self.points]
        hit, miss = bracket(self.points, self._target_s)
        extra = sum(load < self._loads[0] or load > self._loads[-1] for load in done)
        if miss is None:
            left = [load for load in self._loads if load not in done]
            if left:
                return left[0]
            return max(done) * _LARGER if extra < _MOST_EXTRA else None
        if hit is None:
            return miss.load * _SMALLER if extra < _MOST_EXTRA else None
        if len(self._refined()) >= self._refinements or math.isclose(hit.load, miss.load, rel_tol=0.01):
            return None
        return math.sqrt(hit.load * miss.load)

    def _refined(self) -> list[float]:
        """Loads measured between two others that were there before."""
        refined = []
        for index, point in enumerate(self.points):
            before = [other.load for other in self.points[:index]]
            if before and min(before) < point.load < max(before):
                refined.append(point.load)
        return refined


def bracket(points: Sequence[Point], target_s: float) -> tuple[Point | None, Point | None]:
    """The lowest miss and the highest hit below it; None for what there is not."""
    misses = [point for point in points if point.p99_s > target_s]
    miss = min(misses, key=lambda point: point.load, default=None)
    hits = [point for point in points if point not in misses and (miss is None or point.load < miss.load)]
    return max(hits, key=lambda point: point.load, default=None), miss


@dataclass(frozen=True, slots=True)
class Carried:
    """What a server carries.

    Attributes:
        load: The highest load within the target; 0 where nothing kept it.
        at_least: Whether nothing missed it, so that it may be more.
    """

    load: float
    at_least: bool = False


def carried(points: Sequence[Point], target_s: float) -> Carried:
    """The load at which the 99th percentile reaches the target, on a straight line in log latency."""
    hit, miss = bracket(points, target_s)
    if hit is None:
        return Carried(0.0)
    if miss is None:
        return Carried(hit.load, at_least=True)
    share = math.log(target_s / hit.p99_s) / math.log(miss.p99_s / hit.p99_s)
    return Carried(hit.load + share * (miss.load - hit.load))
