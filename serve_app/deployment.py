"""The replica: one pipeline, one engine, and file encoding."""

from __future__ import annotations

import asyncio
import logging
import os
import time
import uuid
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from ray import serve

from serve_app import accelerators
from serve_app.bridge import Bridge
from serve_app.callers import Callers
from serve_app.capabilities import PoolFacts
from serve_app.engine import Engine, EngineStats, Ticket
from serve_app.errors import GenerationCancelled, Overloaded
from serve_app.finishing import Finishing
from serve_app.images import encode
from serve_app.lasting_objects import spare_lasting_objects
from serve_app.metrics import Instruments, kind_of
from serve_app.replica_telemetry import ReplicaTelemetry
from serve_app.request import GenerationRequest, OutputOptions
from serve_app.result import GeneratedImage, GenerationResult, Pixels, ReplicaLoad, StageSeconds, StepProgress
from serve_app.settings import PoolSettings, SafetySettings
from serve_app.telemetry import here, join_serve_log
from serve_app.warmup import warm_up

logger = logging.getLogger(__name__)

ENCODING_THREADS = 2
_STOP_S = 30.0
_HUNG_EXIT_STATUS = 70


def end_process() -> None:
    """Ends this process at once, without cleaning up: a thread that hangs inside a device's driver ends no other way.

    To only fail the health check would not do. Ray Serve then drains the replica for ``graceful_shutdown_timeout_s``
    while those whose drawings hang wait; of a process that has ended they hear at once, and draw elsewhere.
    """
    os._exit(_HUNG_EXIT_STATUS)


