"""What the ingress expects of a pool: how long a request takes there, and how long a first replica takes to start."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from serve_app.request import GenerationRequest
from serve_app.result import ReplicaLoad

_UNKNOWN_SECONDS_PER_UNIT = 1.0
_SMOOTHING = 0.2
_START_SMOOTHING = 0.5

_WINDOW_S = 15.0
"""What was drawn so many busy seconds ago counts a third."""

_WINDOW_LIVES = 3.0
"""The same in lives of the requests that end, where these are longer: many may end at the same moment, and a shorter
window would see only such moments, or only the time between two."""

LOAD_MAX_AGE_S = 30.0
"""A load that a replica told longer ago says nothing any more."""


def work_units(request: GenerationRequest) -> float:
    """Size of a request: row-steps times megapixels, summed over its pictures (dimensionless).

    One row-step is one row of the UNet's batch through one denoising step; a guided picture has two rows.
    """
    rows = 2 if request.guided else 1
    megapixels = request.width * request.height / 1_000_000
    return request.num_images * request.num_inference_steps * rows * megapixels


class SpeedEstimate:
    """Predicts finish times of one pool from the work in flight there and the speed of finished requests.

    What other ingress replicas sent there is known from the loads that the replicas tell with each acceptance.
    Not thread-safe: used from the ingress's event loop only.

    Args:
        expected_step_s: Seconds per `work_units` until something was measured; None: 1.
        clock: Monotonic seconds.
    """

    def __init__(
        self, expected_step_s: float | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._clock = clock
        self._units_in_flight = 0.0
        self._seconds_per_unit = expected_step_s or _UNKNOWN_SECONDS_PER_UNIT
        self._device_s_per_unit = self._seconds_per_unit
        self._measured = False
        # With something in flight, and what was drawn in that time; both fade.
        self._busy_s = self._units_drawn = 0.0
        self._busy_until = 0.0  # counted up to here
        self._loads: dict[str, tuple[float, ReplicaLoad]] = {}
        self.requests_in_flight = 0

    @property
    def seconds_per_unit(self) -> float:
        """Learned seconds per `work_units`, for the pool as a whole while busy."""
        return self._seconds_per_unit

    def expect(self, step_s: float) -> None:
        """Takes a replica's own measurement (`PoolFacts.step_s`), until a request was finished."""
        if not self._measured:
            self._seconds_per_unit = self._device_s_per_unit = step_s

    def predicted_s(self, request: GenerationRequest) -> float:
        """Seconds until `request` would be finished if it were sent now."""
        own_wait_s = self._units_in_flight * self._seconds_per_unit
        waits = [max(0.0, load.predicted_wait_s - age_s) for age_s, load in self._told()]
        told_wait_s = sum(waits) / len(waits) if waits else 0.0
        return max(own_wait_s, told_wait_s) + work_units(request) * self._seconds_per_unit

    def predicted_device_s(self, request: GenerationRequest) -> float:
        """Seconds of a replica's device that `request` will take, its waiting not counted."""
        return work_units(request) * self._device_s_per_unit

    def loads(self) -> list[ReplicaLoad]:
        """What the replicas last told, where that is not too long ago."""
        return [load for _, load in self._told()]

    def told(self, load: ReplicaLoad) -> None:
        """A replica has said what it has to do."""
        self._loads[load.replica] = (self._clock(), load)

    def started(self, request: GenerationRequest) -> None:
        """Counts `request` as work in flight."""
        if not self.requests_in_flight:
            self._busy_until = self._clock()
        self._units_in_flight += work_units(request)
        self.requests_in_flight += 1

    def ended(self, request: GenerationRequest, seconds: float | None, device_s: float = 0.0) -> None:
        """Takes `request` out of the work in flight.

        Args:
            request: As given to `started`.
            seconds: Wall seconds it took, when it was drawn to its end; None teaches nothing.
            device_s: Seconds of the device it took; 0 where that is not known.
        """
        units = work_units(request)
        self._units_in_flight = max(0.0, self._units_in_flight - units)
        self.requests_in_flight -= 1
        if seconds is None:
            return
        # Not of the seconds that this one took: those bought work of others too, and how much of it depends on how far
        # each had come, which is not known here. All busy seconds together bought all that was drawn.
        now = self._clock()
        busy_s, self._busy_until = now - self._busy_until, now
        kept = math.exp(-busy_s / max(_WINDOW_S, _WINDOW_LIVES * seconds))
        self._busy_s = self._busy_s * kept + busy_s
        self._units_drawn = self._units_drawn * kept + units
        self._seconds_per_unit = self._busy_s / self._units_drawn
        self._device_s_per_unit = self._learned(self._device_s_per_unit, (device_s or seconds) / units)
        self._measured = True

    def _learned(self, before: float, observed: float) -> float:
        return before + _SMOOTHING * (observed - before) if self._measured else observed

    def _told(self) -> list[tuple[float, ReplicaLoad]]:
        now = self._clock()
        self._loads = {
            name: (at, load) for name, (at, load) in self._loads.items() if now - at <= LOAD_MAX_AGE_S
        }
        return [(now - at, load) for at, load in self._loads.values()]


class StartEstimate:
    """How long it takes from wanting a first replica until it answers, learned from earlier starts.

    Args:
        expected_s: Seconds, until one start was measured.
        clock: Monotonic seconds.
    """

    def __init__(self, expected_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._expected_s = expected_s
        self._measured = False
        self._began_at: float | None = None

    @property
    def expected_s(self) -> float:
        """Seconds of a whole start."""
        return self._expected_s

    @property
    def under_way(self) -> bool:
        """Whether a start has begun and not ended."""
        return self._began_at is not None

    def remaining_s(self) -> float:
        """Seconds until a replica answers; of the whole start where none has begun.

        A start that takes longer than expected is expected to take as long again as it is late.
        """
        if self._began_at is None:
            return self._expected_s
        late_s = self._clock() - self._began_at - self._expected_s
        return -late_s if late_s < 0 else late_s + 1.0

    def began(self) -> None:
        """A replica is wanted; nothing new while one already was."""
        if self._began_at is None:
            self._began_at = self._clock()

    def ended(self, *, measured: bool) -> None:
        """A replica answers.

        Args:
            measured: Whether the time since `began` was that of a whole start.
        """
        if self._began_at is None:
            return
        took_s, self._began_at = self._clock() - self._began_at, None
        if measured:
            weight = _START_SMOOTHING if self._measured else 1.0
            self._expected_s += weight * (took_s - self._expected_s)
            self._measured = True
