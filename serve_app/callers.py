"""`Callers`: for whom a replica draws, so that it stops drawing for those that have died.

Ray cancels a call whose caller leaves, but not one whose caller died: it would be drawn to its end for nobody.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager

import ray
from ray.exceptions import RayError
from ray.util import list_named_actors

logger = logging.getLogger(__name__)

LOOK_EVERY_S = 2.0
"""Seconds between two looks at who lives; one question to Ray's control store each, and none while nothing is drawn."""

PART_EVERY_S = 5.0
"""Between the ends of two calls whose caller has died. Ray spends a second on telling each of them to the dead, and the
replica answers nobody else meanwhile (seen with 2.60; 32 of them at once kept it silent for 32 seconds)."""


def own_actor_name() -> str | None:
    """Name of the actor that this process is, as `living_actors` tells it; None where it has none."""
    return ray.get_runtime_context().get_actor_name() or None


def living_actors() -> set[str]:
    """Names of all actors of the cluster that live; blocks for a round trip."""
    return {str(actor["name"]) for actor in list_named_actors(all_namespaces=True)}


class Callers:
    """Who waits for a drawing of this replica.

    Args:
        living: Gives the names of the actors that live; called on a thread.
        look_every_s: Seconds between two looks.
        part_every_s: Seconds between the ends of two calls whose caller has died.
    """

    def __init__(
        self,
        living: Callable[[], Collection[str]] = living_actors,
        *,
        look_every_s: float = LOOK_EVERY_S,
        part_every_s: float = PART_EVERY_S,
    ) -> None:
        self._living = living
        self._look_every_s = look_every_s
        self._part_every_s = part_every_s
        self._parting = asyncio.Lock()
        self._waiting: dict[object, tuple[str, Callable[[], None]]] = {}
        self._watch: asyncio.Task[None] | None = None

    @contextmanager
    def waiting(self, caller: str | None, on_death: Callable[[], None]) -> Iterator[None]:
        """Watches a caller while the block runs.

        Args:
            caller: Name of its actor; None watches nobody.
            on_death: Called once, on the event loop, when it is found dead.
        """
        if caller is None:
            yield
            return
        key = object()
        self._waiting[key] = (caller, on_death)
        if self._watch is None or self._watch.done():
            self._watch = asyncio.get_running_loop().create_task(self._look())
        try:
            yield
        finally:
            self._waiting.pop(key, None)

    async def part(self) -> None:
        """Waits for a call's turn to end, once its caller was found dead; see `PART_EVERY_S`."""
        async with self._parting:
            await asyncio.sleep(self._part_every_s)

    async def _look(self) -> None:
        while self._waiting:
            await asyncio.sleep(self._look_every_s)
            if not self._waiting:
                return
            # Those that come during the question may be younger than its answer.
            asked = dict(self._waiting)
            try:
                living = await asyncio.to_thread(self._living)
            except (RayError, RuntimeError, OSError) as error:
                logger.warning("it is not known which callers live: %s", error)
                continue
            for key, (caller, on_death) in asked.items():
                if caller not in living and self._waiting.pop(key, None) is not None:
                    logger.info("%s has died; its drawing stops", caller)
                    on_death()
