"""Percentiles of latencies, and `Point`: what one run of one server at one load gave."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

QUANTILE = 0.99
_RESAMPLES = 400


def percentile(values: Sequence[float], quantile: float = QUANTILE) -> float:
    """The smallest value that at least `quantile` of all do not exceed (nearest rank)."""
    return sorted(values)[math.ceil(quantile * len(values)) - 1]


def late_allowed(requests: int, quantile: float = QUANTILE) -> int:
    """How many of `requests` may miss a target that the quantile still keeps."""
    return requests - math.ceil(quantile * requests)


def bootstrap_interval(values: Sequence[float], quantile: float = QUANTILE) -> tuple[float, float]:
    """The middle 90 % of the percentile over resampled blocks (neighbours wait in the same queue).

    Args:
        values: In the order of arrival.
        quantile: Which percentile.
    """
    size = max(1, math.isqrt(len(values)))
    ring = [*values, *values[: size - 1]]
    blocks = -(-len(values) // size)
    chance = random.Random(0)
    found = []
    for _ in range(_RESAMPLES):
        starts = [chance.randrange(len(values)) for _ in range(blocks)]
        sample = [value for start in starts for value in ring[start : start + size]]
        found.append(percentile(sample[: len(values)], quantile))
    return percentile(found, 0.05), percentile(found, 0.95)


@dataclass(frozen=True, slots=True)
class Point:
    """One run.

    Attributes:
        server: Which.
        load: Arrivals over the serial capacity.
        rate_per_s: Arrivals per second.
        requests: Of the whole trace.
        latencies_s: In the order of arrival; of a run that was given up, only of what was sent by then, and the age
            of what was unfinished.
        given_up: Whether the run ended early because the target was far out of reach.
        elapsed_s: Seconds from the start to the last picture.
        stolen_s: The most processor time that a host took away within a second of it (`bench.stolen_time`).
    """

    server: str
    load: float
    rate_per_s: float
    requests: int
    latencies_s: tuple[float, ...]
    given_up: bool
    elapsed_s: float
    stolen_s: float = 0.0

    @property
    def p99_s(self) -> float:
        """99th percentile of the latency of all requests, in seconds; a lower bound when given up."""
        return sorted(self.latencies_s)[-1 - late_allowed(self.requests)]

    @property
    def mean_s(self) -> float:
        """Mean latency in seconds; as far as it got when given up."""
        return sum(self.latencies_s) / len(self.latencies_s)
