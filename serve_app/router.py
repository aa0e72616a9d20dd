"""Routing over pools: who can draw it, when it would be finished, at what cost, and where to go when a pool fails.

The policy is `serve_app.policy.ranked`. Around it, `Router` holds a request whose pool is being started, looks again
every second whether another pool would now be sooner, and hands a request whose pool died, was full or does not answer
to the next one, with the same seed.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import replace

from serve_app.errors import (
    ImagineError,
    InvalidRequest,
    Overloaded,
    PoolUnavailable,
    UnknownModel,
    UnsupportedRequest,
)
from serve_app.policy import Candidate, Pool, ranked
from serve_app.request import Priority, RequestDraft
from serve_app.result import GenerationResult, StepProgress

logger = logging.getLogger(__name__)

MAX_FAILURES = 4
"""Failures of pools under one request before it is given up: it may be what kills them."""

FIRST_PAUSE_S = 0.5
"""Pause before a pool that failed the same request twice is tried again; doubles each time."""

LOOK_AGAIN_S = 1.0
"""A held request looks for a sooner pool this often."""

MAX_HOLD_S = 900.0
"""Longest time for which a request without a deadline is held while pools start: about what a node of a scarce kind
takes to be bought, boot, and load a model."""


class Router:
    """Chooses a pool for every request and follows it until a picture or a final error.

    Args:
        pools: All pools, in order of configuration (ties go to the first).
    """

    def __init__(self, pools: Sequence[Pool]) -> None:
        self.pools = tuple(pools)

    def named(self, *, pool: str | None, model: str | None) -> tuple[Pool, ...]:
        """The pools a client allows by naming a pool, a model, both or neither.

        Raises:
            UnknownModel: Nothing has that name.
        """
        chosen = self.pools
        if pool is not None:
            chosen = tuple(p for p in chosen if p.name == pool)
            if not chosen:
                raise UnknownModel(
                    "pool", f"{pool!r} is no pool; allowed: {', '.join(p.name for p in self.pools)}"
                )
        if model is not None:
            models = sorted({p.model for p in chosen})
            chosen = tuple(p for p in chosen if p.model == model)
            if not chosen:
                raise UnknownModel("model", f"{model!r} is not served; allowed: {', '.join(models)}")
        return chosen

    async def candidates(self, draft: RequestDraft, *, failed: Sequence[str] = ()) -> list[Candidate]:
        """Pools that can draw `draft`, best first.

        Args:
            draft: What is to be drawn.
            failed: Names of pools that failed it already.

        Raises:
            UnknownModel: The client named what does not exist.
            InvalidRequest: No pool's capabilities cover the request; the error of the first pool.
            PoolUnavailable: Those whose capabilities might cover it do not start.
        """
        pools = self.named(pool=draft.pool, model=draft.model)
        found: list[Candidate] = []
        refusals: list[ImagineError] = []
        for pool, facts in zip(
            pools, await asyncio.gather(*(p.facts() for p in pools), return_exceptions=True), strict=True
        ):
            if isinstance(facts, PoolUnavailable):
                refusals.append(facts)
                continue
            if isinstance(facts, BaseException):
                raise facts
            try:
                request = draft.for_pool(facts)
            except InvalidRequest as error:
                refusals.append(error)
                continue
            start_s = pool.start_s()
            finish_s = start_s + pool.predicted_s(request)
            found.append(Candidate(pool, request, start_s, finish_s, pool.predicted_cost(request)))
        if not found:
            # A pool that is not there yet might still draw it, so its error goes first: the client may retry.
            raise next((e for e in refusals if isinstance(e, PoolUnavailable)), refusals[0])
        return ranked(
            found, time_left_s=_time_left_s(draft), patient=draft.priority is Priority.BATCH, failed=failed
        )

    async def stream(
        self, draft: RequestDraft, *, progress: bool = False
    ) -> AsyncGenerator[StepProgress | GenerationResult, None]:
        """Draws on the best pool, and on the next one when a pool fails; the seed makes it the same picture.

        Yields:
            `StepProgress` events when `progress`, among them one with `StepProgress.starting_pool` for each pool
            whose start is waited for, and one `GenerationResult` at the end.

        Raises:
            ImagineError: The last pool's error when every capable pool failed or refused.
        """
        journey = _Journey()
        try:
            while True:
                best = await self._next(draft, journey)
                if not best.up:
                    if progress and journey.is_new(best):
                        yield StepProgress(
                            draft.request_id,
                            0,
                            0,
                            best.request.num_inference_steps,
                            starting_pool=best.pool.name,
                        )
                    await journey.hold(best)
                    continue
                journey.let_go()
                try:
                    async with aclosing(best.pool.stream(best.request, progress=progress)) as events:
                        async for event in events:
                            if isinstance(event, GenerationResult):
                                event = replace(event, start_wait_s=journey.held_s)
                            yield event
                    return
                except UnsupportedRequest as error:
                    journey.impossible(best, error)
                except Overloaded as error:
                    journey.refused(best, error)
                except PoolUnavailable as error:
                    await journey.failed(best, error)
        finally:
            journey.let_go()

    async def _next(self, draft: RequestDraft, journey: _Journey) -> Candidate:
        """The best candidate now, up or worth waiting for."""
        try:
            candidates = await self.candidates(draft, failed=journey.failures)
        except PoolUnavailable as error:
            raise journey.worst_case(error) from None
        left = [one for one in candidates if not journey.refuses(one)]
        if not left:
            raise journey.refused_everywhere()
        best = left[0]
        if best.up:
            # What is saved nowhere is still worth knowing: enough of it, and the cheaper pool is woken.
            for other in candidates:
                if not other.up and other.cost < best.cost:
                    other.pool.passed_over(best.cost - other.cost)
            return best
        if best.finish_s > _time_left_s(draft) and not journey.holding:
            # Not to be held, since it could not be kept; but who comes later finds the pool up.
            best.pool.wake()
            up = next((one for one in left if one.up), None)
            if up is not None:
                return up  # too late too by all that is known, but its replica knows more
            raise journey.worst_case(
                PoolUnavailable(
                    f"pool {best.pool.name!r} has no replica; one is expected in {best.start_s:.0f} s",
                    best.start_s,
                )
            )
        if journey.held_too_long():
            raise journey.worst_case(
                PoolUnavailable(f"pool {best.pool.name!r} did not start in time", best.start_s)
            )
        return best


class _Journey:
    """What has happened to one request on its way from pool to pool.

    Attributes:
        failures: Names of the pools that failed it, one for each time.
        refusal: The refusal with the least waiting time.
        held_s: Seconds it has waited for starts.
    """

    def __init__(self) -> None:
        self.failures: list[str] = []
        self.refusal: Overloaded | None = None
        self.held_s = 0.0
        self._impossible: dict[str, UnsupportedRequest] = {}
        self._until: dict[str, float] = {}  # pools that refused, and when to ask again (monotonic)
        self._starts: dict[str, asyncio.Task[None]] = {}
        self._told: set[str] = set()

    @property
    def holding(self) -> bool:
        """Whether it has been held already: then it is not sent away any more for a start that takes longer."""
        return bool(self._told)

    def is_new(self, candidate: Candidate) -> bool:
        """Whether the start of this pool was not waited for yet."""
        return candidate.pool.name not in self._told

    def refuses(self, candidate: Candidate) -> bool:
        """Whether the pool cannot draw it, or refused and the time is not over after which to ask it again."""
        name = candidate.pool.name
        return name in self._impossible or time.monotonic() < self._until.get(name, 0.0)

    def refused_everywhere(self) -> ImagineError:
        """What the client is told at once: when to come again where it is possible, else why it is not."""
        return self.refusal or next(iter(self._impossible.values()))

    def held_too_long(self) -> bool:
        """Whether even a request without a deadline must be told."""
        return self.held_s > MAX_HOLD_S

    async def hold(self, candidate: Candidate) -> None:
        """Waits for the pool's first replica, but not longer than until it is time to look again.

        Raises:
            Exception: What the pool's own waiting raised.
        """
        name = candidate.pool.name
        self._told.add(name)
        began = time.monotonic()
        if name not in self._starts:
            self._starts[name] = asyncio.create_task(candidate.pool.started())
        start = self._starts[name]
        await asyncio.wait({start}, timeout=LOOK_AGAIN_S)
        self.held_s += time.monotonic() - began
        if start.done():
            del self._starts[name]
            start.result()

    def let_go(self) -> None:
        """Waits for no start any more: what is not needed is not started."""
        for start in self._starts.values():
            start.cancel()
        self._starts.clear()

    def impossible(self, candidate: Candidate, error: UnsupportedRequest) -> None:
        """What only the pool's replica could find out, such as how many tokens a text has."""
        self._impossible[candidate.pool.name] = error

    def refused(self, candidate: Candidate, error: Overloaded) -> None:
        """The pool is full."""
        self._until[candidate.pool.name] = time.monotonic() + max(LOOK_AGAIN_S, error.retry_after_s)
        # The least waiting time offered anywhere is the honest one.
        if self.refusal is None or error.retry_after_s < self.refusal.retry_after_s:
            self.refusal = error

    async def failed(self, candidate: Candidate, error: PoolUnavailable) -> None:
        """The pool's replica died or does not answer.

        Raises:
            ImagineError: That was once too often.
        """
        logger.warning(
            "pool %s failed request %s: %s", candidate.pool.name, candidate.request.request_id, error
        )
        again = self.failures.count(candidate.pool.name)
        self.failures.append(candidate.pool.name)
        if len(self.failures) >= MAX_FAILURES:
            raise self.worst_case(error)
        if again:
            await asyncio.sleep(FIRST_PAUSE_S * 2 ** (again - 1))

    def worst_case(self, error: PoolUnavailable) -> ImagineError:
        """What the client is told when it ends with `error`: a refusal with its waiting time, where there was one."""
        return self.refusal or error


def _time_left_s(draft: RequestDraft) -> float:
    return float("inf") if draft.deadline is None else draft.deadline - time.time()
