"""Which pool first: the order in which candidates are tried, as a pure function of what is known of them."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Collection, Sequence
from dataclasses import dataclass
from typing import Protocol

from serve_app.capabilities import PoolFacts
from serve_app.request import GenerationRequest
from serve_app.result import GenerationResult, StepProgress


class Pool(Protocol):
    """A pool as the router sees it. `serve_app.handle_pool.HandlePool` is the real one."""

    @property
    def name(self) -> str:
        """Pool name."""
        ...

    @property
    def model(self) -> str:
        """Model id as configured."""
        ...

    async def facts(self) -> PoolFacts:
        """Defaults and capabilities, without waiting for a replica; also brings what follows up to date.

        Raises:
            PoolUnavailable: Its replicas do not start.
        """
        ...

    def start_s(self) -> float:
        """Seconds until a replica is up; 0 while one is."""
        ...

    def predicted_s(self, request: GenerationRequest) -> float:
        """Seconds from then until `request` would be finished, from the work in flight and measured speed."""
        ...

    def predicted_cost(self, request: GenerationRequest) -> float:
        """Cost of drawing `request` here, in the currency of ``price_per_hour``."""
        ...

    async def started(self) -> None:
        """Waits until a replica answers, and makes Ray start one where there is none; bounded by the caller alone."""
        ...

    def wake(self) -> None:
        """The same in the background, for the requests to come."""
        ...

    def passed_over(self, saving: float) -> None:
        """A request went elsewhere because this pool is not up, though here it would have cost `saving` less."""
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
    """A pool that can draw the request.

    Attributes:
        pool: The pool.
        request: The request with that pool's defaults filled in.
        start_s: Seconds until the pool has a replica; 0 while it has one.
        finish_s: Seconds until the picture would be finished, the start included.
        cost: What it would cost.
    """

    pool: Pool
    request: GenerationRequest
    start_s: float
    finish_s: float
    cost: float

    @property
    def up(self) -> bool:
        """Whether the pool has a replica."""
        return self.start_s <= 0


def ranked(
    candidates: Sequence[Candidate],
    *,
    time_left_s: float,
    patient: bool = False,
    failed: Collection[str] = (),
) -> list[Candidate]:
    """Candidates, best first.

    Of the pools that are up and meet the deadline the cheapest; without any, the soonest. A pool that must start
    goes before the best of those that are up only where that gets the picture sooner: when it also is cheaper, or
    when the other one would miss the deadline. Ties go to the first in the order of configuration.

    Args:
        candidates: In the order of configuration.
        time_left_s: Seconds until the deadline; infinite without one.
        patient: Nobody waits for the picture: pools that must start are as good as others, if they meet the deadline.
        failed: Names of pools that failed this very request: they come after those that are up and did not.
    """

    def by_cost(one: Candidate) -> tuple[bool, float, float]:
        return one.pool.name in failed, one.cost, one.finish_s

    def by_finish(one: Candidate) -> tuple[bool, float]:
        return one.pool.name in failed, one.finish_s

    late = sorted((one for one in candidates if one.finish_s > time_left_s), key=by_finish)
    in_time = [one for one in candidates if one.finish_s <= time_left_s]
    if patient:
        return sorted(in_time, key=by_cost) + late
    up = sorted((one for one in in_time if one.up), key=by_cost)
    down = sorted((one for one in in_time if not one.up), key=by_finish)
    if not up:
        return down + late
    best = up[0]
    sooner = [one for one in down if one.cost < best.cost and one.finish_s < best.finish_s]
    return sooner + up + [one for one in down if one not in sooner] + late
