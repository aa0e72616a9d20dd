"""Load on a running service as strangers make it: arrivals of a Poisson process that wait for nobody's answer.

Latency counts from the moment a request was due, not from when it was sent, so a service (or this machine) that stalls
does not make its own measurement look better.
"""

from __future__ import annotations

import asyncio
import random
import re
import statistics
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import httpx

PERCENTILES = (50, 90, 95, 99)
REFUSALS = frozenset({"429", "503"})

PROMPTS = (
    "a red star on a blue background",
    "a yellow heart on the left",
    "a green cat on the beach",
    "a blue boat at sea",
    "an astronaut is dancing on green grass, sunlit",
)


class Answer(Protocol):
    """What the load looks at of an answer; `httpx.Response` has it."""

    @property
    def status_code(self) -> int:
        """HTTP status."""
        ...

    @property
    def headers(self) -> Mapping[str, str]:
        """Headers, whatever the case of their names."""
        ...


class Client(Protocol):
    """What sends; `httpx.AsyncClient` does, and a benchmark may bring one that takes less of the machine."""

    async def get(self, url: str, *, params: Mapping[str, Any]) -> Answer:
        """Asks and reads the whole answer, however long it takes.

        Raises:
            httpx.TransportError: There was no answer.
        """
        ...


@dataclass(frozen=True, slots=True)
class Load:
    """What is asked for.

    Attributes:
        rate: Requests per second, on average.
        duration_s: Seconds of arrivals; answers may come later.
        query: Parameters of ``GET /imagine`` beside prompt and seed.
        prompts: Taken in turn.
        timeout_s: Longest wait for one answer.
        seed: Of the arrivals and of the pictures' seeds: the same seed is the same load.
        max_in_flight: Most requests without an answer; what is due beyond them is counted as not sent.
    """

    rate: float
    duration_s: float
    query: dict[str, str | int | float] = field(default_factory=dict)
    prompts: Sequence[str] = PROMPTS
    timeout_s: float = 600.0
    seed: int = 0
    max_in_flight: int = 2000

    def arrivals(self) -> list[tuple[float, dict[str, str | int | float]]]:
        """(seconds from the start, query) of every request."""
        chance = random.Random(self.seed)
        found: list[tuple[float, dict[str, str | int | float]]] = []
        due = chance.expovariate(self.rate)
        while due < self.duration_s:
            prompt = self.prompts[len(found) % len(self.prompts)]
            found.append((due, {**self.query, "prompt": prompt, "seed": chance.randrange(2**32)}))
            due += chance.expovariate(self.rate)
        return found


@dataclass(frozen=True, slots=True)
class Sample:
    """One request.

    Attributes:
        due_s: When it was due, in seconds from the start.
        sent_late_s: How much later it was sent; above some milliseconds this machine is the bottleneck.
        latency_s: Seconds from when it was due to the end of the answer.
        outcome: HTTP status, ``timeout``, ``not sent``, or the name of the connection's error.
        pool: That drew it, or empty.
        stages: Seconds of each stage, from ``Server-Timing``.
        cost: From ``X-Cost``.
        retry_after_s: From the ``Retry-After`` of a refusal, or None.
    """

    due_s: float
    sent_late_s: float
    latency_s: float
    outcome: str
    pool: str = ""
    stages: dict[str, float] = field(default_factory=dict)
    cost: float = 0.0
    retry_after_s: float | None = None

    @property
    def answered(self) -> bool:
        """Whether a picture came."""
        return self.outcome == "200"

    @property
    def refused(self) -> bool:
        """Whether the service said politely that it has too much to do."""
        return self.outcome in REFUSALS

    @property
    def ended_s(self) -> float:
        """When its answer was there, in seconds from the start."""
        return self.due_s + self.latency_s


