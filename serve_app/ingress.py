"""The Ray Serve ingress: HTTP in, deployment handles out. Never imports torch."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing

from fastapi import FastAPI
from ray import serve
from ray.serve.handle import DeploymentHandle

from serve_app.api import build_app
from serve_app.callers import own_actor_name
from serve_app.capabilities import PoolFacts
from serve_app.errors import PoolUnavailable
from serve_app.handle_pool import HandlePool
from serve_app.jobs_handle import HandleJobs
from serve_app.lasting_objects import spare_lasting_objects
from serve_app.live_drawings import LiveDrawings, LiveDrawingsHere
from serve_app.live_drawings_handle import LiveDrawingsThere
from serve_app.pool_status import PoolStatus
from serve_app.quotas import Quotas
from serve_app.quotas_handle import QuotaBookThere
from serve_app.ray_environment import deployments_speak_grpc
from serve_app.replica_watch import ReplicaWatch
from serve_app.request import RequestDraft
from serve_app.result import GenerationResult, StepProgress
from serve_app.router import Router
from serve_app.settings import Settings
from serve_app.store import PictureStore
from serve_app.telemetry import DrawingTelemetry, HttpTelemetry, StoreTelemetry, here, join_serve_log
from serve_app.tracing import tracer_for

logger = logging.getLogger(__name__)


def handle_pools(
    settings: Settings, handles: Mapping[str, DeploymentHandle], telemetry: DrawingTelemetry
) -> tuple[HandlePool, ...]:
    """All pools as this actor reaches them.

    Args:
        settings: The application's settings.
        handles: Deployment handle of every pool, by pool name.
        telemetry: Counts what is handed to them.
    """
    watch = ReplicaWatch(serve.get_replica_context().app_name)
    caller = own_actor_name()
    over_grpc = deployments_speak_grpc()

    def reached(pool: str) -> DeploymentHandle:
        handle: DeploymentHandle = handles[pool].options(_by_reference=not over_grpc)
        return handle

    return tuple(
        HandlePool(pool, reached(pool.name), watch, telemetry, caller=caller) for pool in settings.pools
    )


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
        join_serve_log()
        instruments = here()
        self._settings = settings
        tracer = tracer_for(settings.traces_url)
        self._http = HttpTelemetry(instruments, tracer)
        self._telemetry = DrawingTelemetry(instruments, tracer)
        self._live: LiveDrawings = LiveDrawingsHere() if live is None else LiveDrawingsThere(live)
        self._quotas = Quotas(settings.access, None if live is None else QuotaBookThere(live))
        self._pools = handle_pools(settings, handles, self._telemetry)
        self._router = Router(self._pools)
        self._store = PictureStore(settings.store, StoreTelemetry(instruments, tracer))
        self._store.start()
        self._jobs = HandleJobs(jobs)

    async def __del__(self) -> None:
        for pool in self._pools:
            pool.close()
        await self._store.close()
        await asyncio.to_thread(self._telemetry.close)

    def __serve_build_asgi_app__(self) -> FastAPI:
        app = build_app(self._settings, self._http)
        spare_lasting_objects()
        return app

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

    @property
    def quotas(self) -> Quotas:
        """How much each caller may draw."""
        return self._quotas

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
        """Facts of every pool that draws, at once or after a start."""
        return [status.facts for status in await self.pool_statuses() if status.takes_requests]

    async def pool_statuses(self) -> Sequence[PoolStatus]:
        """What every configured pool is doing."""
        return await asyncio.gather(*(pool.status() for pool in self._pools))

    async def stream(
        self, draft: RequestDraft, *, progress: bool = False
    ) -> AsyncGenerator[StepProgress | GenerationResult, None]:
        """Draws; yields progress (when asked for) and, last, the result. Closing the iterator cancels."""
        if self._settings.log_prompts:
            logger.info("request %s: %r", draft.request_id, draft.prompt)
        drawing = self._router.stream(draft, progress=progress)
        async with aclosing(self._telemetry.followed(draft, drawing)) as events:
            async for event in events:
                yield event

    async def draw(self, draft: RequestDraft) -> GenerationResult:
        """Draws to the end. Cancelling the task cancels the drawing."""
        async with aclosing(self.stream(draft)) as events:
            async for event in events:
                if isinstance(event, GenerationResult):
                    return event
        raise PoolUnavailable("the pool ended the answer without a picture")


Ingress: serve.Deployment = serve.deployment(name="Ingress")(serve.ingress()(ImageIngress))
"""`ImageIngress` as the deployment that answers HTTP."""
