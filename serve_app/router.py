"""Routing over pools: who can draw it, when it would be finished, at what cost, and where to go when a pool fails.

The policy in one sentence: of the pools whose capabilities cover the request, the cheapest that meets its deadline,
else the soonest; a pool that dies or is full hands the request to the next one, with the same seed.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Protocol

from serve_app.capabilities import PoolFacts
from serve_app.errors import (
    ImagineError,
    InvalidRequest,
    Overloaded,
    PoolUnavailable,
    UnknownModel,
)
from serve_app.request import GenerationRequest, GenerationResult, RequestDraft, StepProgress

logger = logging.getLogger(__name__)

MAX_ROUNDS = 4
"""Rounds over all capable pools before giving up: a replica that died is replaced within a few of these."""

FIRST_PAUSE_S = 0.5
"""Pause after the first round in which every capable pool failed; doubles each round (0.5 + 1 + 2 s in all)."""


class Pool(Protocol):
    """A pool as the router sees it. `serve_app.ingress.HandlePool` is the real one."""

    @property
    def name(self) -> str:
        """Pool name."""
        ...

    @property
    def model(self) -> str:
        """Model id as configured."""
        ...

    async def facts(self) -> PoolFacts:
        """Defaults and capabilities.

        Raises:
            PoolUnavailable: No replica answers yet.
        """
        ...

    def predicted_finish_s(self, request: GenerationRequest) -> float:
        """Seconds from now until `request` would be finished, from the work in flight and measured speed."""
        ...

    def predicted_cost(self, request: GenerationRequest) -> float:
        """Cost of drawing `request` here, in the currency of ``price_per_hour``."""
        ...

    def stream(
        self, request: GenerationRequest, *, progress: bool
    ) -> AsyncGenerator[StepProgress | GenerationResult, None]:
        """Draws; closing the iterator cancels.

        Raises:
            PoolUnavailable: The replica died or none is there; the request may be drawn elsewhere.
            Overloaded: The pool refused at its door.
        """
        ...


@dataclass(frozen=True, slots=True)
class Candidate:
    """A pool that can draw the request, and the request with that pool's defaults filled in."""

    pool: Pool
    request: GenerationRequest
    finish_s: float
    cost: float


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

    async def candidates(self, draft: RequestDraft) -> list[Candidate]:
        """Pools that can draw `draft`, best first.

        Raises:
            UnknownModel: The client named what does not exist.
            InvalidRequest: No pool's capabilities cover the request; the error of the first pool.
            PoolUnavailable: No pool answers.
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
            found.append(
                Candidate(pool, request, pool.predicted_finish_s(request), pool.predicted_cost(request))
            )
        if not found:
            # A pool that is not there yet might still draw it, so its error goes first: the client may retry.
            raise next((e for e in refusals if isinstance(e, PoolUnavailable)), refusals[0])
        deadline_s = float("inf") if draft.deadline is None else draft.deadline - time.time()
        in_time = sorted((c for c in found if c.finish_s <= deadline_s), key=lambda c: (c.cost, c.finish_s))
        late = sorted((c for c in found if c.finish_s > deadline_s), key=lambda c: c.finish_s)
        return in_time + late

    async def stream(
        self, draft: RequestDraft, *, progress: bool = False
    ) -> AsyncGenerator[StepProgress | GenerationResult, None]:
        """Draws on the best pool, and on the next one when a pool fails; the seed makes it the same picture.

        Yields:
            `StepProgress` events when `progress`, and one `GenerationResult` at the end.

        Raises:
            ImagineError: The last pool's error when every capable pool failed or refused.
        """
        failure: ImagineError | None = None
        for round_number in range(MAX_ROUNDS):
            if round_number:
                await asyncio.sleep(FIRST_PAUSE_S * 2 ** (round_number - 1))
            try:
                candidates = await self.candidates(draft)
            except PoolUnavailable as error:
                failure = error
                if round_number:  # it was accepted once: keep trying while replicas are replaced
                    continue
                raise
            for candidate in candidates:
                try:
                    async with aclosing(
                        candidate.pool.stream(candidate.request, progress=progress)
                    ) as events:
                        async for event in events:
                            yield event
                    return
                except Overloaded as error:
                    # The least waiting time offered anywhere is the honest one.
                    if not isinstance(failure, Overloaded) or error.retry_after_s < failure.retry_after_s:
                        failure = error
                except PoolUnavailable as error:
                    logger.warning("pool %s failed, drawing elsewhere: %s", candidate.pool.name, error)
                    failure = failure if isinstance(failure, Overloaded) else error
            if isinstance(failure, Overloaded):
                break  # refused everywhere: the client is told at once
        assert failure is not None  # every way out of the loop without a picture set it
        raise failure
