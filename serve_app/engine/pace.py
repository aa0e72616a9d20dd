"""`Pace`: how fast predicted work is really done, learned while serving."""

from __future__ import annotations

import math

_WINDOW_S = 15.0
"""What was seen this long ago counts a third: some ten pictures of a slow device, and soon enough for a change."""

_LEAST = 0.05


class Pace:
    """Predicted seconds of work that are done in a second while there is work.

    Above 1 where pictures are decoded beside the steps; below it where time goes by between them, where neighbours take
    the machine, or where the predictions are too short. A wait is predicted work over it. Not thread-safe.

    Args:
        most: Upper bound: threads of work.
    """

    def __init__(self, most: float) -> None:
        self._most = most
        self._window_s = self._done_s = _WINDOW_S  # as predicted, until something else is seen
        self._pending_s = 0.0
        self._until = 0.0

    @property
    def value(self) -> float:
        """The pace; from 0.05 to `most`."""
        return min(self._most, max(_LEAST, self._done_s / self._window_s))

    def begin(self, now: float) -> None:
        """Work begins after a time in which there was none, which does not count.

        Args:
            now: Monotonic seconds, as in all calls.
        """
        self._until = now

    def done(self, predicted_s: float, now: float) -> None:
        """Work that was to take `predicted_s` has just been done."""
        self._pending_s += predicted_s
        elapsed_s = now - self._until
        if elapsed_s <= 0:
            return
        kept = math.exp(-elapsed_s / _WINDOW_S)
        gained_s = _WINDOW_S * (1 - kept)  # a long time counts as much as the window, no more
        self._window_s = self._window_s * kept + gained_s
        self._done_s = self._done_s * kept + self._pending_s * gained_s / elapsed_s
        self._pending_s, self._until = 0.0, now
