"""The router over fake pools: eligibility, spilling over, holding for a start, failover with the same seed."""

from __future__ import annotations

import asyncio
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
from serve_app.request import GenerationRequest, Priority, RequestDraft
from serve_app.result import GenerationResult, StepProgress
from serve_app.router import Router


@dataclass
class FakePool:
    """A pool whose next answers are given. Without a replica it starts one when `started` is awaited."""

    name: str = "a"
    model: str = "m"
    finish_s: float = 1.0
    cost: float = 1.0
    capabilities: Capabilities = field(default_factory=lambda: Capabilities(max_rows=8))
    failures: list[ImagineError] = field(default_factory=list)
    down: bool = False
    asleep_s: float = 0.0
    drawn: list[GenerationRequest] = field(default_factory=list)
    closed_early: int = 0
    woken: int = 0
    held: int = 0
    given_up: int = 0
    savings: list[float] = field(default_factory=list)
    may_start: asyncio.Event = field(default_factory=asyncio.Event)
    capabilities_when_up: Capabilities | None = None

    async def facts(self) -> PoolFacts:
        if self.down:
            raise PoolUnavailable(f"{self.name} is down")
        return PoolFacts(
            self.name, self.model, "fake", ModelDefaults(512, 512, 4, 0.0, "x"), self.capabilities
        )

    def start_s(self) -> float:
        return self.asleep_s

    def predicted_s(self, request: GenerationRequest) -> float:
        return self.finish_s

    def predicted_cost(self, request: GenerationRequest) -> float:
        return self.cost

    async def started(self) -> None:
        self.held += 1
        try:
            await self.may_start.wait()
        except asyncio.CancelledError:
            self.given_up += 1
            raise
        self.asleep_s = 0.0
        self.capabilities = self.capabilities_when_up or self.capabilities

    def wake(self) -> None:
        self.woken += 1

    def passed_over(self, saving: float) -> None:
        self.savings.append(saving)

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
    monkeypatch.setattr(router_module, "LOOK_AGAIN_S", 0.01)


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


async def test_what_only_a_replica_finds_impossible_is_drawn_elsewhere_or_refused() -> None:
    too_long = UnsupportedRequest("prompt", "90 tokens are too many")
    strict = FakePool("strict", cost=0, failures=[too_long])
    assert (await _result(Router([strict, FakePool("free", cost=9)]), RequestDraft("x"))).pool == "free"
    with pytest.raises(UnsupportedRequest, match="too many"):
        await _result(Router([FakePool("strict", failures=[too_long])]), RequestDraft("x"))
    full = FakePool("full", cost=9, failures=[QueueFull("full", 4.0)])
    with pytest.raises(QueueFull):  # a retry may find room where it is possible
        await _result(Router([FakePool("strict", cost=0, failures=[too_long]), full]), RequestDraft("x"))


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
    assert len(pool.drawn) == router_module.MAX_FAILURES


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


def _starts(events: list[StepProgress | GenerationResult]) -> list[str]:
    return [
        event.starting_pool for event in events if isinstance(event, StepProgress) and event.starting_pool
    ]


async def test_a_request_is_held_while_its_only_pool_starts_and_says_so() -> None:
    pool = FakePool(asleep_s=30.0)
    draft = RequestDraft("x")
    events: list[StepProgress | GenerationResult] = []
    async for event in Router([pool]).stream(draft, progress=True):
        events.append(event)
        pool.may_start.set()
    assert _starts(events) == ["a"]
    result = events[-1]
    assert isinstance(result, GenerationResult)
    assert result.start_wait_s > 0
    assert result.request.seed == draft.seed
    assert pool.held == 1


async def test_while_it_is_held_a_sooner_pool_takes_it_and_nothing_starts_for_nobody() -> None:
    asleep, busy = FakePool("asleep", asleep_s=30.0, cost=1), FakePool("busy", finish_s=100.0, cost=2)
    events = Router([asleep, busy]).stream(RequestDraft("x"), progress=True)
    first = await anext(events)
    assert isinstance(first, StepProgress)
    assert first.starting_pool == "asleep"
    busy.finish_s = 1.0  # its queue is gone
    rest = [event async for event in events]
    assert isinstance(rest[-1], GenerationResult)
    assert rest[-1].pool == "busy"
    await asyncio.sleep(0)
    assert asleep.given_up == 1


