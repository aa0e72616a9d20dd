"""`PoolStart`: the start of a pool's first replica: when it is worth one, waiting for it, and how long it takes."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from serve_app.handle_errors import CALL_FAILED, reason
from serve_app.speed import StartEstimate

logger = logging.getLogger(__name__)

WAKE_TIMEOUT_S = 1800.0
"""A start in the background is given up after this; a node of a scarce kind may not be had for longer."""

_AGAIN_S = 1.0


class PoolStart:
    """One for each pool of a process. Not thread-safe: used from the ingress's event loop only.

    Args:
        pool: The pool's name.
        price_per_hour: What an hour of a replica costs.
        ask: Asks a replica, and returns once it has answered. The question waits at the handle until there is a
            replica, which is what makes Ray start one.
        estimate: Learns how long starts take.
    """

    def __init__(
        self, pool: str, price_per_hour: float, ask: Callable[[], Awaitable[None]], estimate: StartEstimate
    ) -> None:
        self._pool = pool
        self._price_per_hour = price_per_hour
        self._ask = ask
        self._estimate = estimate
        self._saving = 0.0
        self._wake: asyncio.Task[None] | None = None

    @property
    def under_way(self) -> bool:
        """Whether a start has begun and not ended."""
        return self._estimate.under_way

    def remaining_s(self) -> float:
        """Seconds until a replica answers; of a whole start where none has begun."""
        return self._estimate.remaining_s()

    def began(self) -> None:
        """A replica is wanted; nothing new while one already was."""
        self._estimate.began()

    def ended(self, *, measured: bool) -> None:
        """A replica is up.

        Args:
            measured: Whether the time since `began` was that of a whole start.
        """
        self._estimate.ended(measured=measured)
        self._saving = 0.0

    async def wait(self) -> None:
        """Waits until a replica answers, however long it takes."""
        self._estimate.began()
        while True:
            try:
                await self._ask()
                return
            except CALL_FAILED as error:
                # The replica that was asked died, or is on a lost node: the next one is asked.
                logger.info("pool %s did not answer: %s", self._pool, reason(error))
                await asyncio.sleep(_AGAIN_S)

    def wake(self) -> None:
        """`wait` in the background."""
        if self._wake is None or self._wake.done():
            self._wake = asyncio.get_running_loop().create_task(self._wait_in_time())

    def passed_over(self, saving: float) -> None:
        """Wakes it once what was lost by its sleep is worth its start; nothing is worth a start that never pays off.

        Paying for a start when as much has been lost without it costs at most twice as much as knowing the future
        would (the rule for renting skis).

        Args:
            saving: What one more request would have cost less here.
        """
        self._saving += saving
        if self._saving >= self._price_per_hour / 3600.0 * self._estimate.expected_s:
            self._saving = 0.0
            self.wake()

    def close(self) -> None:
        """Stops what runs in the background."""
        if self._wake is not None:
            self._wake.cancel()

    async def _wait_in_time(self) -> None:
        try:
            async with asyncio.timeout(WAKE_TIMEOUT_S):
                await self.wait()
        except TimeoutError:
            logger.warning("pool %s did not start within %.0f s", self._pool, WAKE_TIMEOUT_S)
