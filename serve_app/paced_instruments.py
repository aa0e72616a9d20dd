"""`PacedInstruments`: notes metrics at once and records them once a second, on a thread of its own.

Recording one value by Ray takes 0.3 ms of Python; a busy ingress that did so several times in each request would
spend a seventh of its time on it, most of it on counters that only need to be right when somebody looks.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Mapping

from serve_app.metrics import Instruments, Kind, Metric

logger = logging.getLogger(__name__)

MAX_NOTED_VALUES = 10_000
"""Values of a histogram that are noted between two recordings; of more, the oldest are dropped."""

_Key = tuple[str, tuple[tuple[str, str], ...]]


class PacedInstruments:
    """Implements `serve_app.metrics.Instruments`, from any thread.

    Args:
        instruments: Record in the end.
        every_s: Seconds between two recordings; Ray itself reports every ten seconds.
    """

    def __init__(self, instruments: Instruments, every_s: float) -> None:
        self._instruments = instruments
        self._every_s = every_s
        self._lock = threading.Lock()
        self._metrics: dict[_Key, Metric] = {}
        self._sums: dict[_Key, float] = {}
        self._last: dict[_Key, float] = {}
        self._observed: dict[_Key, deque[float]] = {}
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None

    def record(self, metric: Metric, value: float = 1.0, **labels: str) -> None:
        """See `Instruments.record`."""
        key = (metric.name, tuple(sorted(labels.items())))
        with self._lock:
            self._metrics.setdefault(key, metric)
            if metric.kind is Kind.COUNTER:
                self._sums[key] = self._sums.get(key, 0.0) + max(0.0, value)
            elif metric.kind is Kind.GAUGE:
                self._last[key] = value
            else:
                self._observed.setdefault(key, deque(maxlen=MAX_NOTED_VALUES)).append(value)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="metrics", daemon=True)
                self._thread.start()

    def flush(self) -> None:
        """Records all that was noted, and every gauge again, since Ray forgets those not set for two of its reports."""
        with self._lock:
            noted: list[tuple[_Key, float]] = [*self._sums.items(), *self._last.items()]
            noted += [(key, value) for key, values in self._observed.items() for value in values]
            self._sums, self._observed = {}, {}
            kinds = dict(self._metrics)
        for key, value in noted:
            labels: Mapping[str, str] = dict(key[1])
            try:
                self._instruments.record(kinds[key], value, **labels)
            except (ValueError, TypeError, RuntimeError):
                # What cannot be recorded, as a label that Ray refuses, must not take the rest along.
                logger.exception("metric %s could not be recorded", key[0])
                with self._lock:
                    self._last.pop(key, None)

    def close(self) -> None:
        """Records what is left and ends the thread."""
        self._stopped.set()
        if self._thread is not None:
            self._thread.join()
        self.flush()

    def _run(self) -> None:
        while not self._stopped.wait(self._every_s):
            self.flush()