async def test_a_pool_that_turns_out_to_be_unable_hands_the_request_on() -> None:
    small = Capabilities(max_rows=8, fixed_sizes=((64, 64),))
    unseen = FakePool("unseen", asleep_s=5.0, cost=1, capabilities_when_up=small)
    other = FakePool("other", finish_s=100.0, cost=2)
    unseen.may_start.set()
    assert (await _result(Router([unseen, other]), RequestDraft("x"))).pool == "other"
    assert unseen.held == 1
    assert not unseen.drawn


async def test_what_a_start_makes_too_late_is_refused_with_its_time_and_starts_the_pool() -> None:
    pool = FakePool(asleep_s=30.0)
    with pytest.raises(PoolUnavailable) as refused:
        await _result(Router([pool]), RequestDraft("x", deadline=time.time() + 10))
    assert refused.value.retry_after_s == 30.0
    assert pool.woken == 1
    assert not pool.held


async def test_where_all_are_late_one_that_is_up_is_asked_rather_than_none() -> None:
    asleep, up = FakePool("asleep", asleep_s=30.0), FakePool("up", finish_s=50.0)
    assert (await _result(Router([asleep, up]), RequestDraft("x", deadline=time.time() + 10))).pool == "up"
    assert asleep.woken == 1


async def test_once_held_it_is_not_sent_away_for_a_start_that_takes_longer() -> None:
    pool = FakePool(asleep_s=5.0)
    events = Router([pool]).stream(RequestDraft("x", deadline=time.time() + 10), progress=True)
    await anext(events)
    pool.asleep_s = 500.0
    drawing = asyncio.create_task(anext(events))
    await asyncio.sleep(0.05)
    assert not drawing.done()
    pool.may_start.set()
    await drawing
    await events.aclose()


async def test_a_full_pool_spills_over_to_one_that_must_start() -> None:
    full = FakePool("full", cost=1, failures=[QueueFull("full", 60.0) for _ in range(99)])
    asleep = FakePool("asleep", cost=2, asleep_s=30.0)
    asleep.may_start.set()
    assert (await _result(Router([full, asleep]), RequestDraft("x"))).pool == "asleep"


async def test_a_held_request_asks_a_full_pool_again_when_its_time_has_come() -> None:
    full = FakePool("full", cost=1, failures=[QueueFull("full", 0.02)])
    asleep = FakePool("asleep", cost=2, asleep_s=30.0)
    assert (await _result(Router([full, asleep]), RequestDraft("x"))).pool == "full"
    assert asleep.held == 1


async def test_a_sleeping_pool_hears_what_it_would_have_saved() -> None:
    asleep, up = FakePool("asleep", cost=1, asleep_s=30.0), FakePool("up", cost=3)
    dearer = FakePool("dearer", cost=9, asleep_s=30.0)
    assert (await _result(Router([asleep, up, dearer]), RequestDraft("x"))).pool == "up"
    assert asleep.savings == [2]
    assert dearer.savings == []


async def test_a_batch_request_waits_for_the_cheapest() -> None:
    asleep, up = FakePool("asleep", cost=1, asleep_s=30.0), FakePool("up", cost=3)
    asleep.may_start.set()
    draft = RequestDraft("x", priority=Priority.BATCH)
    assert (await _result(Router([asleep, up]), draft)).pool == "asleep"


async def test_a_pool_that_failed_the_request_is_tried_last() -> None:
    bad = FakePool("bad", cost=0, failures=[PoolUnavailable("died") for _ in range(9)])
    full = FakePool("full", cost=1, failures=[QueueFull("full", 0.0)])
    with pytest.raises(QueueFull):
        await _result(Router([bad, full]), RequestDraft("x"))
    assert [len(bad.drawn), len(full.drawn)] == [router_module.MAX_FAILURES, 1]


async def test_leaving_while_held_starts_nothing_further() -> None:
    pool = FakePool(asleep_s=30.0)
    drawing = asyncio.create_task(_result(Router([pool]), RequestDraft("x")))
    while not pool.held:
        await asyncio.sleep(0)
    drawing.cancel()
    await asyncio.gather(drawing, return_exceptions=True)
    await asyncio.sleep(0)
    assert pool.given_up == 1


async def test_no_request_is_held_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(router_module, "MAX_HOLD_S", 0.05)
    with pytest.raises(PoolUnavailable) as refused:
        await _result(Router([FakePool(asleep_s=30.0)]), RequestDraft("x"))
    assert refused.value.retry_after_s == 30.0
