"""`watch_stolen_time`: how much processor time a virtual machine's host gave to others while something was measured.

A host that is shared stops a virtual processor for up to a second now and then. Whoever is measured at that moment
looks slow for it, so what was measured meanwhile is measured again.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

DISTURBED_S = 0.1
"""Seconds of all processors together that may be stolen within a second of a measurement that counts."""

MAX_ATTEMPTS = 12
PAUSE_S = 10.0
"""Between attempts: a host that takes a processor away does so for a while."""

_STEAL = 8
"""Place of the stolen ticks in the first line of /proc/stat, its name at 0; see proc(5)."""

_LOOK_S = 0.1
_WINDOW_LOOKS = 10

T = TypeVar("T")


def stolen_s() -> float:
    """Seconds of all processors that were stolen since the machine started; 0 where nobody counts them."""
    stat = Path("/proc/stat")
    if not stat.exists():
        return 0.0
    with stat.open(encoding="ascii") as lines:
        return int(lines.readline().split()[_STEAL]) / os.sysconf("SC_CLK_TCK")


class StolenTime:
    """What was stolen while it watched.

    Attributes:
        worst_s: Most seconds, of all processors together, within one second.
    """

    def __init__(self) -> None:
        self.worst_s = 0.0


@contextmanager
def watch_stolen_time(read: Callable[[], float] = stolen_s, look_s: float = _LOOK_S) -> Iterator[StolenTime]:
    """Watches on a thread of its own until the block ends.

    Args:
        read: Gives the seconds stolen so far.
        look_s: Seconds between two looks; ten of them are the second of `StolenTime.worst_s`.
    """
    found = StolenTime()
    recent = deque([read()], maxlen=_WINDOW_LOOKS + 1)
    ended = threading.Event()

    def look() -> None:
        recent.append(read())
        found.worst_s = max(found.worst_s, recent[-1] - recent[0])

    def watch() -> None:
        while not ended.wait(look_s):
            look()

    thread = threading.Thread(target=watch, name="stolen-time", daemon=True)
    thread.start()
    try:
        yield found
    finally:
        ended.set()
        thread.join()
        look()


def least_disturbed(
    measure: Callable[[], T],
    *,
    attempts: int = MAX_ATTEMPTS,
    pause_s: float = PAUSE_S,
    read: Callable[[], float] = stolen_s,
) -> tuple[T, float]:
    """Measures until nothing of account was stolen meanwhile.

    What counts is chosen by what was stolen alone, never by what was measured.

    Args:
        measure: One measurement.
        attempts: At most so many.
        pause_s: Seconds between two.
        read: Gives the seconds stolen so far.

    Returns:
        The first undisturbed measurement, else the one that was disturbed least, and its `StolenTime.worst_s`.
    """
    best: tuple[T, float] | None = None
    for attempt in range(attempts):
        if attempt:
            time.sleep(pause_s)
        with watch_stolen_time(read) as stolen:
            result = measure()
        if best is None or stolen.worst_s < best[1]:
            best = result, stolen.worst_s
        if best[1] <= DISTURBED_S:
            break
    assert best is not None
    return best
