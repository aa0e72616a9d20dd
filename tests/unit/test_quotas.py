"""How much each caller may draw: the minute's bucket, pictures in flight, and several replicas over one book."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import pytest

from serve_app import quotas as module
from serve_app.errors import GenerationFailed, InvalidRequest, LimitReached, PoolUnavailable, QueueFull
from serve_app.live_drawings_handle import SharedByIngresses
from serve_app.quotas import Claim, QuotaBook, Quotas, Refusal
from serve_app.settings import AccessSettings, CallerLimits


class Clock:
    """Monotonic seconds that only pass when told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def asked(
    images: int = 1,
    *,
    caller: str = "key:a",
    holder: str = "one",
    held: int = 0,
    per_minute: float | None = None,
    in_flight: int | None = None,
) -> Claim:
    return Claim(holder, caller, images, held, per_minute, in_flight)


async def wait_of(book: QuotaBook, claim: Claim) -> float | None:
    refusal = await book.claim(claim)
    return None if refusal is None else refusal.retry_after_s


async def test_a_minutes_pictures_may_come_at_once_and_then_at_their_pace() -> None:
    clock = Clock()
    book = QuotaBook(clock)
    assert [await wait_of(book, asked(per_minute=6)) for _ in range(6)] == [None] * 6
    assert await wait_of(book, asked(per_minute=6)) == pytest.approx(10.0)
    assert await wait_of(book, asked(3, per_minute=6)) == pytest.approx(30.0)
    assert await wait_of(book, asked(caller="key:b", per_minute=6)) is None
    clock.now += 9.9
    assert await wait_of(book, asked(per_minute=6)) == pytest.approx(0.1)
    clock.now += 0.1
    assert await wait_of(book, asked(per_minute=6)) is None  # the wait that was told was enough
    await book.refund("key:a", 1)
    assert await wait_of(book, asked(per_minute=6)) is None
    clock.now += 3600
    assert [await wait_of(book, asked(per_minute=6)) for _ in range(7)][:6] == [None] * 6


async def test_a_request_for_more_than_a_minute_has_is_let_in_and_leaves_a_debt() -> None:
    clock = Clock()
    book = QuotaBook(clock)
    assert await wait_of(book, asked(16, per_minute=6)) is None
    assert await wait_of(book, asked(per_minute=6)) == pytest.approx(110.0)
    clock.now += 110.0
    assert await wait_of(book, asked(per_minute=6)) is None


async def test_pictures_in_flight_are_those_of_all_replicas() -> None:
    clock = Clock()
    book = QuotaBook(clock)
    assert await book.claim(asked(2, in_flight=3)) is None
    assert isinstance(await book.claim(asked(2, holder="two", in_flight=3)), Refusal)
    assert await book.claim(asked(1, holder="two", in_flight=3)) is None
    assert await book.claim(asked(3, holder="two", caller="key:b", in_flight=3)) is None
    assert isinstance(await book.claim(asked(1, held=2, in_flight=3)), Refusal)
    await book.hold("one", {})
    assert await book.claim(asked(2, in_flight=3)) is None
    # A replica that died says nothing more; one that lives repeats itself.
    clock.now += module.LEASE_S - 1
    await book.hold("two", {"key:a": 1})
    clock.now += 2
    assert await book.claim(asked(2, holder="three", in_flight=3)) is None


async def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_REMEMBERED", 3)
    book = QuotaBook(Clock())
    for number in range(10):
        assert await book.claim(asked(caller=f"address:{number}", per_minute=1)) is None
    assert len(book._buckets) == 3


def limited(**limits: float) -> AccessSettings:
    return AccessSettings(limits=CallerLimits.model_validate(limits))


async def test_nothing_is_counted_without_limits() -> None:
    quotas = Quotas(AccessSettings())
    async with quotas.drawing("key:a", 1000):
        assert not quotas._held
    await quotas.charge("key:a", 1000)


async def test_a_drawing_holds_its_place_until_it_ends_however_that_is() -> None:
    quotas = Quotas(limited(max_images_in_flight=2))
    with pytest.raises(InvalidRequest, match="not 3"):
        async with quotas.drawing("key:a", 3):
            raise AssertionError
    async with quotas.drawing("key:a", 2):
        with pytest.raises(LimitReached) as caught:
            async with quotas.drawing("key:a", 1):
                raise AssertionError
        assert caught.value.retry_after_s > 0
        async with quotas.drawing("key:b", 2):
            pass
    with pytest.raises(GenerationFailed):
        async with quotas.drawing("key:a", 2):
            raise GenerationFailed("x")

    async def left() -> None:
        async with quotas.drawing("key:a", 2):
            await asyncio.sleep(60)

    task = asyncio.create_task(left())
    await asyncio.sleep(0.01)
    task.cancel()
    await asyncio.wait({task})
    async with quotas.drawing("key:a", 2):
        pass


async def test_what_the_service_refused_costs_no_picture_of_the_minute() -> None:
    quotas = Quotas(limited(images_per_minute=1))
    for _ in range(3):
        with pytest.raises(QueueFull):
            async with quotas.drawing("key:a", 1):
                raise QueueFull("full")
    async with quotas.drawing("key:a", 1):
        pass
    with pytest.raises(LimitReached) as caught:
        await quotas.charge("key:a", 1)
    assert 50 < caught.value.retry_after_s <= 60
    await quotas.give_back("key:a", 1)
    await quotas.charge("key:a", 1)


async def test_names_may_have_limits_of_their_own() -> None:
    settings = AccessSettings(
        limits=CallerLimits(max_images_in_flight=1), limits_by_name={"page": CallerLimits()}
    )
    assert settings.limits_for("key:web").max_images_in_flight == 1
    assert settings.limits_for("address:1.2.3.4").max_images_in_flight == 1
    assert settings.limits_for("key:page").max_images_in_flight is None


class Away:
    """A book whose place is being restarted."""

    async def claim(self, claim: Claim) -> Refusal | None:
        raise PoolUnavailable("away")

    async def refund(self, caller: str, images: int) -> None:
        raise PoolUnavailable("away")

    async def hold(self, holder: str, images: Mapping[str, int]) -> None:
        raise PoolUnavailable("away")


async def test_two_replicas_share_one_book_and_each_goes_on_without_it() -> None:
    shared = SharedByIngresses()
    one, two = (Quotas(limited(max_images_in_flight=2), shared) for _ in range(2))
    async with one.drawing("key:a", 1), two.drawing("key:a", 1):
        for quotas in (one, two):
            with pytest.raises(LimitReached):
                async with quotas.drawing("key:a", 1):
                    raise AssertionError
    async with asyncio.timeout(5):
        while shared._held:
            await asyncio.sleep(0.001)
    alone = Quotas(limited(max_images_in_flight=1), Away())
    async with alone.drawing("key:a", 1):
        with pytest.raises(LimitReached):
            async with alone.drawing("key:a", 1):
                raise AssertionError
    async with alone.drawing("key:a", 1):
        pass


async def test_a_restarted_book_is_told_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "HOLD_EVERY_S", 0.005)
    shared = SharedByIngresses()
    one = Quotas(limited(max_images_in_flight=2), shared)
    async with one.drawing("key:a", 2):
        QuotaBook.__init__(shared)
        async with asyncio.timeout(5):
            while not shared._held:
                await asyncio.sleep(0.001)
        with pytest.raises(LimitReached):
            async with Quotas(limited(max_images_in_flight=2), shared).drawing("key:a", 1):
                raise AssertionError
