"""`closed_loop`: so many clients, each of which asks for its next picture as soon as the last one is there."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

Ask = Callable[[int], Awaitable[None]]
"""Asks for the picture of a number and waits until its file is there."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One picture.

    Attributes:
        asked_s: When it was asked for, in seconds from the start.
        ended_s: When it was there.
    """

    asked_s: float
    ended_s: float

    @property
    def latency_s(self) -> float:
        """Seconds from asking to the end of the answer."""
        return self.ended_s - self.asked_s


async def closed_loop(
    ask: Ask, *, clients: int, pictures: int | None = None, seconds: float | None = None
) -> list[Answer]:
    """Asks until `pictures` were asked for or `seconds` are over, and waits for what is under way.

    Args:
        ask: Raises when a picture does not come, which ends the whole.
        clients: Pictures asked for at a time.
        pictures: In all, or None for no limit.
        seconds: From the start, or None for no limit.

    Returns:
        All answers, in the order in which they came.

    Raises:
        ValueError: There is no limit.
    """
    if pictures is None and seconds is None:
        raise ValueError("either pictures or seconds must end it")
    began = time.perf_counter()
    answers: list[Answer] = []
    asked = 0

    async def client() -> None:
        nonlocal asked
        while pictures is None or asked < pictures:
            at_s = time.perf_counter() - began
            if seconds is not None and at_s >= seconds:
                return
            number, asked = asked, asked + 1
            await ask(number)
            answers.append(Answer(at_s, time.perf_counter() - began))

    async with asyncio.TaskGroup() as group:
        for _ in range(clients):
            group.create_task(client())
    return answers


def rate_per_s(ended_s: Sequence[float], from_s: float, to_s: float) -> float:
    """Pictures a second that ended within a span of time.

    Args:
        ended_s: When each ended, in seconds from the start.
        from_s: Beginning of the span.
        to_s: Its end, later than `from_s`.
    """
    return sum(from_s <= at_s < to_s for at_s in ended_s) / (to_s - from_s)
