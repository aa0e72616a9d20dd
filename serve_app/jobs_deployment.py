"""The deployment that keeps the jobs: one replica, without torch, for every replica of the ingress."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing

from ray import serve
from ray.serve.handle import DeploymentHandle

from serve_app.ingress import handle_pools
from serve_app.jobs import JobEvent, JobOrder, JobRunner, JobView, Submission
from serve_app.lasting_objects import spare_lasting_objects
from serve_app.request import RequestDraft
from serve_app.result import GenerationResult, StepProgress
from serve_app.router import Router
from serve_app.settings import Settings
from serve_app.store import PictureStore
from serve_app.telemetry import DrawingTelemetry, StoreTelemetry, here, join_serve_log
from serve_app.tracing import tracer_for

logger = logging.getLogger(__name__)


class RoutedDrawer:
    """Draws for the jobs on the same pools as the ingress; implements `serve_app.jobs.Drawer`.

    Args:
        router: Over all pools.
        telemetry: Counts the drawings.
        log_prompts: Whether prompts go to the log.
    """

    def __init__(self, router: Router, telemetry: DrawingTelemetry, *, log_prompts: bool) -> None:
        self._router = router
        self._telemetry = telemetry
        self._log_prompts = log_prompts

    async def check(self, draft: RequestDraft) -> None:
        """Whether any pool could draw it; see `Drawer.check`."""
        await self._router.candidates(draft)

    async def stream(
        self, draft: RequestDraft, *, progress: bool = False
    ) -> AsyncGenerator[StepProgress | GenerationResult, None]:
        """Draws on the best pool; see `Drawer.stream`."""
        if self._log_prompts:
            logger.info("job %s: %r", draft.request_id, draft.prompt)
        drawing = self._router.stream(draft, progress=progress)
        async with aclosing(self._telemetry.followed(draft, drawing)) as events:
            async for event in events:
                yield event


class JobsReplica:
    """`JobRunner` behind a handle.

    Args:
        settings: The application's settings.
        handles: Deployment handle of every pool, by pool name.
    """

    def __init__(self, settings: Settings, handles: Mapping[str, DeploymentHandle]) -> None:
        join_serve_log()
        instruments, tracer = here(), tracer_for(settings.traces_url)
        self._telemetry = DrawingTelemetry(instruments, tracer)
        self._pools = handle_pools(settings, handles, self._telemetry)
        drawer = RoutedDrawer(Router(self._pools), self._telemetry, log_prompts=settings.log_prompts)
        pictures = PictureStore(settings.store, StoreTelemetry(instruments, tracer))
        self._runner = JobRunner(settings, drawer, pictures)
        self._runner.start()
        spare_lasting_objects()

    async def submit(self, order: JobOrder) -> Submission:
        """Accepts a job; see `JobKeeper.submit`."""
        return await self._runner.submit(order)

    async def get(self, job_id: str) -> JobView:
        """A job; see `JobKeeper.get`."""
        return await self._runner.get(job_id)

    async def cancel(self, job_id: str) -> JobView:
        """Stops a job; see `JobKeeper.cancel`."""
        return await self._runner.cancel(job_id)

    async def events(self, job_id: str, last_seen: int = 0) -> AsyncGenerator[JobEvent, None]:
        """Events of a job; see `JobKeeper.events`."""
        async with aclosing(self._runner.events(job_id, last_seen)) as events:
            async for event in events:
                yield event

    async def check_health(self) -> None:
        """Ray Serve's health check.

        Raises:
            RuntimeError: Nobody takes up jobs any more; Serve then replaces this replica.
        """
        if not self._runner.is_alive():
            raise RuntimeError("the jobs' background task has ended")

    async def __del__(self) -> None:
        if hasattr(self, "_runner"):
            await self._runner.close()
            for pool in self._pools:
                pool.close()
            await asyncio.to_thread(self._telemetry.close)


Jobs: serve.Deployment = serve.deployment(name="Jobs")(JobsReplica)
"""`JobsReplica` as a Ray Serve deployment; `serve_app.app.build` gives it its resources."""
