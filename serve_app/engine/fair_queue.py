"""`FairQueue`: pictures of one priority that wait, in an order that gives each owner the same share of the device.

Start-time fair queueing (Goyal, Vin and Cheng, "Start-Time Fair Queueing", SIGCOMM 1996): a picture starts, in virtual
time, where its owner's last one ends, or now, whichever is later; the least start goes first. Pictures of one owner
keep the order of their arrival, so with one owner this is a plain queue.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterator
from dataclasses import dataclass

from serve_app.engine.picture import Picture

DECODE_STEPS = 1.5
"""What a decode costs in steps of one row: SDXL's take 10.47 TFLOP and 6.76 TFLOP at 1024x1024."""


@dataclass(slots=True, eq=False)
class _Waiting:
    picture: Picture
    start: float  # virtual time: rows x steps x pixels
    arrival: int

    @property
    def key(self) -> tuple[float, int]:
        return self.start, self.arrival


class FairQueue:
    """Waiting pictures. Not thread-safe: the engine holds a lock."""

    def __init__(self) -> None:
        self._waiting: list[_Waiting] = []  # in order
        self._ends: dict[str, float] = {}  # of each owner's last picture
        self._now = 0.0
        self._arrivals = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def __iter__(self) -> Iterator[Picture]:
        return (waiting.picture for waiting in self._waiting)

    @property
    def first(self) -> Picture:
        """The one that goes first.

        Raises:
            IndexError: None waits.
        """
        return self._waiting[0].picture

    def append(self, picture: Picture) -> None:
        """A picture has come."""
        owner = picture.request.owner
        start = max(self._now, self._ends.get(owner, 0.0))
        self._ends[owner] = start + _work(picture)
        self._arrivals += 1
        bisect.insort(self._waiting, _Waiting(picture, start, self._arrivals), key=lambda one: one.key)

    def popleft(self) -> Picture:
        """Takes the one that goes first.

        Raises:
            IndexError: None waits.
        """
        taken = self._waiting.pop(0)
        self._now = taken.start
        self._forget()
        return taken.picture

    def remove(self, picture: Picture) -> None:
        """Takes a picture out, wherever it is; its owner's later ones move up, so that leaving costs nothing.

        Raises:
            ValueError: It does not wait here.
        """
        place = next((n for n, waiting in enumerate(self._waiting) if waiting.picture is picture), None)
        if place is None:
            raise ValueError("the picture does not wait here")
        taken = self._waiting.pop(place)
        owner, work = picture.request.owner, _work(picture)
        for waiting in self._waiting:
            if waiting.picture.request.owner == owner and waiting.key > taken.key:
                waiting.start = max(self._now, waiting.start - work)
        self._waiting.sort(key=lambda one: one.key)
        self._ends[owner] = max(self._now, self._ends[owner] - work)
        self._forget()

    def _forget(self) -> None:
        """Owners whose time is not ahead of now start like strangers; without work all do."""
        if not self._waiting:
            self._ends.clear()
            self._now = 0.0
        elif len(self._ends) > 2 * len(self._waiting):
            self._ends = {owner: end for owner, end in self._ends.items() if end > self._now}


def _work(picture: Picture) -> float:
    request = picture.request
    steps = picture.rows * request.num_inference_steps + DECODE_STEPS
    return steps * request.width * request.height
