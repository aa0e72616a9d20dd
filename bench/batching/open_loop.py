"""`play`: sends a trace to a server on time, whatever becomes of it, and takes the latencies."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass

from bench.batching.latency import late_allowed
from bench.batching.servers import Server
from bench.batching.workloads import Job

HOPELESS = 1.5
"""A run is given up when more requests than the percentile forgives have missed this many targets."""

STALLED_S = 1800.0
"""No picture comes for this long: something is broken."""

_LOOK_S = 0.05


@dataclass(frozen=True, slots=True)
class Played:
    """What became of a trace.

    Attributes:
        latencies_s: Of what was sent, in the order of arrival, from the scheduled arrival; of what was unfinished
            the age.
        given_up: Whether it ended early.
        elapsed_s: Seconds from the start to the end.
    """

    latencies_s: tuple[float, ...]
    given_up: bool
    elapsed_s: float


class _Ends:
    """The `Sink` of one run."""

    def __init__(self, began: float) -> None:
        self._began = began
        self.changed = threading.Condition()
        self.at_s: dict[int, float] = {}
        self.error: Exception | None = None

    def finished(self, job: Job, rgb: bytes) -> None:
        now = time.perf_counter() - self._began
        if len(rgb) != 3 * job.kind.width * job.kind.height:
            self.failed(job, ValueError(f"{len(rgb)} bytes are no picture of {job.kind}"))
            return
        with self.changed:
            self.at_s[job.number] = now
            self.changed.notify()

    def failed(self, job: Job, error: Exception) -> None:
        with self.changed:
            self.error = self.error or error
            self.changed.notify()


def play(server: Server, jobs: Sequence[Job], target_s: float | None = None) -> Played:
    """Starts the server, sends every job when it is due, waits for all, stops the server.

    Args:
        server: Not started yet.
        jobs: In the order of arrival.
        target_s: The 99th percentile to keep, in seconds: a run far beyond it is given up. None never gives up.

    Raises:
        RuntimeError: A picture failed or none came for very long.
    """
    server.start()
    began = time.perf_counter()
    ends = _Ends(began)
    given_up = False
    sent = 0
    try:
        with ends.changed:
            while len(ends.at_s) < len(jobs):
                if ends.error is not None:
                    raise RuntimeError("a picture of the benchmark failed") from ends.error
                now = time.perf_counter() - began
                if target_s is not None and _hopeless(jobs, sent, ends.at_s, now, HOPELESS * target_s):
                    given_up = True
                    break
                if (
                    now - max([*ends.at_s.values(), *(job.at_s for job in jobs[:sent])], default=0)
                    > STALLED_S
                ):
                    raise RuntimeError(f"no picture came for {STALLED_S:.0f} s")
                if sent < len(jobs) and jobs[sent].at_s <= now:
                    ends.changed.release()  # a server's thread may be about to tell an end
                    try:
                        server.submit(jobs[sent], ends)
                    finally:
                        ends.changed.acquire()
                    sent += 1
                    continue
                due_s = jobs[sent].at_s - now if sent < len(jobs) else _LOOK_S
                ends.changed.wait(min(due_s, _LOOK_S))
            elapsed = time.perf_counter() - began
            at_s = dict(ends.at_s)
    finally:
        server.stop()
    latencies = tuple(at_s.get(job.number, elapsed) - job.at_s for job in jobs[:sent])
    return Played(latencies, given_up, max(at_s.values(), default=elapsed))


def _hopeless(jobs: Sequence[Job], sent: int, at_s: dict[int, float], now: float, limit_s: float) -> bool:
    late = sum(at_s.get(job.number, now) - job.at_s > limit_s for job in jobs[:sent])
    return late > late_allowed(len(jobs))
