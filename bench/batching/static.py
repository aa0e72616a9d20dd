"""Static batching without any drawing: `StaticBatching`, the rule, and `simulate`, what it would do to a trace."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bench.batching.workloads import Job, Kind


@dataclass(frozen=True, slots=True)
class StaticBatching:
    """First come, first served, in batches that run from the first step to the last together.

    Attributes:
        max_batch: Most pictures of one call; 1 is plain serial.
        window_s: Seconds the oldest request may wait, from its arrival, for the batch to fill; 0 is greedy.
    """

    max_batch: int
    window_s: float = 0.0

    def __str__(self) -> str:
        window = f", window {1000 * self.window_s:.0f} ms" if self.window_s else ""
        return f"up to {self.max_batch}{window}"

    def batch(self, waiting: Sequence[Job]) -> list[Job]:
        """The oldest request and those after it that can share its call."""
        return [job for job in waiting if job.kind == waiting[0].kind][: self.max_batch]

    def release_s(self, waiting: Sequence[Job]) -> float:
        """When, in the trace's seconds, that batch may start at the latest; a full one at once."""
        if len(self.batch(waiting)) >= self.max_batch:
            return 0.0
        return waiting[0].at_s + self.window_s


def simulate(
    jobs: Sequence[Job],
    batching: StaticBatching,
    service_s: Callable[[Kind, int], float],
    *,
    give_up_s: float = float("inf"),
) -> list[float]:
    """Latencies in seconds, in the order of finishing.

    Args:
        jobs: In the order of arrival.
        batching: The rule.
        service_s: Seconds of one call, by kind and number of pictures.
        give_up_s: Ends early, after the first latency beyond it.
    """
    now = 0.0
    coming = 0
    waiting: list[Job] = []
    latencies: list[float] = []
    while coming < len(jobs) or waiting:
        if not waiting:
            now = max(now, jobs[coming].at_s)
        while coming < len(jobs) and jobs[coming].at_s <= now:
            waiting.append(jobs[coming])
            coming += 1
        release = batching.release_s(waiting)
        if release > now:
            now = min(release, jobs[coming].at_s) if coming < len(jobs) else release
            continue
        batch = batching.batch(waiting)
        taken = {job.number for job in batch}
        waiting = [job for job in waiting if job.number not in taken]
        now += service_s(batch[0].kind, len(batch))
        latencies.extend(now - job.at_s for job in batch)
        if latencies[-len(batch)] > give_up_s:
            break
    return latencies
