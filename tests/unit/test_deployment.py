"""The replica with the fake accelerator, without Ray: results, progress, cancellation, health."""

from __future__ import annotations

import asyncio
import io
import time
from collections.abc import Iterator
from contextlib import aclosing, suppress
from dataclasses import replace

import pytest
from PIL import Image

from serve_app import warmup
from serve_app.callers import Callers
from serve_app.deployment import Replica
from serve_app.engine import fake
from serve_app.errors import (
    ConfigurationError,
    DeadlineUnreachable,
    GenerationCancelled,
    GenerationFailed,
    PoolUnavailable,
    QueueFull,
)
from serve_app.request import GenerationRequest, ImageFormat, OutputOptions
from serve_app.result import GenerationResult, Pixels, ReplicaLoad, StepProgress
from serve_app.settings import PoolSettings

POOL = PoolSettings(name="test", accelerator="fake", model="fake")


@pytest.fixture
def replica() -> Iterator[Replica]:
    """A warm replica, closed at the end."""
    made = Replica(POOL, "fake")
    yield made
    made.close()


def _request(**changes: object) -> GenerationRequest:
    request = GenerationRequest("id", "a red fox", "", 64, 64, 4, 0.0, seed=3)
    return replace(request, **changes)  # type: ignore[arg-type]


async def _result(replica: Replica, request: GenerationRequest) -> GenerationResult:
    events = [event async for event in replica.generate(request)]
    accepted, result = events
    assert isinstance(accepted, ReplicaLoad)
    assert isinstance(result, GenerationResult)
    return result


async def test_files_hold_the_picture_alone_where_that_is_set() -> None:
    replica = Replica(POOL, "fake", picture_metadata=False)
    try:
        result = await _result(replica, _request())
    finally:
        replica.close()
    with Image.open(io.BytesIO(result.images[0].data)) as picture:
        assert picture.info == {}


async def test_pictures_come_in_order_with_their_own_seeds_and_parameters(replica: Replica) -> None:
    result = await _result(replica, _request(num_images=3))
    assert [(image.index, image.seed) for image in result.images] == [(0, 3), (1, 4), (2, 5)]
    assert (result.pool, result.model, result.accelerator) == ("test", "fake", "fake")
    alone = await _result(replica, _request(seed=4))
    assert alone.images[0].data == result.images[1].data
    with Image.open(io.BytesIO(alone.images[0].data)) as picture:
        assert picture.size == (64, 64)
        assert "Seed: 4" in picture.text["parameters"]  # type: ignore[attr-defined]


async def test_formats_are_what_was_asked_for(replica: Replica) -> None:
    for image_format in ImageFormat:
        result = await _result(replica, _request(output=OutputOptions(image_format)))
        with Image.open(io.BytesIO(result.images[0].data)) as picture:
            assert picture.format == image_format.value.upper()


async def test_progress_is_told_step_by_step_when_asked_for(replica: Replica) -> None:
    events = [event async for event in replica.generate(_request(), progress=True)]
    steps = [
        event.step for event in events if isinstance(event, StepProgress) and event.queue_position is None
    ]
    assert steps == [0, 1, 2, 3, 4]
    assert isinstance(events[-1], GenerationResult)


async def test_leaving_frees_the_engine(replica: Replica) -> None:
    async with aclosing(replica.generate(_request(num_inference_steps=150), progress=True)) as events:
        await anext(events)
        assert (await replica.stats()).running_images + (await replica.stats()).queued_images == 1
    for _ in range(100):
        stats = await replica.stats()
        if stats.running_images + stats.queued_images == 0:
            break
        await asyncio.sleep(0.02)
    assert stats.running_images + stats.queued_images == 0
    assert stats.images_cancelled == 1


async def test_an_acceptance_that_fills_the_queue_says_so() -> None:
    replica = Replica(POOL.model_copy(update={"warmup": True, "max_queue_s": 1e-9}), "fake")
    try:
        async with aclosing(replica.generate(_request(num_images=8, num_inference_steps=150))) as events:
            load = await anext(events)
            assert isinstance(load, ReplicaLoad)
            assert load.refusal is None
            assert load.full is not None
            assert "work are waiting already" in load.full.message
            async for event in events:
                assert isinstance(event, GenerationResult)
        async with aclosing(replica.generate(_request())) as events:
            load = await anext(events)
            assert isinstance(load, ReplicaLoad)
            assert load.refusal is None, "there is room again"
    finally:
        replica.close()


async def test_one_failed_picture_fails_its_request_and_no_other(replica: Replica) -> None:
    good, bad = await asyncio.gather(
        _result(replica, _request()),
        _result(replica, _request(prompt=fake.POISON_STEP)),
        return_exceptions=True,
    )
    assert isinstance(good, GenerationResult)
    assert isinstance(bad, GenerationFailed)


async def test_acceptance_tells_what_is_to_be_done(replica: Replica) -> None:
    async with aclosing(replica.generate(_request(num_images=3, num_inference_steps=150))) as events:
        load = await anext(events)
        assert isinstance(load, ReplicaLoad)
        assert load.queued_images + load.running_images == 3


