"""The Ray Serve ingress: HTTP in, deployment handles out. Never imports torch."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Any

from fastapi import FastAPI
from ray import serve
from ray.exceptions import RayError, RayTaskError
from ray.serve.exceptions import BackPressureError, RayServeException
from ray.serve.handle import DeploymentHandle

from serve_app.api import build_app
from serve_app.capabilities import PoolFacts
from serve_app.errors import ImagineError, PoolUnavailable, QueueFull
from serve_app.jobs_handle import HandleJobs
from serve_app.live_drawings import LiveDrawings, LiveDrawingsHere
from serve_app.live_drawings_handle import LiveDrawingsThere
from serve_app.request import GenerationRequest, GenerationResult, RequestDraft, StepProgress
from serve_app.router import Router
from serve_app.settings import PoolSettings, Settings
from serve_app.speed import SpeedEstimate
from serve_app.store import PictureStore

logger = logging.getLogger(__name__)

FACTS_TIMEOUT_S = 5.0
"""How long a request waits for a pool to say what it can do before the pool counts as not there."""


class HandlePool:
    """A pool behind a Ray Serve deployment handle.

    Args:
        settings: The pool's settings.
        handle: Handle of its deployment (`serve_app.deployment.PoolReplica`).
    """

    def __init__(self, settings: PoolSettings, handle: DeploymentHandle) -> None:
        self._settings = settings
        self._handle = handle
        self._facts: PoolFacts | None = None
        self._speed = SpeedEstimate()

    @property
    def name(self) -> str:
        """Pool name."""
        return self._settings.name

    @property
    def model(self) -> str:
        """Model id as configured."""
        return self._settings.model

    async def facts(self) -> PoolFacts:
        """Facts, asked of a replica once: they change only with the settings, which redeploys the ingress too.

        Raises:
            PoolUnavailable: No replica answered within `FACTS_TIMEOUT_S`.
        """
        if self._facts is None:
            self._facts = await self.fresh_facts()
        return self._facts

    async def fresh_facts(self, timeout_s: float = FACTS_TIMEOUT_S) -> PoolFacts:
        """Facts, asked now: answers only while a replica lives.

        Raises:
            PoolUnavailable: No replica answered in time.
        """
        try:
            answer = await asyncio.wait_for(_unary(self._handle.facts.remote()), timeout_s)
        except TimeoutError:
            raise PoolUnavailable(f"pool {self.name!r} is still starting or has no replica") from None
        except (RayError, RayServeException) as error:
            raise PoolUnavailable(f"pool {self.name!r} does not answer: {error}") from error
        assert isinstance(answer, PoolFacts)
        return answer

    def predicted_finish_s(self, request: GenerationRequest) -> float:
        """Seconds until `request` would be finished here."""
        return self._speed.predicted_s(request)

    def predicted_cost(self, request: GenerationRequest) -> float:
        """Cost of the replica seconds `request` would take."""
        return self._settings.price_per_hour / 3600.0 * self._speed.predicted_s(request)

    async def stream(
        self, request: GenerationRequest, *, progress: bool
    ) -> AsyncGenerator[StepProgress | GenerationResult, None]:
        """Draws on one replica; closing the iterator cancels the call there.

        Raises:
            ImagineError: The replica's own domain error, as raised there.
            PoolUnavailable: The replica died, or the call never reached one.
        """
        started = time.monotonic()
        seconds: float | None = None
        self._speed.started(request)
        response = self._handle.options(stream=True).generate.remote(request, progress=progress)
        try:
            async for event in response:
                if isinstance(event, GenerationResult):
                    seconds = time.monotonic() - started
                    event = replace(event, cost=self._settings.price_per_hour / 3600.0 * event.device_s)
                yield event
        except RayTaskError as error:
            # Ray wraps what the replica raised; the domain error inside is what the client should see.
            if isinstance(error.cause, ImagineError):
                raise error.cause from None
            raise
        except RayError as error:
            # The actor, its worker or its node is gone, or the answer was lost on the way: not this request's fault.
            raise PoolUnavailable(f"a replica of pool {self.name!r} died while drawing") from error
        except BackPressureError as error:
            raise QueueFull(f"pool {self.name!r} is full", retry_after_s=1.0) from error
        except RayServeException as error:
            raise PoolUnavailable(f"pool {self.name!r} does not answer: {error}") from error
        finally:
            self._speed.ended(request, seconds)
            if seconds is None:
                # Left before the end: stop the replica's work now instead of when this object is collected.
                response.cancel()


async def _unary(response: Any) -> Any:
    """Awaits a unary handle call (a `DeploymentResponse` is awaitable, but no coroutine)."""
    return await response


class ImageIngress:
    """The one ingress in front of all pools; implements `serve_app.service.ImageService`.

    Args:
        settings: The application's settings.
        handles: Deployment handle of every pool, by pool name.
        jobs: Handle of the deployment that keeps the jobs.
        live: Handle of the one `LiveDrawingsDeployment`; None where this is the only ingress replica.
    """

    def __init__(
        self,
        settings: Settings,
        handles: Mapping[str, DeploymentHandle],
        jobs: DeploymentHandle,
        live: DeploymentHandle | None = None,
    ) -> None:
        self._settings = settings
        self._live: LiveDrawings = LiveDrawingsHere() if live is None else LiveDrawingsThere(live)
        self._pools = tuple(HandlePool(pool, handles[pool.name]) for pool in settings.pools)
        self._router = Router(self._pools)
        self._store = PictureStore(settings.store)
        self._store.start()
        self._jobs = HandleJobs(jobs)

    async def __del__(self) -> None:
        await self._store.close()

    def __serve_build_asgi_app__(self) -> FastAPI:
        return build_app(self._settings)

    @property
    def settings(self) -> Settings:
        """The application's settings."""
        return self._settings

    @property
    def store(self) -> PictureStore:
        """Where pictures answered by url live."""
        return self._store

    @property
    def live(self) -> LiveDrawings:
        """What is being drawn now, and for whom."""
        return self._live

    @property
    def jobs(self) -> HandleJobs:
        """The jobs, which their own deployment keeps."""
        return self._jobs

    async def facts(self, pool: str | None = None, model: str | None = None) -> PoolFacts:
        """Facts of the first pool that the names allow and that answers.

        Raises:
            UnknownModel: Nothing has that name.
            PoolUnavailable: None of them answers.
        """
        failure: PoolUnavailable | None = None
        for candidate in self._router.named(pool=pool, model=model):
            try:
                return await candidate.facts()
            except PoolUnavailable as error:
                failure = error
        raise failure or PoolUnavailable("no pool is configured")

    async def all_facts(self) -> Sequence[PoolFacts]:
        """Facts of every pool that has a living replica now."""
        answers = await asyncio.gather(
            *(pool.fresh_facts(timeout_s=2.0) for pool in self._pools), return_exceptions=True
        )
        found: list[PoolFacts] = []
        for answer in answers:
            if isinstance(answer, PoolFacts):
                found.append(answer)
            elif not isinstance(answer, PoolUnavailable):
                raise answer
        return found

    async def stream(
        self, draft: RequestDraft, *, progress: bool = False
    ) -> AsyncGenerator[StepProgress | GenerationResult, None]:
        """Draws; yields progress (when asked for) and, last, the result. Closing the iterator cancels."""
        if self._settings.log_prompts:
            logger.info("request %s: %r", draft.request_id, draft.prompt)
        async with aclosing(self._router.stream(draft, progress=progress)) as events:
            async for event in events:
                yield event

    async def draw(self, draft: RequestDraft) -> GenerationResult:
        """Draws to the end. Cancelling the task cancels the drawing."""
        async with aclosing(self.stream(draft)) as events:
            async for event in events:
                if isinstance(event, GenerationResult):
                    return event
        raise PoolUnavailable("the pool ended the answer without a picture")

    async def ready(self) -> bool:
        """Whether at least one pool has a replica that drew its test picture."""
        return bool(await self.all_facts())


Ingress: serve.Deployment = serve.deployment(name="Ingress")(serve.ingress()(ImageIngress))
"""`ImageIngress` as the deployment that answers HTTP."""
