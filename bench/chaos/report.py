"""What a run showed: figures for each fault, and whether what is promised held."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise

from bench.chaos.faults import Fault, Injury
from bench.chaos.load import Outcome, Sample
from bench.chaos.orders import Way

HEALED_WITHIN_S = 120.0
"""Longest time for anything to be whole again; on two busy cores most of it is Python importing."""

PROXY_AWAY_S = 60.0
"""Longest time without an HTTP proxy. Serve itself takes half a minute to notice and start another one."""

_OWN_DEATHS = {Fault.INGRESS_REPLICA: Outcome.BY_INGRESS, Fault.PROXY: Outcome.BY_PROXY}


@dataclass(frozen=True, slots=True)
class Figures:
    """What clients saw from a fault to the next one.

    Attributes:
        fault: What happened; None: nothing yet.
        at_s: When, in seconds from the start of the load.
        accepted: Requests that were taken: neither refused nor cut off by the proxy.
        answered: Of them with the right picture.
        drawn_again: Drawings that were handed on to another replica or pool, unnoticed by the client.
        refused: Requests that were told to come again.
        failed: The service's own errors, answers that never came, and wrong pictures.
        failed_by_ingress: Requests that an ingress replica took to its grave.
        failed_by_proxy: Connections that were refused or cut.
        repeated_orders: Times that an order for a job was sent again until it was taken.
        longest_wait_s: From sending to the end, of what was answered.
        answers_after_s: Seconds from the fault until a new connection was answered.
        whole_after_s: Seconds from the fault until everything was there again.
        last_failure_after_s: Seconds from the fault until the last failure of any kind; None without one.
    """

    fault: str | None
    at_s: float
    accepted: int
    answered: int
    drawn_again: int
    refused: int
    failed: int
    failed_by_ingress: int
    failed_by_proxy: int
    repeated_orders: int
    longest_wait_s: float
    answers_after_s: float | None
    whole_after_s: float | None
    last_failure_after_s: float | None


@dataclass(frozen=True, slots=True)
class Check:
    """One promise.

    Attributes:
        name: What must hold.
        passed: Whether it did.
        seen: The figures behind it.
    """

    name: str
    passed: bool
    seen: str


def figures(
    samples: Sequence[Sample], injuries: Sequence[Injury], drawn_again: Sequence[int]
) -> list[Figures]:
    """One for the time before the first fault and one for each fault.

    Args:
        samples: All requests.
        injuries: In their order.
        drawn_again: Drawings that were handed on, by the same stretches of time; one more than there are injuries.
    """
    starts = [0.0, *(injury.at_s for injury in injuries), float("inf")]
    return [
        _figures(
            [sample for sample in samples if begin <= sample.ended_s < end],
            injuries[number - 1] if number else None,
            drawn_again[number],
        )
        for number, (begin, end) in enumerate(pairwise(starts))
    ]


def _figures(samples: Sequence[Sample], injury: Injury | None, drawn_again: int) -> Figures:
    ends = Counter(sample.outcome for sample in samples)
    at_s = injury.at_s if injury else 0.0
    failures = [
        sample.ended_s for sample in samples if sample.outcome not in (Outcome.ANSWERED, Outcome.REFUSED)
    ]
    waits = [sample.waited_s for sample in samples if sample.outcome is Outcome.ANSWERED]
    return Figures(
        fault=injury.fault.value if injury else None,
        at_s=round(at_s, 1),
        accepted=len(samples) - ends[Outcome.REFUSED] - ends[Outcome.BY_PROXY],
        answered=ends[Outcome.ANSWERED],
        drawn_again=drawn_again,
        refused=ends[Outcome.REFUSED],
        failed=ends[Outcome.FAILED] + ends[Outcome.WRONG],
        failed_by_ingress=ends[Outcome.BY_INGRESS],
        failed_by_proxy=ends[Outcome.BY_PROXY],
        repeated_orders=sum(sample.repeats for sample in samples),
        longest_wait_s=round(max(waits, default=0.0), 2),
        answers_after_s=_rounded(injury.answers_after_s if injury else None),
        whole_after_s=_rounded(injury.whole_after_s if injury else None),
        last_failure_after_s=_rounded(max(failures) - at_s if failures else None),
    )


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 2)


def checks_of(
    samples: Sequence[Sample], injuries: Sequence[Injury], stretches: Sequence[Figures]
) -> list[Check]:
    """What must hold after any run.

    Args:
        samples: All requests.
        injuries: In their order.
        stretches: From `figures`.
    """
    jobs = [sample for sample in samples if sample.order.way is Way.JOB]
    lost = [sample for sample in jobs if sample.outcome is not Outcome.ANSWERED]
    direct = [sample for sample in samples if sample.order.way is not Way.JOB]
    failed = [sample for sample in direct if sample.outcome is Outcome.FAILED]
    wrong = [sample for sample in samples if sample.outcome is Outcome.WRONG]
    taken_along = [
        (one.failed_by_ingress, injury.in_flight_at_ingress)
        for injury, one in zip(injuries, stretches[1:], strict=True)
        if injury.fault is Fault.INGRESS_REPLICA
    ]
    elsewhere = sum(
        getattr(one, "failed_by_ingress" if outcome is Outcome.BY_INGRESS else "failed_by_proxy")
        for one in stretches
        for fault, outcome in _OWN_DEATHS.items()
        # A connection may also break when the ingress replica that was answering on it dies.
        if one.fault not in (fault, Fault.INGRESS_REPLICA)
    )
    unhealed = [
        injury.fault.value
        for injury in injuries
        if injury.whole_after_s is None or injury.whole_after_s > HEALED_WITHIN_S
    ]
    away = [
        injury.answers_after_s if injury.answers_after_s is not None else float("inf")
        for injury in injuries
        if injury.fault is Fault.PROXY
    ]
    return [
        Check(
            "no accepted job is lost", not lost, f"{len(jobs)} jobs, {len(lost)} lost{_first_detail(lost)}"
        ),
        Check(
            "none fails while a replica lives",
            not failed,
            f"{len(direct)} requests, {len(failed)} failed{_first_detail(failed)}",
        ),
        Check("every picture is the one asked for", not wrong, f"{len(wrong)} others"),
        Check(
            "a dead ingress replica takes along no more than it had in hand",
            all(failed <= held for failed, held in taken_along),
            ", ".join(f"{failed} of {held}" for failed, held in taken_along) or "none died",
        ),
        Check("nothing else breaks a connection", elsewhere == 0, f"{elsewhere} broken"),
        Check(
            f"a dead proxy is replaced within {PROXY_AWAY_S:.0f} s",
            all(seconds <= PROXY_AWAY_S for seconds in away),
            ", ".join(f"{seconds:.1f} s" for seconds in away) or "none died",
        ),
        Check(
            f"everything is whole again within {HEALED_WITHIN_S:.0f} s",
            not unhealed,
            ", ".join(unhealed) or "all of it",
        ),
    ]


def _first_detail(samples: Sequence[Sample]) -> str:
    return f" ({samples[0].outcome.value}: {samples[0].detail})" if samples else ""


def as_data(stretches: Sequence[Figures]) -> list[dict[str, object]]:
    """For JSON."""
    return [asdict(one) for one in stretches]
