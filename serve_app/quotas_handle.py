"""`QuotaBook` for several ingress replicas: the way to the deployment that all of them share."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, cast

from ray.serve.handle import DeploymentHandle

from serve_app.errors import PoolUnavailable
from serve_app.handle_errors import CALL_FAILED
from serve_app.quotas import Claim, Refusal

TIMEOUT_S = 2.0
"""A call takes milliseconds; one that takes longer means that the replica is being restarted."""


class QuotaBookThere:
    """`serve_app.quotas.Book` behind a deployment handle.

    Every method raises `PoolUnavailable` while the replica is away.

    Args:
        handle: Handle of `serve_app.live_drawings_handle.LiveDrawingsDeployment`.
    """

    def __init__(self, handle: DeploymentHandle) -> None:
        self._handle = handle

    async def claim(self, claim: Claim) -> Refusal | None:
        """As the protocol says."""
        return cast(Refusal | None, await self._call("claim", claim))

    async def refund(self, caller: str, images: int) -> None:
        """As the protocol says."""
        await self._call("refund", caller, images)

    async def hold(self, holder: str, images: Mapping[str, int]) -> None:
        """As the protocol says."""
        await self._call("hold", holder, dict(images))

    async def _call(self, method: str, *arguments: object) -> Any:
        try:
            async with asyncio.timeout(TIMEOUT_S):
                return await getattr(self._handle, method).remote(*arguments)
        except (TimeoutError, *CALL_FAILED) as error:
            raise PoolUnavailable("how much callers draw is not known right now") from error
