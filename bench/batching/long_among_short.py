"""One long job among short ones: what a short request's latency is while a long one is being drawn."""

from __future__ import annotations

import random
import statistics
from collections.abc import Callable
from dataclasses import dataclass

from bench.batching.open_loop import play
from bench.batching.servers import Server
from bench.batching.workloads import GUIDANCE_SCALE, Job, Kind

ALLOWED_RATIO = 1.3
SHORTS_PER_ROUND = 4
_SOLO_REPEATS = 5
_BUSY_SHARE = 0.8  # of the long job's time alone, within which the short ones arrive


def short_kind(side: int) -> Kind:
    """4 steps, unguided."""
    return Kind(side, side, 4, 0.0)


def long_kind(side: int) -> Kind:
    """50 steps, guided."""
    return Kind(side, side, 50, GUIDANCE_SCALE)


@dataclass(frozen=True, slots=True)
class Fairness:
    """One server's figures, in seconds.

    Attributes:
        server: Which.
        solo_s: A short request alone on this server, median.
        long_solo_s: A long one alone.
        step_s: One step of the long one.
        short_s: Latencies of the short ones while a long one was there.
        long_s: Latencies of the long ones.
        busy_s: Until everything was drawn, for each round.
    """

    server: str
    solo_s: float
    long_solo_s: float
    step_s: float
    short_s: tuple[float, ...]
    long_s: tuple[float, ...]
    busy_s: tuple[float, ...]

    @property
    def bound_s(self) -> float:
        """1.3 times alone, and one step of the long job."""
        return ALLOWED_RATIO * self.solo_s + self.step_s


def rounds(side: int, long_solo_s: float, count: int, *, seed: int) -> list[list[Job]]:
    """In each, a long job arrives first and short ones spread over its time, each in its own part of it.

    Args:
        side: Pixels.
        long_solo_s: Seconds of the long one alone.
        count: How many rounds.
        seed: Of all that is random.
    """
    chance = random.Random(seed)
    part_s = _BUSY_SHARE * long_solo_s / SHORTS_PER_ROUND
    result = []
    for number in range(count):
        arrivals = [0.0, *((part + chance.random()) * part_s for part in range(SHORTS_PER_ROUND))]
        kinds = [long_kind(side), *[short_kind(side)] * SHORTS_PER_ROUND]
        result.append(
            [
                Job(index, at_s, kind, f"a red star, round {number} {index}", chance.getrandbits(32))
                for index, (at_s, kind) in enumerate(zip(arrivals, kinds, strict=True))
            ]
        )
    return result


def measure(
    name: str,
    make_server: Callable[[], Server],
    *,
    side: int,
    count: int,
    seed: int,
    span_s: float | None = None,
) -> Fairness:
    """Times both kinds alone, then the rounds.

    Args:
        name: Of the server.
        make_server: One for each run.
        side: Pixels.
        count: Rounds.
        seed: Of the rounds.
        span_s: Seconds of a long job that the rounds are made for, the same for all servers; None: its own.
    """

    def alone(kind: Kind, repeats: int) -> float:
        seconds = []
        for number in range(repeats + 1):
            job = Job(number, 0.0, kind, f"a red star, {name} {kind} {number}", number)
            seconds.append(play(make_server(), [job]).latencies_s[0])
        return statistics.median(seconds[1:])  # the first one warms up

    long_one = long_kind(side)
    half = Kind(side, side, long_one.steps // 2, long_one.guidance_scale)
    solo_s = alone(short_kind(side), _SOLO_REPEATS)
    long_solo_s, half_s = alone(long_one, 2), alone(half, 2)
    traces = rounds(side, span_s or long_solo_s, count, seed=seed)
    played = [play(make_server(), jobs) for jobs in traces]
    return Fairness(
        server=name,
        solo_s=solo_s,
        long_solo_s=long_solo_s,
        step_s=max(0.0, (long_solo_s - half_s) / (long_one.steps - half.steps)),
        short_s=tuple(latency for run in played for latency in run.latencies_s[1:]),
        long_s=tuple(run.latencies_s[0] for run in played),
        busy_s=tuple(run.elapsed_s for run in played),
    )
