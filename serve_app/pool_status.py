"""`PoolStatus`: what one pool is doing now, for people and probes."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from serve_app.capabilities import PoolFacts


class PoolState(StrEnum):
    """Whether a pool draws."""

    READY = "ready"
    """A replica is up."""
    STARTING = "starting"
    """None is up, one is wanted: at first, after it died, or because a request needs it."""
    ASLEEP = "asleep"
    """Scaled to zero; the next request that needs it starts a replica."""
    FAILED = "failed"
    """Its replicas do not start; `PoolStatus.last_error` says why."""


@dataclass(frozen=True, slots=True)
class PoolStatus:
    """One pool, as one ingress replica sees it.

    Attributes:
        facts: What it can draw.
        state: Whether it draws.
        replicas_running: Replicas that drew their test picture.
        replicas_wanted: Those that are running or being started.
        requests_in_flight: Requests that this ingress replica has sent there and that are not finished.
        queued_images: Pictures waiting in the replicas, by what they told within the last half minute.
        running_images: Pictures being drawn, likewise.
        start_s: Seconds until a first replica is up; None while one is.
        step_s: Learned seconds per row-step and megapixel, with all that goes on beside.
        price_per_hour: Price of one replica.
        last_error: What went wrong last, until it goes well again; or None.
    """

    facts: PoolFacts
    state: PoolState
    replicas_running: int
    replicas_wanted: int
    requests_in_flight: int
    queued_images: int
    running_images: int
    start_s: float | None
    step_s: float
    price_per_hour: float
    last_error: str | None

    @property
    def takes_requests(self) -> bool:
        """Whether a request would be drawn, at once or after a start."""
        return self.state in (PoolState.READY, PoolState.ASLEEP)
