"""`HandlePool`: a pool behind a Ray Serve deployment handle, as the router and the people who look see it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import replace
from typing import Any

from grpc.aio import AioRpcError
from ray.exceptions import RayError, RayTaskError
from ray.serve.exceptions import BackPressureError, RayServeException
from ray.serve.handle import DeploymentHandle

from serve_app.capabilities import PoolFacts
from serve_app.errors import ImagineError, PoolUnavailable, QueueFull
from serve_app.full_replicas import FullReplicas
from serve_app.handle_errors import CALL_FAILED, reason
from serve_app.pool_start import PoolStart
from serve_app.pool_status import PoolState, PoolStatus
from serve_app.replica_watch import MAX_AGE_S, STALE_S, ReplicaCounts, ReplicaWatch, one_sentence
from serve_app.request import GenerationRequest
from serve_app.result import GenerationResult, ReplicaLoad, StepProgress
from serve_app.settings import PoolSettings
from serve_app.speed import SpeedEstimate, StartEstimate
from serve_app.telemetry import DrawingTelemetry
from serve_app.unseen_pool import assumed_facts

FACTS_TIMEOUT_S = 3.0
"""How long a request waits for a running replica to say what it can do before it counts as not there."""

ACCEPT_TIMEOUT_S = 5.0
"""A living replica accepts or refuses within milliseconds. One on a node that was lost does neither, and Ray sends
requests there until it has noticed (about 9 s)."""

TRUSTED_S = 3.0
"""An answer this fresh says more than Ray's counts, which lag."""


