"""`HandleJobs`: the jobs as any ingress replica reaches them, through the deployment that keeps them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from typing import Any, TypeVar, cast

from ray.exceptions import RayTaskError
from ray.serve.handle import DeploymentHandle

from serve_app.errors import ImagineError, JobsUnavailable
from serve_app.handle_errors import CALL_FAILED
from serve_app.jobs import JobEvent, JobOrder, JobView, Submission

CALL_TIMEOUT_S = 20.0
"""How long a request waits while the deployment is being restarted (seconds) or the store is slow."""

AWAY_S = 120.0
"""How long an event stream outlives a deployment that is away."""

_PAUSE_S = 0.5

Answer = TypeVar("Answer")


class HandleJobs:
    """Implements `serve_app.jobs.JobKeeper` over a handle. Every call may be repeated, so a restart is bridged.

    Args:
        handle: Handle of the deployment (`serve_app.jobs_deployment.Jobs`).
        call_timeout_s: Longest wait for an answer.
        away_s: Longest time for which an event stream waits for the deployment to come back.
    """

    def __init__(
        self, handle: DeploymentHandle, *, call_timeout_s: float = CALL_TIMEOUT_S, away_s: float = AWAY_S
    ) -> None:
        self._handle = handle
        self._call_timeout_s = call_timeout_s
        self._away_s = away_s

    async def submit(self, order: JobOrder) -> Submission:
        """Accepts a job; see `JobKeeper.submit`. The order has its id, so asking again makes no second job."""
        return cast(Submission, await self._ask("submit", order))

    async def get(self, job_id: str) -> JobView:
        """A job; see `JobKeeper.get`."""
        return cast(JobView, await self._ask("get", job_id))

    async def cancel(self, job_id: str) -> JobView:
        """Stops a job; see `JobKeeper.cancel`."""
        return cast(JobView, await self._ask("cancel", job_id))

    async def events(self, job_id: str, last_seen: int = 0) -> AsyncGenerator[JobEvent, None]:
        """Events of a job; see `JobKeeper.events`. Goes on after a restart of the deployment, with the state then."""
        away_since: float | None = None
        while True:
            response = self._handle.options(stream=True).events.remote(job_id, last_seen)
            ended = False
            try:
                async for event in response:
                    yield event
                    last_seen, away_since = event.id, None
                ended = True
                return
            except RayTaskError as error:
                raise _domain_error(error) from None
            except CALL_FAILED as error:
                away_since = away_since or time.monotonic()
                if time.monotonic() - away_since > self._away_s:
                    raise _away() from error
            finally:
                if not ended:
                    response.cancel()
            await asyncio.sleep(_PAUSE_S)

    async def _ask(self, method: str, argument: Any) -> Any:
        try:
            async with asyncio.timeout(self._call_timeout_s):
                while True:
                    try:
                        return await _answer(getattr(self._handle, method).remote(argument))
                    except RayTaskError as error:
                        raise _domain_error(error) from None
                    except CALL_FAILED:
                        await asyncio.sleep(_PAUSE_S)  # its replica died; the next one asks the store
        except TimeoutError as error:
            raise _away() from error


async def _answer(response: Any) -> Any:
    """Awaits a unary handle call (a `DeploymentResponse` is awaitable, but no coroutine)."""
    return await response


def _domain_error(error: RayTaskError) -> Exception:
    """Ray wraps what the replica raised; the domain error inside is what the client should see."""
    return error.cause if isinstance(error.cause, ImagineError) else error


def _away() -> JobsUnavailable:
    return JobsUnavailable(
        "The jobs are being taken up by another process; what was accepted is safe", retry_after_s=2.0
    )
