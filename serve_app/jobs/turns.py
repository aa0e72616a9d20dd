"""Who is handed to the pools next: `Turns`, a bounded number of places and an order of those who wait."""

from __future__ import annotations

import asyncio
import bisect
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from serve_app.request import Priority

BATCH_DELAY_S = 60.0
"""Interactive jobs go before batch jobs that came up to this much earlier; so nobody waits for ever."""


@dataclass(order=True)
class _Waiting:
    order: float
    job_id: str
    turn: asyncio.Future[None] = field(compare=False)


class Turns:
    """Places for jobs that are handed to the pools.

    Args:
        places: How many there are.
        on_change: Called when the positions of those who wait may have changed.
    """

    def __init__(self, places: int, on_change: Callable[[], None]) -> None:
        self._free = places
        self._on_change = on_change
        self._waiting: list[_Waiting] = []

    def waiting(self) -> list[str]:
        """Ids of those who wait, the next one first."""
        return [waiting.job_id for waiting in self._waiting]

    @asynccontextmanager
    async def take(self, job_id: str, created_at: float, priority: Priority) -> AsyncIterator[None]:
        """Waits for a place and holds it inside the block."""
        await self._acquire(job_id, created_at + (BATCH_DELAY_S if priority is Priority.BATCH else 0.0))
        try:
            yield
        finally:
            self._release()

    async def _acquire(self, job_id: str, order: float) -> None:
        if self._free and not self._waiting:
            self._free -= 1
            return
        waiting = _Waiting(order, job_id, asyncio.get_running_loop().create_future())
        bisect.insort(self._waiting, waiting)
        self._on_change()
        try:
            await waiting.turn
        except asyncio.CancelledError:
            if not waiting.turn.cancelled():
                self._release()  # the place had just been given to it
            elif waiting in self._waiting:
                self._waiting.remove(waiting)
                self._on_change()
            raise

    def _release(self) -> None:
        # A place goes from hand to hand, so that nobody who comes in between takes it.
        while self._waiting:
            turn = self._waiting.pop(0).turn
            if not turn.cancelled():  # its job may have been cancelled, but not have run since
                turn.set_result(None)
                self._on_change()
                return
        self._free += 1