class HandlePool:
    """Implements `serve_app.policy.Pool`.

    Args:
        settings: The pool's settings.
        handle: Handle of its deployment (`serve_app.deployment.PoolReplica`).
        watch: Counts its replicas.
        telemetry: Counts what is handed to it.
        caller: Name of the actor that asks, so that a replica can tell when nobody waits any more; None for none.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        settings: PoolSettings,
        handle: DeploymentHandle,
        watch: ReplicaWatch,
        telemetry: DrawingTelemetry,
        *,
        caller: str | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        self._handle = handle
        self._drawing: Any = handle.options(stream=True)
        self._watch = watch
        self._telemetry = telemetry
        self._caller = caller
        self._clock = clock
        self._facts = assumed_facts(settings)
        self._speed = SpeedEstimate(settings.expected_step_s, clock)
        self._full = FullReplicas(clock)
        self._start = PoolStart(
            settings.name,
            settings.price_per_hour,
            self._ask_facts,
            StartEstimate(settings.expected_start_s, clock),
        )
        self._counts: ReplicaCounts | None = None
        self._answered_at = float("-inf")
        self._doubted = False  # a replica that should be there did not answer, or died
        self._was_down = False  # Ray itself said that there is none, since the last answer
        self._last_error: str | None = None

    @property
    def name(self) -> str:
        """Pool name."""
        return self._settings.name

    @property
    def model(self) -> str:
        """Model id as configured."""
        return self._settings.model

    # --- what is known of it ---

    async def facts(self) -> PoolFacts:
        """What it can draw: as a replica said, else, while none was ever seen, as the settings say.

        Raises:
            PoolUnavailable: Ray has given up starting a replica.
        """
        await self._look(max_age_s=STALE_S)
        if self._counts is not None and self._counts.failed:
            raise PoolUnavailable(f"pool {self.name!r} does not start: {self._counts.message}")
        return self._facts

    def start_s(self) -> float:
        """Seconds until a replica is up; 0 while one is."""
        return 0.0 if self._is_up() else self._start.remaining_s()

    def predicted_s(self, request: GenerationRequest) -> float:
        """Seconds until `request` would be finished here, once a replica is up."""
        return self._speed.predicted_s(request)

    def predicted_cost(self, request: GenerationRequest) -> float:
        """Cost of the device's seconds that `request` would take."""
        return self._settings.price_per_hour / 3600.0 * self._speed.predicted_device_s(request)

    async def status(self) -> PoolStatus:
        """What it is doing; asks Ray, not the replicas."""
        await self._look(max_age_s=MAX_AGE_S)
        counts = self._counts or ReplicaCounts(running=int(self._is_up()), wanted=int(self._is_up()))
        loads = self._speed.loads()
        return PoolStatus(
            facts=self._facts,
            state=self._state(counts),
            replicas_running=counts.running,
            replicas_wanted=counts.wanted,
            requests_in_flight=self._speed.requests_in_flight,
            queued_images=sum(load.queued_images for load in loads),
            running_images=sum(load.running_images for load in loads),
            start_s=None if self._is_up() else self._start.remaining_s(),
            step_s=self._speed.seconds_per_unit,
            price_per_hour=self._settings.price_per_hour,
            last_error=counts.message or self._last_error,
        )

    def _state(self, counts: ReplicaCounts) -> PoolState:
        if self._is_up():
            return PoolState.READY
        if counts.failed:
            return PoolState.FAILED
        return PoolState.STARTING if counts.wanted or self._start.under_way else PoolState.ASLEEP

    async def _look(self, *, max_age_s: float) -> None:
        """Takes over Ray's counts; the first time that a replica is up, asks it what it can draw."""
        self._counts = await self._watch.counts(self.name, max_age_s=max_age_s)
        if self._counts is not None and self._counts.running == 0:
            self._was_down = True
            if self._counts.wanted:
                self._start.began()
        elif self._counts is not None and self._was_down and not self._doubted:
            self._up()
        if self._facts.assumed and self._is_up():
            try:
                async with asyncio.timeout(FACTS_TIMEOUT_S):
                    await self._ask_facts()
            except (TimeoutError, *CALL_FAILED) as error:
                self._doubt(f"a replica did not say what it can draw: {reason(error)}")

    def _is_up(self) -> bool:
        if self._doubted:
            return False
        if self._counts is None or self._counts.running:
            return True  # where Ray does not tell, only trying helps
        return self._clock() - self._answered_at < TRUSTED_S

    def _up(self) -> None:
        self._start.ended(measured=self._was_down)
        self._was_down = self._doubted = False

    def _answered(self) -> None:
        self._answered_at = self._clock()
        self._up()

    def _doubt(self, reason: str) -> None:
        """From now on it counts as not up, until a replica answers; finds that out in the background."""
        self._last_error = reason
        self._doubted = True
        self._answered_at = float("-inf")
        self._start.began()
        self._start.wake()

    # --- starting it ---

    async def started(self) -> None:
        """Waits until a replica answers, however long it takes, and makes Ray start one where there is none."""
        await self._start.wait()

    def wake(self) -> None:
        """`started` in the background."""
        self._start.wake()

    def passed_over(self, saving: float) -> None:
        """A request went elsewhere because no replica is up, though here it would have cost `saving` less."""
        self._start.passed_over(saving)

    def close(self) -> None:
        """Stops what runs in the background."""
        self._start.close()

    async def _ask_facts(self) -> None:
        response = self._handle.facts.remote()
        try:
            facts = await response
        except asyncio.CancelledError:
            response.cancel()  # else it would stay at the handle, and have a replica started for nobody
            raise
        assert isinstance(facts, PoolFacts)
        self._facts = facts
        if facts.step_s is not None:
            self._speed.expect(facts.step_s)
        self._answered()

    # --- drawing ---

    async def stream(
        self, request: GenerationRequest, *, progress: bool
    ) -> AsyncGenerator[StepProgress | GenerationResult, None]:
        """Draws on one replica; closing the iterator cancels the call there.

        Raises:
            ImagineError: The replica's own domain error, as raised there.
            PoolUnavailable: The replica died, or the call never reached one.
        """
        with self._telemetry.attempt(self.name) as finished:
            async with aclosing(self._stream(request, progress=progress)) as events:
                async for event in events:
                    if isinstance(event, GenerationResult):
                        finished()
                    yield event

    async def _stream(
        self, request: GenerationRequest, *, progress: bool
    ) -> AsyncGenerator[StepProgress | GenerationResult, None]:
        self._refuse_if_full(request)
        began = self._clock()
        seconds: float | None = None
        device_s = 0.0
        replica: str | None = None
        refused = False
        self._speed.started(request)
        response = self._drawing.generate.remote(request, progress=progress, caller=self._caller)
        try:
            with self._full.asking():
                load = await self._accepted(response)
            self._speed.told(load)
            self._full.told(load, request.num_images)
            if load.refusal is not None:
                refused = True
                raise load.refusal
            replica = load.replica
            async for event in response:
                if isinstance(event, GenerationResult):
                    seconds, device_s = self._clock() - began, event.device_s
                    self._last_error = None
                    event = replace(event, cost=self._settings.price_per_hour / 3600.0 * device_s)
                yield event
        except RayTaskError as error:
            # Ray wraps what the replica raised; the domain error inside is what the client should see.
            if isinstance(error.cause, ImagineError):
                raise error.cause from None
            raise
        except (RayError, AioRpcError) as error:
            # The actor, its worker or its node is gone, or the answer was lost on the way: not this request's fault.
            self._died(error)
            raise PoolUnavailable(f"a replica of pool {self.name!r} died while drawing") from error
        except BackPressureError as error:
            raise QueueFull(f"pool {self.name!r} is full", retry_after_s=1.0) from error
        except RayServeException as error:
            raise PoolUnavailable(f"pool {self.name!r} does not answer: {error}") from error
        finally:
            self._speed.ended(request, seconds, device_s)
            if replica is not None:
                self._full.has_room(replica)
            if seconds is None and not refused:
                # Left before the end: stop the replica's work now instead of when this object is collected.
                response.cancel()

    def _refuse_if_full(self, request: GenerationRequest) -> None:
        """Spares a busy replica a request that it would refuse.

        Raises:
            QueueFull: All replicas have just refused as much.
        """
        # Where Ray does not tell how many replicas there are, asking is the only way to know.
        refusal = self._full.refusal(request.num_images, self._counts.running if self._counts else 0)
        if refusal is not None:
            raise refusal

    async def _accepted(self, response: Any) -> ReplicaLoad:
        """The replica's word that it draws the request, or that it does not.

        Raises:
            PoolUnavailable: Nobody says so in time.
        """
        try:
            async with asyncio.timeout(ACCEPT_TIMEOUT_S):
                load = await anext(response)
        except TimeoutError:
            self._doubt("a replica that should run does not answer")
            raise PoolUnavailable(f"pool {self.name!r} does not answer") from None
        except StopAsyncIteration:
            raise PoolUnavailable(f"pool {self.name!r} ended its answer before it began") from None
        assert isinstance(load, ReplicaLoad)
        self._answered()
        return load

    def _died(self, error: RayError | AioRpcError) -> None:
        what = f"a replica died: {one_sentence(reason(error))}"
        if self._counts is not None and self._counts.running > 1:
            self._last_error = what  # the others are still there
        else:
            self._doubt(what)
