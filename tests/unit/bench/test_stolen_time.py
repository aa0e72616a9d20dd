"""What counts as disturbed, with the stolen time told instead of counted."""

from __future__ import annotations

import time
from collections.abc import Iterator
from itertools import chain, repeat

import pytest

from bench.stolen_time import DISTURBED_S, least_disturbed, stolen_s, watch_stolen_time


class Host:
    """Steals what it is told to when a measurement begins."""

    def __init__(self, *stolen: float) -> None:
        self._stolen: Iterator[float] = chain(stolen, repeat(0.0))
        self.total_s = 5.0

    def read(self) -> float:
        return self.total_s

    def measure(self) -> float:
        taken = next(self._stolen)
        self.total_s += taken
        return taken


def test_what_was_stolen_before_and_after_does_not_count() -> None:
    host = Host(0.4)
    with watch_stolen_time(host.read) as stolen:
        host.measure()
    host.total_s += 3.0
    assert stolen.worst_s == pytest.approx(0.4)


def test_a_little_in_many_seconds_is_no_disturbance() -> None:
    reads = 0

    def read() -> float:
        nonlocal reads
        reads += 1
        return 0.01 * reads

    with watch_stolen_time(read, look_s=0.001) as stolen:
        while reads < 100:
            time.sleep(0.001)
    assert stolen.worst_s == pytest.approx(0.1)  # ten looks


def test_a_disturbed_measurement_is_repeated() -> None:
    host = Host(0.9, 0.7, DISTURBED_S / 2, 0.0)
    measured, stolen = least_disturbed(host.measure, read=host.read, pause_s=0.0)
    assert measured == DISTURBED_S / 2
    assert stolen == pytest.approx(DISTURBED_S / 2)


def test_where_all_are_disturbed_the_least_counts() -> None:
    host = Host(0.9, 0.5, 0.7)
    measured, stolen = least_disturbed(host.measure, attempts=3, read=host.read, pause_s=0.0)
    assert measured == 0.5
    assert stolen == pytest.approx(0.5)


def test_the_machine_counts_or_nothing_was_stolen() -> None:
    first = stolen_s()
    assert 0.0 <= first <= stolen_s()
