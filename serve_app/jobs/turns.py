"""Who is handed to the pools next: `Turns`, a bounded number of places and an order of those who wait."""

from __future__ import annotations

import asyncio
from collections import Counter
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
    owner: str = field(compare=False)
    turn: asyncio.Future[None] = field(compare=False)


class Turns:
    """Places for jobs that are handed to the pools.

    A free place goes to the owner who holds the fewest; among equals, and so among all jobs of one owner, by priority
    and age.

    Args:
        places: How many there are.
        on_change: Called when the positions of those who wait may have changed.
    """

    def __init__(self, places: int, on_change: Callable[[], None]) -> None:
        self._free = places
        self._on_change = on_change
        self._waiting: list[_Waiting] = []
        self._held: Counter[str] = Counter()  # places by owner

    def waiting(self) -> list[str]:
        """Ids of those who wait, the next one first."""
        by_owner: dict[str, list[_Waiting]] = {}
        for waiting in sorted(self._waiting, reverse=True):
            by_owner.setdefault(waiting.owner, []).append(waiting)
        held = Counter(self._held)
        ids: list[str] = []
        while by_owner:
            owner = min(by_owner, key=lambda name: (held[name], by_owner[name][-1]))
            ids.append(by_owner[owner].pop().job_id)
            held[owner] += 1
            if not by_owner[owner]:
                del by_owner[owner]
        return ids

    @asynccontextmanager
    async def take(
        self, job_id: str, created_at: float, priority: Priority, owner: str = ""
    ) -> AsyncIterator[None]:
        """Waits for a place and holds it inside the block."""
        order = created_at + (BATCH_DELAY_S if priority is Priority.BATCH else 0.0)
        await self._acquire(job_id, order, owner)
        try:
            yield
        finally:
            self._release(owner)

    async def _acquire(self, job_id: str, order: float, owner: str) -> None:
        if self._free and not self._waiting:
            self._free -= 1
            self._held[owner] += 1
            return
        waiting = _Waiting(order, job_id, owner, asyncio.get_running_loop().create_future())
        self._waiting.append(waiting)
        self._on_change()
        try:
            await waiting.turn
        except asyncio.CancelledError:
            if not waiting.turn.cancelled():
                self._release(owner)  # the place had just been given to it
            elif waiting in self._waiting:
                self._waiting.remove(waiting)
                self._on_change()
            raise

    def _release(self, owner: str) -> None:
        self._held[owner] -= 1
        if not self._held[owner]:
            del self._held[owner]
        # A place goes from hand to hand, so that nobody who comes in between takes it.
        while self._waiting:
            taken = min(self._waiting, key=lambda waiting: (self._held[waiting.owner], waiting))
            self._waiting.remove(taken)
            if not taken.turn.cancelled():  # its job may have been cancelled, but not have run since
                self._held[taken.owner] += 1
                taken.turn.set_result(None)
                self._on_change()
                return
        self._free += 1
