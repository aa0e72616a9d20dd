"""The whole service under random traffic for minutes or an hour, and what must not grow: ``bench.soak --service``."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from bench.service_traffic import PHASE_S, SIDES, Traffic
from bench.soak_checks import MIN_GROWTH_RUN_S, Check, flat_checks
from bench.soak_warm_up import ask_every_size
from bench.whole_service import (
    ProcessReading,
    http_client,
    pool_for,
    read_processes,
    serve_actors,
    whole_service,
)
from serve_app.settings import JobsSettings, Settings, StoreSettings

KEPT_S = 60.0
"""Pictures and records of jobs are kept for so long, so that what is stored stops growing soon."""

REST_S = 90.0
"""The service is watched for so long after the last request.

A local store makes a thread for each file that is touched at the same time, and ends those that had nothing to do for
10 s. While requests come, each has something to do now and then; when what is stored has run out too, only a thread
that is lost is still there.
"""

LEAST_FOR_MEMORY_S = 540.0
"""In less a replica still fills its caches: random requests take minutes to come in every size and number at once."""

_READINGS = 300
_PROBE_S = 6.0  # more than the client keeps a connection open for nothing
_QUIET_S = 90.0
_ANSWER_TIMEOUT_S = 900.0


@dataclass(frozen=True, slots=True)
class SoakReading:
    """The service at one time.

    Attributes:
        at_s: Seconds since the start.
        processes: All of its processes.
        stored_files: Files of the picture store.
    """

    at_s: float
    processes: Sequence[ProcessReading]
    stored_files: int


@dataclass(frozen=True, slots=True)
class Sum:
    """All processes of one name at one time, added up."""

    at_s: float
    rss_bytes: int
    threads: int
    files: int


class ServiceSoak:
    """One run against a service that is up.

    Args:
        client: Of the service.
        minutes: How long requests are sent.
        seed: Of all random choices.
        stored: Folder of the picture store.
        processes: Reads the service's processes.
    """

    def __init__(
        self,
        client: httpx.AsyncClient,
        *,
        minutes: float,
        seed: int,
        stored: Path,
        processes: Callable[[], Sequence[ProcessReading]] = read_processes,
    ) -> None:
        self._client = client
        self._duration_s = minutes * 60
        self._stored = stored
        self._processes = processes
        self._traffic = Traffic(client, seed=seed)
        self.readings: list[SoakReading] = []

    async def run(self) -> dict[str, Any]:
        """Sends, waits for the ends, checks; the report as plain data."""
        if self._duration_s >= MIN_GROWTH_RUN_S:
            await ask_every_size(self._client, SIDES)
        reader = asyncio.create_task(self._read_on())
        try:
            await self._traffic.flow(self._duration_s, min(PHASE_S, self._duration_s / 10))
            nothing_left = await self._at_rest()
            if self._duration_s >= MIN_GROWTH_RUN_S:
                await self._rest()
        finally:
            reader.cancel()
            await asyncio.gather(reader, return_exceptions=True)
        checks = [
            *self._answer_checks(),
            nothing_left,
            *process_checks(self.readings, self._duration_s),
        ]
        return self._report(checks)

    async def _read_on(self) -> None:
        began = time.monotonic()
        while True:
            at_s = time.monotonic() - began
            self.readings.append(await asyncio.to_thread(self._read, at_s))
            await asyncio.sleep(max(0.5, self._duration_s / _READINGS))

    def _read(self, at_s: float) -> SoakReading:
        files = sum(1 for path in self._stored.rglob("*") if path.is_file())
        return SoakReading(at_s, tuple(self._processes()), files)

    def _answer_checks(self) -> list[Check]:
        ends = self._traffic.ends
        drawn = sum(count for name, count in ends.items() if name.endswith(("200", "202")))
        return [
            Check(
                "every answer is one that was to be expected",
                not self._traffic.wrong,
                f"{self._traffic.wrong} not",
            ),
            Check("pictures were drawn", drawn > 0, f"{drawn} answers"),
        ]

    async def _at_rest(self) -> Check:
        """That nothing is in flight any more, soon after the last request."""
        until = time.monotonic() + _QUIET_S
        while True:
            pools = (await self._client.get("api/pools")).json()
            left = sum(pool["requests_in_flight"] for pool in pools)
            if not left or time.monotonic() > until:
                return Check("no work is left", not left, f"{left} requests in flight")
            await asyncio.sleep(0.5)

    async def _rest(self) -> None:
        """Waits for `REST_S`, with a probe now and then, at which the client closes connections it no longer needs."""
        until = time.monotonic() + REST_S
        while time.monotonic() < until:
            (await self._client.get("live")).raise_for_status()
            await asyncio.sleep(_PROBE_S)

    def _report(self, checks: Sequence[Check]) -> dict[str, Any]:
        first, last = self.readings[0], self.readings[-1]
        return {
            "minutes": round(self._duration_s / 60, 2),
            "ends": dict(sorted(self._traffic.ends.items())),
            "rss_mib": {
                name: [round(_sum(name, one).rss_bytes / 2**20, 1) for one in (first, last)]
                for name in sorted({one.name for one in last.processes})
            },
            "serve_actors": dict(serve_actors(last.processes)),
            "stored_files": {
                "most": max(one.stored_files for one in self.readings),
                "last": last.stored_files,
            },
            "checks": {check.name: {"passed": check.passed, "seen": check.seen} for check in checks},
            "passed": all(check.passed for check in checks),
            "problems": self._traffic.problems,
        }


def process_checks(readings: Sequence[SoakReading], duration_s: float) -> list[Check]:
    """That the actors stay the same ones, and that no process grows.

    Args:
        readings: In the order of time.
        duration_s: Of the load.
    """
    counts = [serve_actors(one.processes) for one in readings]
    ids: dict[str, set[int]] = defaultdict(set)
    for reading in readings:
        for one in reading.processes:
            ids[one.name].add(one.pid)
    restarted = sorted(name for name in counts[0] if len(ids[name]) > counts[0][name])
    checks = [
        Check(
            "Ray Serve's actors stay as many",
            all(count == counts[0] for count in counts),
            f"{counts[0].total()} -> {counts[-1].total()}",
        ),
        Check("none of them was restarted", not restarted, ", ".join(restarted) or "none"),
        Check(
            "Ray's processes stay as many",
            len(readings[-1].processes) <= max(len(one.processes) for one in _second_fifth(readings)),
            f"{len(readings[0].processes)} -> {len(readings[-1].processes)}",
        ),
    ]
    always = Counter(name for one in readings for name in {process.name for process in one.processes})
    for name in sorted(name for name, seen in always.items() if seen == len(readings)):
        checks += flat_checks(
            [_sum(name, one) for one in readings],
            duration_s,
            name,
            least_for_memory_s=LEAST_FOR_MEMORY_S,
        )
    return checks


def _second_fifth(readings: Sequence[SoakReading]) -> Sequence[SoakReading]:
    fifth = max(1, len(readings) // 5)
    return readings[: 2 * fifth] or readings


def _sum(name: str, reading: SoakReading) -> Sum:
    of_it = [one for one in reading.processes if one.name == name]
    return Sum(
        reading.at_s,
        sum(one.rss_bytes for one in of_it),
        sum(one.threads for one in of_it),
        sum(one.files for one in of_it),
    )


def soak_service(
    model: str, *, minutes: float, seed: int, dtype: str, num_threads: int | None
) -> dict[str, Any]:
    """Starts a whole service, soaks it, and stops it.

    Args:
        model: As for `pool_for`.
        minutes: How long requests are sent.
        seed: Of all random choices.
        dtype: Of the pool.
        num_threads: Of the pool; None for its own choice.

    Returns:
        The report: ``passed``, ``checks``, and what was seen.
    """
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(
            pools=[pool_for(model, dtype=dtype, num_threads=num_threads)],
            store=StoreSettings(url=folder, max_age_s=KEPT_S, sweep_interval_s=10.0),
            jobs=JobsSettings(retention_s=KEPT_S),
        )
        with whole_service(settings) as url:

            async def soaked() -> dict[str, Any]:
                async with http_client(url, timeout_s=_ANSWER_TIMEOUT_S) as client:
                    soak = ServiceSoak(client, minutes=minutes, seed=seed, stored=Path(folder))
                    return await soak.run()

            return asyncio.run(soaked())