async def test_a_refusal_is_told_with_the_load_and_not_raised() -> None:
    replica = Replica(POOL.model_copy(update={"max_queued_images": 2}), "fake")
    gate = replica._engine.pipeline.gate  # type: ignore[attr-defined]
    gate.clear()
    try:
        drawn = []
        async with asyncio.timeout(20.0):
            for num_images in (1, 2):  # in a step, and waiting for its end
                drawn.append(asyncio.create_task(_result(replica, _request(num_images=num_images))))
                while (await replica.stats()).running_images != 1:
                    await asyncio.sleep(0.01)
        await asyncio.sleep(0)
        (load,) = [event async for event in replica.generate(_request())]
        gate.set()
        assert isinstance(load, ReplicaLoad)
        assert isinstance(load.refusal, QueueFull)
        assert (load.queued_images, load.running_images) == (2, 1)
        await asyncio.gather(*drawn)
        (late,) = [event async for event in replica.generate(_request(deadline=time.time() + 0.001))]
        assert isinstance(late, ReplicaLoad)
        assert isinstance(late.refusal, DeadlineUnreachable)
    finally:
        gate.set()
        replica.close()


async def test_a_drawing_stops_when_its_caller_has_died() -> None:
    living = {"ingress-1", "ingress-2"}
    replica = Replica(POOL, "fake", callers=Callers(lambda: living, look_every_s=0.02, part_every_s=0.3))
    try:
        many_steps = _request(num_inference_steps=150)
        orphan, other = (
            asyncio.create_task(_drained(replica, many_steps, caller=caller))
            for caller in ("ingress-1", "ingress-2")
        )
        await asyncio.sleep(0.2)
        assert not orphan.done()
        living.discard("ingress-1")
        await asyncio.sleep(0.15)
        stats = await replica.stats()
        assert (stats.running_images, stats.images_cancelled) == (
            1,
            1,
        )  # the device is free before the call ends
        assert not orphan.done()
        with pytest.raises(GenerationCancelled, match="has died"):
            await asyncio.wait_for(orphan, 2.0)
        assert not other.done()
        assert isinstance(await other, GenerationResult)
    finally:
        replica.close()


async def _drained(replica: Replica, request: GenerationRequest, *, caller: str) -> object:
    return [event async for event in replica.generate(request, caller=caller)][-1]


def test_sizes_of_the_pool_limit_the_model() -> None:
    pool = POOL.model_copy(update={"sizes": [(512, 512), (64, 128)]})
    replica = Replica(pool, "fake")
    try:
        facts = asyncio.run(replica.facts())
        assert facts.capabilities.fixed_sizes == ((512, 512), (64, 128))
        assert (facts.defaults.width, facts.defaults.height) == (512, 512)  # 64x64 is none of them
        assert facts.step_s is not None
        assert 0.05 < facts.step_s < 1.0  # 0.02 s for a quarter of a megapixel
    finally:
        replica.close()
    with pytest.raises(ConfigurationError, match="sizes: 4096"):
        Replica(POOL.model_copy(update={"sizes": [(4096, 64)]}), "fake")


async def test_a_replica_whose_step_hangs_ends_itself() -> None:
    ended: list[bool] = []
    pool = POOL.model_copy(update={"max_step_s": 0.2})
    replica = Replica(pool, "fake", on_hung=lambda: ended.append(True))
    try:
        replica.check_health()  # idle for whatever time is well
        hangs = asyncio.create_task(_result(replica, _request(prompt=fake.POISON_HANG)))
        async with asyncio.timeout(20.0):
            while not ended:
                await asyncio.sleep(0.02)
                with suppress(RuntimeError):
                    replica.check_health()
        with pytest.raises(RuntimeError, match="has not got anywhere"):
            replica.check_health()
        assert not hangs.done()
        hangs.cancel()
    finally:
        replica._engine.pipeline.hung.set()  # type: ignore[attr-defined]
        replica.close()


async def test_a_replica_whose_device_broke_ends_itself() -> None:
    ended: list[bool] = []
    replica = Replica(POOL, "fake", on_broken=lambda: ended.append(True))
    try:
        with pytest.raises(GenerationFailed):
            await _result(replica, _request(prompt=fake.POISON_STEP))
        assert not ended
        with pytest.raises(PoolUnavailable, match="device"):
            await _result(replica, _request(prompt=fake.POISON_DEVICE))
        assert ended
    finally:
        replica.close()


def test_a_device_that_is_broken_from_the_start_fails_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    ended: list[bool] = []
    monkeypatch.setattr(fake.FakePipeline, "_fail_if_broken", lambda self: 1 // 0)
    monkeypatch.setattr(fake.FakePipeline, "works", lambda self: False)
    with pytest.raises(ConfigurationError, match="device"):
        Replica(POOL, "fake", on_broken=lambda: ended.append(True))
    assert not ended


def test_a_flat_test_picture_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    flat = Pixels(64, 64, bytes(3 * 64 * 64))
    monkeypatch.setattr(fake.FakePipeline, "decode", lambda self, state: flat)
    with pytest.raises(ConfigurationError, match="one flat colour"):
        Replica(POOL, "fake")


def test_a_test_picture_that_never_comes_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warmup, "WARMUP_TIMEOUT_S", 0.0)
    with pytest.raises(ConfigurationError, match="took longer than"):
        Replica(POOL, "fake")
