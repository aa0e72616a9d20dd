"""The router over fake pools: eligibility, choice by cost and deadline, failover with the same seed."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field

import pytest

from serve_app import router as router_module
from serve_app.capabilities import Capabilities, ModelDefaults, PoolFacts
from serve_app.errors import (
    GenerationFailed,
    ImagineError,
    PoolUnavailable,
    QueueFull,
    UnknownModel,
    UnsupportedRequest,
)
from serve_app.request import GenerationRequest, GenerationResult, RequestDraft, StepProgress
from serve_app.router import Router


@dataclass
class FakePool:
    """A pool whose next answers are given."""

    name: str = "a"
    model: str = "m"
    finish_s: float = 1.0
    cost: float = 1.0
    capabilities: Capabilities = field(default_factory=lambda: Capabilities(max_rows=8))
    failures: list[ImagineError] = field(default_factory=list)
    down: bool = False
    drawn: list[GenerationRequest] = field(default_factory=list)
    closed_early: int = 0

    async def facts(self) -> PoolFacts:
        if self.down:
            raise PoolUnavailable(f"{self.name} is down")
        return PoolFacts(
            self.name, self.model, "fake", ModelDefaults(512, 512, 4, 0.0, "x"), self.capabilities
        )

    def predicted_finish_s(self, request: GenerationRequest) -> float:
        return self.finish_s

    def predicted_cost(self, request: GenerationRequest) -> float:
        return self.cost

    async def stream(
        self, request: GenerationRequest, *, progress: bool
    ) -> AsyncGenerator[StepProgress | GenerationResult, None]:
        self.drawn.append(request)
        if self.failures:
            raise self.failures.pop(0)
        ended = False
        try:
            yield StepProgress(request.request_id, 0, 1, request.num_inference_steps)
            yield GenerationResult(request, (), self.name, self.model, "fake", 0.1)
            ended = True
        finally:
            self.closed_early += not ended


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(router_module, "FIRST_PAUSE_S", 0.0)


async def _result(router: Router, draft: RequestDraft) -> GenerationResult:
    events = [event async for event in router.stream(draft)]
    assert isinstance(events[-1], GenerationResult)
    return events[-1]


async def test_the_cheapest_pool_that_meets_the_deadline_wins() -> None:
    dear_fast = FakePool("dear", finish_s=1, cost=9)
    cheap_slow = FakePool("cheap", finish_s=60, cost=1)
    router = Router([dear_fast, cheap_slow])
    assert (await _result(router, RequestDraft("x"))).pool == "cheap"
    assert (await _result(router, RequestDraft("x", deadline=time.time() + 10))).pool == "dear"


async def test_without_any_pool_in_time_the_soonest_wins() -> None:
    router = Router([FakePool("slow", finish_s=60, cost=1), FakePool("less-slow", finish_s=50, cost=9)])
    assert (await _result(router, RequestDraft("x", deadline=time.time() + 1))).pool == "less-slow"


async def test_pools_that_cannot_draw_it_are_left_out() -> None:
    fixed = FakePool("fixed", cost=0, capabilities=Capabilities(max_rows=2, fixed_sizes=((1024, 1024),)))
    free = FakePool("free", cost=9)
    router = Router([fixed, free])
    assert (await _result(router, RequestDraft("x", width=768, height=512))).pool == "free"
    with pytest.raises(UnsupportedRequest) as refused:
        await _result(Router([fixed]), RequestDraft("x", width=768, height=512))
    assert refused.value.field == "size"
    assert "1024x1024" in refused.value.message


async def test_a_dead_pool_hands_the_same_seed_to_the_next() -> None:
    first, second = FakePool("a", cost=0, failures=[PoolUnavailable("died")]), FakePool("b", cost=1)
    draft = RequestDraft("x")
    assert (await _result(Router([first, second]), draft)).pool == "b"
    assert first.drawn[0].seed == second.drawn[0].seed == draft.seed


async def test_a_single_pool_is_tried_again_while_its_replica_is_replaced() -> None:
    pool = FakePool(failures=[PoolUnavailable("died"), PoolUnavailable("died")])
    draft = RequestDraft("x")
    assert (await _result(Router([pool]), draft)).request.seed == draft.seed
    assert len(pool.drawn) == 3


async def test_a_pool_that_never_comes_back_is_given_up() -> None:
    pool = FakePool(failures=[PoolUnavailable("died") for _ in range(99)])
    with pytest.raises(PoolUnavailable):
        await _result(Router([pool]), RequestDraft("x"))
    assert len(pool.drawn) == router_module.MAX_ROUNDS


async def test_full_pools_spill_over_and_then_refuse_with_the_shortest_wait() -> None:
    full = FakePool("a", cost=0, failures=[QueueFull("full", 9.0)])
    assert (await _result(Router([full, FakePool("b")]), RequestDraft("x"))).pool == "b"
    both = [
        FakePool("a", failures=[QueueFull("full", 9.0)]),
        FakePool("b", failures=[QueueFull("full", 4.0)]),
    ]
    with pytest.raises(QueueFull) as refused:
        await _result(Router(both), RequestDraft("x"))
    assert refused.value.retry_after_s == 4.0


async def test_a_failed_picture_is_not_drawn_again() -> None:
    pool, other = FakePool("a", cost=0, failures=[GenerationFailed("poison")]), FakePool("b")
    with pytest.raises(GenerationFailed):
        await _result(Router([pool, other]), RequestDraft("x"))
    assert not other.drawn


async def test_names_pin_the_pool_and_unknown_names_are_refused_with_the_known() -> None:
    router = Router([FakePool("a", model="m1", cost=0), FakePool("b", model="m2")])
    assert (await _result(router, RequestDraft("x", pool="b"))).pool == "b"
    assert (await _result(router, RequestDraft("x", model="m2"))).pool == "b"
    with pytest.raises(UnknownModel, match="a, b"):
        await _result(router, RequestDraft("x", pool="c"))
    with pytest.raises(UnknownModel, match="m1, m2"):
        await _result(router, RequestDraft("x", model="m3"))


async def test_all_down_is_said_at_once() -> None:
    with pytest.raises(PoolUnavailable):
        await _result(Router([FakePool(down=True)]), RequestDraft("x"))


async def test_closing_the_stream_closes_the_pools_stream() -> None:
    pool = FakePool()
    events = Router([pool]).stream(RequestDraft("x"), progress=True)
    await anext(events)
    await events.aclose()
    assert pool.closed_early == 1