class Replica:
    """What runs in a replica, without Ray: `PoolReplica` is this as a deployment, tests use it directly.

    Args:
        pool: The pool's settings.
        accelerator_name: A file name of ``serve_app/accelerators``.
        instruments: Record; None takes Ray's inside a replica, and none elsewhere.
        callers: Watches those who wait for drawings; None for one over the actors of the cluster.
        follow_batches: Whether results tell which batches each picture ran in.
        picture_metadata: Whether files say how they were drawn.
        invisible_watermark: Whether pictures get a watermark.
        safety: What looks at pictures before they leave.
        on_hung: Called when nothing has got anywhere for the pool's ``max_step_s``.
        on_broken: Called, on one of the engine's threads, when the device does not compute any more.

    Raises:
        ConfigurationError: The model, the device or the safety checker cannot work, or the test picture failed.
    """

    def __init__(
        self,
        pool: PoolSettings,
        accelerator_name: str,
        instruments: Instruments | None = None,
        *,
        callers: Callers | None = None,
        follow_batches: bool = False,
        picture_metadata: bool = True,
        invisible_watermark: bool = False,
        safety: SafetySettings | None = None,
        on_hung: Callable[[], None] = end_process,
        on_broken: Callable[[], None] = end_process,
    ) -> None:
        join_serve_log()
        self._pool = pool
        self._on_hung, self._on_broken = on_hung, on_broken
        self._warm = False
        self._accelerator_name = accelerator_name
        started = time.monotonic()
        pipeline = accelerators.get(accelerator_name).load_pipeline(pool)
        self._facts = PoolFacts(
            pool=pool.name,
            model=pool.model,
            accelerator=accelerator_name,
            defaults=pipeline.defaults.limited_to(pool.sizes),
            capabilities=pipeline.capabilities.limited_to(pool.sizes),
        )
        self._finishing = Finishing(
            pool.model,
            self._facts.defaults.scheduler_name,
            metadata=picture_metadata,
            watermark=invisible_watermark,
            safety=safety,
        )
        self._telemetry = ReplicaTelemetry(
            pool.name, here() if instruments is None else instruments, follow_batches=follow_batches
        )
        self._engine = Engine(
            pipeline,
            max_rows=pool.max_rows,
            max_queued_images=pool.max_queued_images,
            max_queue_s=pool.max_queue_s,
            observer=self._telemetry,
            on_broken=self._device_broken,
        )
        self._name = uuid.uuid4().hex
        self._callers = callers or Callers()
        self._encoders = ThreadPoolExecutor(ENCODING_THREADS, thread_name_prefix="encode")
        self._engine.start()
        try:
            if pool.warmup:
                step_s = warm_up(self._engine, self._facts)
                self._facts = replace(self._facts, step_s=step_s)
        except BaseException:
            self._engine.stop(_STOP_S)
            raise
        self._warm = True
        self._telemetry.start(self._engine.stats)
        spare_lasting_objects()
        logger.info("pool %s is ready after %.1f s", pool.name, time.monotonic() - started)

    async def facts(self) -> PoolFacts:
        """What this pool can draw."""
        return self._facts

    async def stats(self) -> EngineStats:
        """What the engine is doing."""
        return self._engine.stats()

    async def generate(
        self, request: GenerationRequest, *, progress: bool = False, caller: str | None = None
    ) -> AsyncGenerator[ReplicaLoad | StepProgress | GenerationResult, None]:
        """Draws; closing the iterator or cancelling its task stops the drawing at the next step.

        Args:
            request: As made by `RequestDraft.for_pool`.
            progress: Whether to yield a `StepProgress` per step.
            caller: Name of the actor that waits; the drawing stops when that has died.

        Yields:
            A `ReplicaLoad` as soon as the request is accepted or refused; then, if accepted, progress when asked for,
            and last one `GenerationResult`.

        Raises:
            ImagineError: The first failure of any of the pictures; the others are dropped.
        """
        accepted = time.monotonic()
        if not self._finishing.previews:
            request = replace(request, preview_every=0)
        loop = asyncio.get_running_loop()
        bridge = Bridge(loop, progress=progress)
        files: list[asyncio.Task[GeneratedImage]] = []
        images: list[GeneratedImage] | None = None
        failure: Exception | None = None
        ticket: Ticket | None = None
        nobody_waits = GenerationCancelled("whoever asked for it has died")
        try:
            try:
                ticket = self._engine.submit(request, bridge)
            except Overloaded as refusal:
                failure = refusal
                yield self._load(refusal)
                return
            with self._callers.waiting(caller, lambda: bridge.events.put_nowait(nobody_waits)):
                yield self._load()
                while len(files) < request.num_images:
                    event = await bridge.events.get()
                    if event is nobody_waits:
                        ticket.cancel()  # at once, though the call itself ends later
                        await self._callers.part()
                    if isinstance(event, BaseException):
                        raise event
                    if len(event) == 2:
                        step, preview = event
                        yield step if preview is None else await self._with_preview(step, preview)
                        continue
                    # Encoding runs beside the pictures still being drawn.
                    files.append(asyncio.create_task(self._encoded(request, *event)))
                    files[-1].add_done_callback(bridge.on_file)
                images = await asyncio.gather(*files)
        except Exception as error:
            failure = error
            raise
        finally:
            if ticket is not None:
                ticket.cancel()
            for file in files:
                file.cancel()
            self._tell_end(request, images, failure, time.monotonic() - accepted)
        yield GenerationResult(
            request=request,
            images=tuple(sorted(images, key=lambda image: image.index)),
            pool=self._pool.name,
            model=self._pool.model,
            accelerator=self._accelerator_name,
            total_s=time.monotonic() - accepted,
        )

    def _load(self, refusal: Overloaded | None = None) -> ReplicaLoad:
        stats = self._engine.stats()
        return ReplicaLoad(
            self._name,
            stats.queued_images,
            stats.running_images,
            stats.predicted_wait_s,
            refusal,
            full=self._engine.queue_full() if refusal is None else None,
        )

    def _tell_end(
        self,
        request: GenerationRequest,
        images: list[GeneratedImage] | None,
        failure: Exception | None,
        seconds: float,
    ) -> None:
        """Counts and logs how a request ended here."""
        if images is not None:
            outcome = "finished"
            for image in images:
                self._telemetry.on_image(image.seconds)
        else:
            outcome = "cancelled" if failure is None else kind_of(failure)
            self._telemetry.on_end(request.num_images, outcome)
        refused = isinstance(failure, Overloaded)
        logger.log(
            logging.INFO if failure is None or refused else logging.WARNING,
            "drawing %s %s in the replica after %.3f s%s",
            request.request_id,
            outcome,
            seconds,
            "" if failure is None else f": {failure}",
            extra={"drawing_id": request.request_id, "outcome": outcome, "seconds": round(seconds, 4)},
        )

    async def _with_preview(self, step: StepProgress, preview: Pixels) -> StepProgress:
        loop = asyncio.get_running_loop()
        data = await loop.run_in_executor(self._encoders, encode, preview, OutputOptions())
        return replace(step, preview=data)

    async def _encoded(
        self, request: GenerationRequest, index: int, pixels: Pixels, seconds: StageSeconds
    ) -> GeneratedImage:
        loop = asyncio.get_running_loop()
        started = time.monotonic()
        data = await loop.run_in_executor(self._encoders, self._finishing.file, request, index, pixels)
        return GeneratedImage(
            index=index,
            seed=request.image_seed(index),
            data=data,
            format=request.output.format,
            width=pixels.width,
            height=pixels.height,
            seconds=replace(seconds, encode=time.monotonic() - started),
            batch=self._telemetry.batch_of(request.request_id, index),
        )

    def check_health(self) -> None:
        """Ray Serve's health check, and the watchdog: a step that has hung ends this replica, which Serve replaces.

        Raises:
            RuntimeError: A step has hung.
        """
        stuck_s = self._engine.stuck_for_s()
        if stuck_s > self._pool.max_step_s:
            message = f"the engine has not got anywhere for {stuck_s:.0f} s"
            logger.critical("%s: this replica of pool %s ends", message, self._pool.name)
            self._on_hung()
            raise RuntimeError(message)

    def _device_broken(self) -> None:
        """Ends the replica: nothing drawn here would succeed, and who fails at once gets most of the next requests."""
        if not self._warm:
            return  # then the test picture fails, which says more
        logger.critical("the device does not work any more: this replica of pool %s ends", self._pool.name)
        self._on_broken()

    def close(self) -> None:
        """Stops the engine; what is unfinished fails with `PoolUnavailable`."""
        self._engine.stop(_STOP_S)
        self._encoders.shutdown(wait=False, cancel_futures=True)
        self._telemetry.close()

    def __del__(self) -> None:
        # Serve calls this after the drain; a constructor that failed has nothing to close.
        if hasattr(self, "_engine"):
            self.close()


PoolReplica: serve.Deployment = serve.deployment(name="PoolReplica")(Replica)
"""`Replica` as a Ray Serve deployment; `serve_app.app.build` gives it its name and its resources."""