async def run(load: Load, client: Client, on_sample: Callable[[Sample], None] | None = None) -> list[Sample]:
    """Puts `load` on the service that is the client's ``base_url``.

    Args:
        load: What to ask for.
        client: Without a limit on connections, or on the time of an answer.
        on_sample: Told of every answer.

    Returns:
        All requests, in the order in which they were due.
    """
    began = time.monotonic()
    tasks: list[asyncio.Task[Sample]] = []
    in_flight: set[asyncio.Task[Sample]] = set()
    for due_s, query in load.arrivals():
        await asyncio.sleep(max(0.0, began + due_s - time.monotonic()))
        full = len(in_flight) >= load.max_in_flight
        work = _not_sent(due_s) if full else _ask(client, query, began, due_s, load.timeout_s)
        task = asyncio.create_task(work)
        tasks.append(task)
        in_flight.add(task)
        task.add_done_callback(in_flight.discard)
        if on_sample is not None:
            task.add_done_callback(lambda done: None if done.cancelled() else on_sample(done.result()))
    return await asyncio.gather(*tasks)


async def _not_sent(due_s: float) -> Sample:
    return Sample(due_s, 0.0, 0.0, "not sent")


async def _ask(client: Client, query: dict[str, Any], began: float, due_s: float, timeout_s: float) -> Sample:
    late_s = time.monotonic() - began - due_s
    headers: Mapping[str, str] = {}
    try:
        async with asyncio.timeout(timeout_s):
            answer = await client.get("imagine", params=query)
        outcome, headers = str(answer.status_code), answer.headers
    except TimeoutError:
        outcome = "timeout"
    except httpx.TransportError as error:
        outcome = type(error).__name__
    return Sample(
        due_s=due_s,
        sent_late_s=late_s,
        latency_s=time.monotonic() - began - due_s,
        outcome=outcome,
        pool=headers.get("x-pool", ""),
        stages=_stages(headers.get("server-timing", "")),
        cost=_number(headers.get("x-cost", "")) or 0.0,
        retry_after_s=_number(headers.get("retry-after", "")),
    )


def _stages(header: str) -> dict[str, float]:
    """Seconds by name of a ``Server-Timing`` header."""
    return {name: float(ms) / 1000 for name, ms in re.findall(r"([\w-]+);dur=([0-9.]+)", header)}


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def summary(load: Load, samples: Sequence[Sample]) -> dict[str, Any]:
    """The figures of a run, for people and machines alike; seconds everywhere."""
    answered = [sample for sample in samples if sample.answered]
    refused = [sample for sample in samples if sample.refused]
    end_s = max([load.duration_s, *(sample.ended_s for sample in answered)])
    stages = sorted({stage for sample in answered for stage in sample.stages})
    return {
        "offered_per_s": load.rate,
        "duration_s": load.duration_s,
        "seed": load.seed,
        "requests": len(samples),
        "answered": len(answered),
        "refused": len(refused),
        "failed": len(samples) - len(answered) - len(refused),
        "outcomes": dict(Counter(sample.outcome for sample in samples)),
        "answered_per_s": round(len(answered) / end_s, 4),
        "latency_s": percentiles([sample.latency_s for sample in answered]),
        "refusal_s": percentiles([sample.latency_s for sample in refused]),
        "retry_after_s": percentiles(
            [sample.retry_after_s for sample in refused if sample.retry_after_s is not None]
        ),
        "stage_mean_s": {
            stage: round(statistics.fmean(sample.stages.get(stage, 0.0) for sample in answered), 4)
            for stage in stages
        },
        "pools": dict(Counter(sample.pool for sample in answered)),
        "cost": round(sum(sample.cost for sample in answered), 8),
        "sent_late_s": percentiles(
            [sample.sent_late_s for sample in samples if sample.outcome != "not sent"]
        ),
    }


def percentiles(values: Sequence[float]) -> dict[str, float]:
    """Mean, `PERCENTILES` (nearest rank: values that were seen) and the largest; empty for nothing."""
    if not values:
        return {}
    ordered = sorted(values)
    ranks = {f"p{p}": ordered[max(0, -(-len(ordered) * p // 100) - 1)] for p in PERCENTILES}
    found = {"mean": statistics.fmean(ordered), **ranks, "max": ordered[-1]}
    return {name: round(value, 4) for name, value in found.items()}
