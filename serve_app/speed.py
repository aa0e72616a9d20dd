"""How fast a pool is, learned at the ingress from what it answered."""

from __future__ import annotations

from serve_app.request import GenerationRequest

_UNKNOWN_SECONDS_PER_UNIT = 1.0
_SMOOTHING = 0.2


def work_units(request: GenerationRequest) -> float:
    """Size of a request: row-steps times megapixels, summed over its pictures (dimensionless).

    One row-step is one row of the UNet's batch through one denoising step; a guided picture has two rows.
    """
    rows = 2 if request.guided else 1
    megapixels = request.width * request.height / 1_000_000
    return request.num_images * request.num_inference_steps * rows * megapixels


class SpeedEstimate:
    """Predicts finish times of one pool from the work in flight there and the speed of finished requests.

    Not thread-safe: used from the ingress's event loop only.
    """

    def __init__(self) -> None:
        self._units_in_flight = 0.0
        self._seconds_per_unit: float | None = None

    @property
    def seconds_per_unit(self) -> float:
        """Learned seconds per `work_units`, for the pool as a whole while busy."""
        return _UNKNOWN_SECONDS_PER_UNIT if self._seconds_per_unit is None else self._seconds_per_unit

    def predicted_s(self, request: GenerationRequest) -> float:
        """Seconds until `request` would be finished if it were sent now."""
        return (self._units_in_flight + work_units(request)) * self.seconds_per_unit

    def started(self, request: GenerationRequest) -> None:
        """Counts `request` as work in flight."""
        self._units_in_flight += work_units(request)

    def ended(self, request: GenerationRequest, seconds: float | None) -> None:
        """Takes `request` out of the work in flight.

        Args:
            request: As given to `started`.
            seconds: Wall seconds it took, when it was drawn to its end; None teaches nothing.
        """
        units_before = self._units_in_flight
        self._units_in_flight = max(0.0, self._units_in_flight - work_units(request))
        if seconds is not None and units_before > 0:
            # All that was in flight shared the pool, so the whole of it is what these seconds bought.
            observed = seconds / units_before
            learned = observed if self._seconds_per_unit is None else self._seconds_per_unit
            self._seconds_per_unit = learned + _SMOOTHING * (observed - learned)
