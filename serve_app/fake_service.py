"""`FakeImageService`: an `ImageService` without Ray, model or accelerator, for tests of the HTTP side."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import replace

from serve_app import images
from serve_app.capabilities import Capabilities, ModelDefaults, PoolFacts
from serve_app.errors import PoolUnavailable, UnknownModel
from serve_app.jobs import JobRunner
from serve_app.live_drawings import LiveDrawingsHere
from serve_app.metadata import NO_PARAMETERS, picture_parameters
from serve_app.pool_status import PoolState, PoolStatus
from serve_app.quotas import Quotas
from serve_app.request import GenerationRequest, OutputOptions, RequestDraft
from serve_app.result import GeneratedImage, GenerationResult, Pixels, StageSeconds, StepProgress
from serve_app.settings import Settings
from serve_app.store import PictureStore, StoreObserver

FAKE_FACTS = PoolFacts(
    pool="default",
    model="small-sdxl",
    accelerator="fake",
    defaults=ModelDefaults(
        height=512,
        width=512,
        num_inference_steps=4,
        guidance_scale=0.0,
        scheduler_name="euler",
    ),
    capabilities=Capabilities(
        max_rows=8, previews=True, scheduler_names=("euler", "euler_a", "ddim", "dpmpp_2m", "dpmpp_2m_karras")
    ),
)


class FakeImageService:
    """Draws one flat colour per prompt and seed, checked against capabilities as the real one does.

    Each step counts as one second of the device; previews grow from black to white.

    Args:
        settings: The application's settings; the store is made from them.
        facts: The one pool.
        delay_s: Seconds each denoising step takes.
        failure: Raised instead of drawing, once the request has been checked.
        store_observer: Told of what the store does.

    Attributes:
        drafts: Every draft that was asked for.
        cancelled: Request ids of drawings that were stopped before their end.
        finished: Request ids of drawings that came to their end.
        is_ready: Whether the pool has a replica; without one drawing is refused.
        held_s: Seconds for which every drawing is held first, as if its pool had to be started.
        state: The pool's state where it is another than ready or starting.
    """

    def __init__(
        self,
        settings: Settings,
        facts: PoolFacts = FAKE_FACTS,
        *,
        delay_s: float = 0.0,
        failure: Exception | None = None,
        store_observer: StoreObserver | None = None,
    ) -> None:
        self._settings = settings
        self._store = PictureStore(settings.store, store_observer)
        self._live = LiveDrawingsHere()
        self._quotas = Quotas(settings.access)
        self._jobs = JobRunner(settings, self, self._store)
        self._facts = facts
        self.delay_s = delay_s
        self.failure = failure
        self.drafts: list[RequestDraft] = []
        self.cancelled: list[str] = []
        self.finished: list[str] = []
        self.is_ready = True
        self.held_s = 0.0
        self.state: PoolState | None = None

    @property
    def settings(self) -> Settings:
        """The application's settings."""
        return self._settings

    @property
    def store(self) -> PictureStore:
        """Where pictures answered by url live."""
        return self._store

    @property
    def live(self) -> LiveDrawingsHere:
        """What is being drawn now, and for whom."""
        return self._live

    @property
    def jobs(self) -> JobRunner:
        """The jobs, kept in this process."""
        return self._jobs

    @property
    def quotas(self) -> Quotas:
        """How much each caller may draw, counted in this process."""
        return self._quotas

    async def check(self, draft: RequestDraft) -> None:
        """Whether the one pool could draw it.

        Raises:
            InvalidRequest: It never could.
            PoolUnavailable: It is not ready.
        """
        draft.for_pool(await self.facts(draft.pool, draft.model))

    async def facts(self, pool: str | None = None, model: str | None = None) -> PoolFacts:
        """The pool's facts.

        Raises:
            UnknownModel: Another pool or model is named.
            PoolUnavailable: It is not ready.
        """
        if pool not in (None, self._facts.pool):
            raise UnknownModel("pool", f"no pool has this name; known: {self._facts.pool}")
        if model not in (None, self._facts.model):
            raise UnknownModel("model", f"no pool serves it; known: {self._facts.model}")
        if not self.is_ready:
            raise PoolUnavailable("No replica is running yet", retry_after_s=30.0)
        return self._facts

    async def all_facts(self) -> Sequence[PoolFacts]:
        """The one pool's facts while it is ready."""
        return [self._facts] if self.is_ready else []

    async def stream(
        self, draft: RequestDraft, *, progress: bool = False
    ) -> AsyncGenerator[StepProgress | GenerationResult, None]:
        """Draws; yields progress when asked for and, last, the result. Closing the iterator is recorded in `cancelled`.

        Raises:
            ImagineError: The draft does not fit the pool, or `failure`.
        """
        self.drafts.append(draft)
        start = time.perf_counter()
        request = draft.for_pool(await self.facts(draft.pool, draft.model))
        try:
            if self.held_s:
                if progress:
                    yield replace(self._progress(request, 0), starting_pool=self._facts.pool)
                await asyncio.sleep(self.held_s)
            for step in range(request.num_inference_steps):
                if progress:
                    yield self._progress(request, step)
                await asyncio.sleep(self.delay_s)
            if progress:
                yield self._progress(request, request.num_inference_steps)
            if self.failure is not None:
                raise self.failure
        except (asyncio.CancelledError, GeneratorExit):
            self.cancelled.append(request.request_id)
            raise
        self.finished.append(request.request_id)
        drawn = tuple(self._draw_one(request, index) for index in range(request.num_images))
        yield GenerationResult(
            request=request,
            images=drawn,
            pool=self._facts.pool,
            model=self._facts.model,
            accelerator=self._facts.accelerator,
            total_s=time.perf_counter() - start,
            cost=self._settings.pools[0].price_per_hour
            / 3600
            * request.num_inference_steps
            * request.num_images,
            start_wait_s=self.held_s,
        )

    async def draw(self, draft: RequestDraft) -> GenerationResult:
        """`stream` to its end.

        Raises:
            ImagineError: The draft does not fit the pool, or `failure`.
        """
        async with aclosing(self.stream(draft)) as events:
            async for event in events:
                if isinstance(event, GenerationResult):
                    return event
        raise AssertionError("stream() ends with a result or an error")

    async def pool_statuses(self) -> Sequence[PoolStatus]:
        """The one pool: with a replica, being started, or whatever `state` says."""
        state = self.state or (PoolState.READY if self.is_ready else PoolState.STARTING)
        running = int(state is PoolState.READY)
        return [
            PoolStatus(
                facts=self._facts,
                state=state,
                replicas_running=running,
                replicas_wanted=running or int(state is PoolState.STARTING),
                requests_in_flight=len(self.drafts) - len(self.finished) - len(self.cancelled),
                queued_images=0,
                running_images=0,
                start_s=None if running else 30.0,
                step_s=1.0,
                price_per_hour=self._settings.pools[0].price_per_hour,
                last_error="it did not start" if state is PoolState.FAILED else None,
            )
        ]

    def _progress(self, request: GenerationRequest, step: int) -> StepProgress:
        steps, every = request.num_inference_steps, request.preview_every
        preview = None
        if every and step and step < steps and step % every == 0 and self._facts.capabilities.previews:
            grey = Pixels(8, 8, bytes([255 * step // steps]) * (3 * 8 * 8))
            preview = images.encode(grey, OutputOptions())
        return StepProgress(request.request_id, 0, step, steps, preview=preview)

    def _draw_one(self, request: GenerationRequest, index: int) -> GeneratedImage:
        seed = request.image_seed(index)
        colour = hashlib.sha256(f"{request.prompt}\n{seed}".encode()).digest()[:3]
        pixels = Pixels(request.width, request.height, colour * (request.width * request.height))
        scheduler_name = request.scheduler_name or self._facts.defaults.scheduler_name
        parameters = picture_parameters(
            request, index=index, model=self._facts.model, scheduler_name=scheduler_name
        )
        start = time.perf_counter()
        told = parameters if self._settings.picture_metadata else NO_PARAMETERS
        data = images.encode(pixels, request.output, told)
        return GeneratedImage(
            index=index,
            seed=seed,
            data=data,
            format=request.output.format,
            width=request.width,
            height=request.height,
            seconds=StageSeconds(
                encode=time.perf_counter() - start, device=float(request.num_inference_steps)
            ),
        )
