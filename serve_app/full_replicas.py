"""`FullReplicas`: replicas that refused a moment ago for lack of room, so that the next request is not sent there."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from serve_app.errors import QueueFull
from serve_app.result import ReplicaLoad

MAX_BELIEVED_S = 1.0
"""A refusal says nothing any more after this, however long a picture takes: work may have been cancelled there."""

_MOST_ASKING = 64
"""Requests that may ask a pool at a time while it was full a moment ago, however many found room."""


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
    ends on that replica. Then one request may ask; the others are refused meanwhile, as one place is what there is.
    Each that finds room lets twice as many ask at a time. So a pool is refilled as soon as it has room. A replica that
    accepts a request says whether it is full with it, so while full it is asked about once per picture, by the request
    that gets its place, however many come.

    Args:
        clock: Monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._refusals: dict[str, _Refusal] = {}
        self._asking: list[float] = []  # since when
        self._last: _Refusal | None = None  # of when all of them were full
        self._most_asking = 1  # at a time, while that is recent

    @contextmanager
    def asking(self) -> Iterator[None]:
        """Around the question whether a replica has room for a request, until its answer."""
        began = self._clock()
        self._asking.append(began)
        try:
            yield
        finally:
            self._asking.remove(began)

    def told(self, load: ReplicaLoad, num_images: int) -> None:
        """A replica has answered.

        Args:
            load: What it told.
            num_images: Pictures that were asked for.
        """
        if load.refusal is None:
            self.has_room(load.replica)
            self._most_asking = min(_MOST_ASKING, 2 * self._most_asking)
            if load.full is not None:
                self._refused(load, load.full, 1)
        elif isinstance(load.refusal, QueueFull):
            self._refused(load, load.refusal, num_images)

    def _refused(self, load: ReplicaLoad, error: QueueFull, num_images: int) -> None:
        pictures = load.queued_images + load.running_images
        place_s = load.predicted_wait_s / pictures if pictures else 0.0
        self._refusals[load.replica] = _Refusal(
            error, num_images, self._clock(), min(MAX_BELIEVED_S, place_s)
        )
        self._most_asking = 1

    def has_room(self, replica: str) -> None:
        """A request that a replica had accepted has ended."""
        self._refusals.pop(replica, None)

    def refusal(self, num_images: int, replicas: int) -> QueueFull | None:
        """What the pool would say to a new request, where that is known without asking it; else None.

        Args:
            num_images: Pictures of the request.
            replicas: Replicas that the pool has.

        Returns:
            The refusal with the least waiting time, which counts from now, if every replica refused as much; the last
            such one while as many ask as may.
        """
        now = self._clock()
        self._refusals = {name: one for name, one in self._refusals.items() if now - one.at < one.believed_s}
        left = [
            (max(0.0, one.error.retry_after_s - (now - one.at)), one)
            for one in self._refusals.values()
            if one.num_images <= num_images
        ]
        if replicas and len(left) >= replicas:
            wait_s, one = min(left, key=lambda pair: pair[0])
            self._most_asking, self._last = 1, one
            return QueueFull(one.error.message, wait_s)
        last = self._last
        # A pool that was full a while ago may be idle now, and fewer pictures might fit.
        if last is None or now - last.at >= last.believed_s + MAX_BELIEVED_S or last.num_images > num_images:
            return None
        # One that gets no answer must not keep the others out.
        if sum(1 for began in self._asking if now - began < MAX_BELIEVED_S) < self._most_asking:
            return None
        return QueueFull(last.error.message, max(0.0, last.error.retry_after_s - (now - last.at)))
