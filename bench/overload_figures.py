"""What an overload came to: `overload_figures`, and which of the `Aim`s it met."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from typing import Any

from bench.closed_loop import rate_per_s
from bench.whole_service import ProcessReading
from serve_app.load_test import Sample, percentiles

LEAST_GOODPUT_SHARE = 0.95
MOST_REFUSAL_S = 0.05
MOST_GROWTH = 0.05
"""Of a process's memory, in the second half of an overload: the first fills caches and queues."""


@dataclass(frozen=True, slots=True)
class Aim:
    """What is wanted of a figure.

    Attributes:
        name: What, with the bound.
        met: Whether it was.
        seen: The figure, for people.
    """

    name: str
    met: bool
    seen: str


def overload_figures(
    samples: Sequence[Sample],
    *,
    capacity_per_s: float,
    bound_s: float,
    settle_s: float,
    seconds: float,
) -> dict[str, Any]:
    """The figures of one overload.

    Args:
        samples: All requests that were due.
        capacity_per_s: Pictures a second of the same service in a closed loop, before and after: their mean.
        bound_s: Seconds within which accepted work should be done; what takes longer is no goodput.
        settle_s: The first seconds, in which queue and batches fill up, are left out of the goodput.
        seconds: Of arrivals.

    Returns:
        Counts, rates, and latencies in seconds.
    """
    answered = [sample for sample in samples if sample.answered]
    refused = [sample for sample in samples if sample.refused]
    in_time = [sample.ended_s for sample in answered if sample.latency_s <= bound_s]
    goodput_per_s = rate_per_s(in_time, settle_s, seconds)
    waits = [sample.retry_after_s for sample in refused if sample.retry_after_s is not None]
    return {
        "requests": len(samples),
        "outcomes": dict(Counter(sample.outcome for sample in samples)),
        "failed": len(samples) - len(answered) - len(refused),
        "capacity_per_s": round(capacity_per_s, 4),
        "goodput_per_s": round(goodput_per_s, 4),
        "goodput_share": round(goodput_per_s / capacity_per_s, 4),
        "bound_s": round(bound_s, 3),
        "beyond_bound": len(answered) - len(in_time),
        "accepted_s": percentiles([sample.latency_s for sample in answered]),
        # From when it was sent: that this client was late is not the service's doing.
        "refusal_s": percentiles([sample.latency_s - sample.sent_late_s for sample in refused]),
        "retry_after_s": percentiles(waits),
        "retry_after_least_s": min(waits, default=None),
        "refusals_without_retry_after": len(refused) - len(waits),
        "sent_late_s": percentiles([s.sent_late_s for s in samples if s.outcome != "not sent"]),
    }


def aims_of(rounds: Sequence[dict[str, Any]]) -> list[Aim]:
    """Which aims rounds of `overload_figures` with their `process_figures` (``processes``) meet.

    Of goodput the mean counts: one round is compared with capacities of some minutes before and after it, which a
    shared machine's speed does not keep to. Of all else the worst round. Where nothing was accepted or refused, none is
    met that is about it.

    Args:
        rounds: At least one.
    """
    shares = [figures["goodput_share"] for figures in rounds]
    share = statistics.mean(shares)
    each = f" ({', '.join(f'{one:.1%}' for one in shares)})" if len(shares) > 1 else ""
    bound_s = rounds[0]["bound_s"]
    accepted_s = [figures["accepted_s"].get("p99", inf) for figures in rounds]
    refusal_s = [figures["refusal_s"].get("p99", inf) for figures in rounds]
    outcomes = sum((Counter(figures["outcomes"]) for figures in rounds), Counter[str]())
    return [
        Aim(
            f"goodput is at least {LEAST_GOODPUT_SHARE:.0%} of the capacity",
            share >= LEAST_GOODPUT_SHARE,
            f"{share:.1%}{each}",
        ),
        Aim(
            f"p99 of accepted work is within its bound of {bound_s:.2f} s",
            max(accepted_s) <= bound_s,
            f"{max(accepted_s):.2f} s" if max(accepted_s) < inf else "nothing was accepted",
        ),
        Aim(
            f"p99 of the time to a refusal is below {MOST_REFUSAL_S * 1000:.0f} ms",
            max(refusal_s) < MOST_REFUSAL_S,
            f"{max(refusal_s) * 1000:.0f} ms" if max(refusal_s) < inf else "nothing was refused",
        ),
        Aim(
            "every request is answered, or refused with Retry-After",
            not any(figures["failed"] or figures["refusals_without_retry_after"] for figures in rounds),
            ", ".join(f"{count} x {outcome}" for outcome, count in sorted(outcomes.items())),
        ),
        _memory_is_flat(rounds),
    ]


def _memory_is_flat(rounds: Sequence[dict[str, Any]]) -> Aim:
    growths = [
        (one["rss_after_mib"] / one["rss_middle_mib"] - 1, f"{one['process']} ({one['pid']})")
        for figures in rounds
        for one in figures["processes"]
    ]
    worst, process = max(growths, default=(inf, ""))
    return Aim(
        f"no process grows by more than {MOST_GROWTH:.0%} in the second half",
        worst <= MOST_GROWTH,
        f"{worst:+.1%}, {process}" if growths else "no process was read",
    )


def process_figures(
    before: Sequence[ProcessReading],
    middle: Sequence[ProcessReading],
    after: Sequence[ProcessReading],
    seconds: float,
) -> list[dict[str, Any]]:
    """Memory and processor time of every process that lived all the time, the largest first.

    Args:
        before: Readings at the beginning.
        middle: Halfway.
        after: At the end.
        seconds: From the beginning to the end.
    """
    first = {one.pid: one for one in before}
    halfway = {one.pid: one for one in middle}
    figures = [
        {
            "process": one.name,
            "pid": one.pid,
            "rss_before_mib": round(first[one.pid].rss_bytes / 2**20, 1),
            "rss_middle_mib": round(halfway[one.pid].rss_bytes / 2**20, 1),
            "rss_after_mib": round(one.rss_bytes / 2**20, 1),
            "grown_mib": round((one.rss_bytes - first[one.pid].rss_bytes) / 2**20, 1),
            "cores": round((one.cpu_s - first[one.pid].cpu_s) / seconds, 3),
        }
        for one in after
        if one.pid in first and one.pid in halfway
    ]
    return sorted(figures, key=lambda one: -one["rss_after_mib"])
