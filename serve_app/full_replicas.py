"""`FullReplicas`: replicas that refused a moment ago for lack of room, so that the next request is not sent there."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from serve_app.errors import QueueFull
from serve_app.request import ReplicaLoad

MAX_BELIEVED_S = 1.0
"""A refusal says nothing any more after this, however long a picture takes: work may have been cancelled there."""


@dataclass(frozen=True, slots=True)
class _Refusal:
    """What a replica said.

    Attributes:
        error: Its refusal.
        num_images: Pictures it had no room for; fewer might still have fitted.
        at: When, in seconds of the clock.
        believed_s: Seconds until the next place is expected to come free there.
    """

    error: QueueFull
    num_images: int
    at: float
    believed_s: float


class FullReplicas:
    """One for each pool of a process. Not thread-safe: used from the ingress's event loop only.

    A refusal is believed until a place is expected to come free, and no longer than until a picture of this process
    ends on that replica. So a pool is refilled as soon as it has room, and asked about once per picture while full.

    Args:
        clock: Monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._refusals: dict[str, _Refusal] = {}

    def refused(self, load: ReplicaLoad, error: QueueFull, num_images: int) -> None:
        """A replica had no room.

        Args:
            load: What it told with its refusal.
            error: The refusal.
            num_images: Pictures that were asked for.
        """
        pictures = load.queued_images + load.running_images
        place_s = load.predicted_wait_s / pictures if pictures else 0.0
        self._refusals[load.replica] = _Refusal(
            error, num_images, self._clock(), min(MAX_BELIEVED_S, place_s)
        )

    def has_room(self, replica: str) -> None:
        """A replica accepted a request, or one that it had accepted has ended."""
        self._refusals.pop(replica, None)

    def refusal(self, num_images: int, replicas: int) -> QueueFull | None:
        """What the pool would say to a new request, where that is known without asking it; else None.

        Args:
            num_images: Pictures of the request.
            replicas: Replicas that the pool has.

        Returns:
            The refusal with the least waiting time, which counts from now, if every replica refused as much.
        """
        now = self._clock()
        self._refusals = {name: one for name, one in self._refusals.items() if now - one.at < one.believed_s}
        left = [
            (max(0.0, one.error.retry_after_s - (now - one.at)), one)
            for one in self._refusals.values()
            if one.num_images <= num_images
        ]
        if not replicas or len(left) < replicas:
            return None
        wait_s, one = min(left, key=lambda pair: pair[0])
        return QueueFull(one.error.message, wait_s)
