"""`LiveDrawings` for several ingress replicas: a deployment of one replica, and the ingress's way to it."""

from __future__ import annotations

import asyncio
import logging
from typing import Any, cast

from ray import serve
from ray.serve.handle import DeploymentHandle

from serve_app.errors import PoolUnavailable
from serve_app.handle_errors import CALL_FAILED
from serve_app.live_drawings import LiveDrawing, LiveDrawingsHere
from serve_app.quotas import QuotaBook

logger = logging.getLogger(__name__)

TIMEOUT_S = 2.0
"""A call takes a millisecond; one that takes longer means that the replica is being restarted."""


class SharedByIngresses(LiveDrawingsHere, QuotaBook):
    """What all ingress replicas must know alike: what is being drawn, and how much each caller has drawn."""

    def __init__(self) -> None:
        LiveDrawingsHere.__init__(self)
        QuotaBook.__init__(self)


LiveDrawingsDeployment: serve.Deployment = serve.deployment(name="LiveDrawings")(SharedByIngresses)
"""`SharedByIngresses` as a deployment; it must have one replica, and needs neither torch nor a device."""


class LiveDrawingsThere:
    """`LiveDrawings` behind a deployment handle.

    Drawings go on without it: while it is away they are neither seen nor stopped. Who asks is told so.

    Args:
        handle: Handle of `LiveDrawingsDeployment`.
    """

    def __init__(self, handle: DeploymentHandle) -> None:
        self._handle = handle

    async def report(self, drawing: LiveDrawing) -> LiveDrawing:
        """As the protocol says; nothing asked for while it is away."""
        try:
            return cast(LiveDrawing, await self._call("report", drawing))
        except PoolUnavailable as error:
            logger.warning("drawing %s is not seen: %s", drawing.drawing_id, error)
            return drawing

    async def finish(self, drawing_id: str) -> None:
        """As the protocol says; while it is away the lease ends by itself."""
        try:
            await self._call("finish", drawing_id)
        except PoolUnavailable as error:
            logger.warning("the end of drawing %s is not seen: %s", drawing_id, error)

    async def of(self, caller: str) -> list[LiveDrawing]:
        """As the protocol says.

        Raises:
            PoolUnavailable: It is being restarted.
        """
        return cast(list[LiveDrawing], await self._call("of", caller))

    async def task(self, task_id: str) -> list[LiveDrawing]:
        """As the protocol says.

        Raises:
            PoolUnavailable: It is being restarted.
        """
        return cast(list[LiveDrawing], await self._call("task", task_id))

    async def was_finished(self, caller: str, task_id: str) -> bool:
        """As the protocol says.

        Raises:
            PoolUnavailable: It is being restarted.
        """
        return bool(await self._call("was_finished", caller, task_id))

    async def interrupt(self, drawing_id: str) -> None:
        """As the protocol says.

        Raises:
            PoolUnavailable: It is being restarted.
        """
        await self._call("interrupt", drawing_id)

    async def skip(self, drawing_id: str) -> None:
        """As the protocol says.

        Raises:
            PoolUnavailable: It is being restarted.
        """
        await self._call("skip", drawing_id)

    async def choose_model(self, caller: str, model: str) -> None:
        """As the protocol says.

        Raises:
            PoolUnavailable: It is being restarted.
        """
        await self._call("choose_model", caller, model)

    async def chosen_model(self, caller: str) -> str | None:
        """As the protocol says.

        Raises:
            PoolUnavailable: It is being restarted.
        """
        return cast(str | None, await self._call("chosen_model", caller))

    async def _call(self, method: str, *arguments: object) -> Any:
        try:
            async with asyncio.timeout(TIMEOUT_S):
                return await getattr(self._handle, method).remote(*arguments)
        except (TimeoutError, *CALL_FAILED) as error:
            raise PoolUnavailable("what is being drawn is not known right now; try again") from error
