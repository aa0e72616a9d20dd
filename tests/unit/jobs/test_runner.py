"""The runner: what was accepted ends, whatever happens to pools, store, caller and the runner itself."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from pathlib import Path

import pytest

from serve_app.errors import (
    GenerationFailed,
    InvalidRequest,
    NotFound,
    PoolUnavailable,
    QueueFull,
    StoreUnavailable,
    TooManyJobs,
    UnknownModel,
    UnsupportedRequest,
)
from serve_app.jobs import JobState
from serve_app.request import Priority, RequestDraft
from serve_app.result import GenerationResult, StepProgress
from tests.unit.jobs.conftest import MakeRunner, ended, events_of, eventually, nothing_open, order, until


async def test_a_job_ends_with_its_pictures_and_its_record(make_runner: MakeRunner) -> None:
    runner, service = make_runner()
    submitted = await runner.submit(order(num_images=2))
    assert submitted.created
    assert submitted.job.progress.state is JobState.QUEUED
    job_id = submitted.job.record.id
    view = await ended(runner, job_id)
    assert view.progress.state is JobState.FINISHED
    assert view.record.result is not None
    assert [image.seed for image in view.record.result.images] == [7, 8]
    expected = await service.draw(order(num_images=2).draft)
    for image, drawn in zip(view.record.result.images, expected.images, strict=True):
        _, data = await service.store.get(job_id, image.name)
        assert data == drawn.data
    kinds = [event.kind for event in await events_of(runner, job_id)]
    assert kinds == ["queued", "starting", *["step"] * 5, "finished"]
    # Another runner knows it from the store alone.
    other, _ = make_runner()
    assert (await other.get(job_id)).record == (await runner.get(job_id)).record
    last = (await events_of(other, job_id))[0]
    assert (last.kind, last.record) == ("finished", view.record)


async def test_the_record_is_there_before_the_answer(make_runner: MakeRunner, tmp_path: Path) -> None:
    runner, _ = make_runner(delay_s=30.0)
    submitted = await runner.submit(order())
    assert (tmp_path / "store" / "jobs" / "open" / f"{submitted.job.record.id}.json").is_file()


async def test_without_the_store_nothing_is_accepted(
    make_runner: MakeRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner, service = make_runner()

    async def refuse(*_: object) -> None:
        raise StoreUnavailable("away")

    monkeypatch.setattr(runner._records, "put_open", refuse)
    with pytest.raises(StoreUnavailable):
        await runner.submit(order())
    await asyncio.sleep(0.05)
    assert service.drafts == []


async def test_a_caller_who_leaves_while_ordering_leaves_a_whole_job(
    make_runner: MakeRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner, _ = make_runner()
    await runner.submit(order("first"))
    put_open = runner._records.put_open

    async def slow(record: object) -> None:
        await put_open(record)  # type: ignore[arg-type]
        await asyncio.sleep(0.1)

    monkeypatch.setattr(runner._records, "put_open", slow)
    wanted = order()
    call = asyncio.create_task(runner.submit(wanted))
    await asyncio.sleep(0.05)
    call.cancel()
    await asyncio.gather(call, return_exceptions=True)
    view = await ended(runner, wanted.draft.request_id)
    assert view.progress.state is JobState.FINISHED


async def test_an_order_sent_twice_makes_one_job(make_runner: MakeRunner) -> None:
    runner, service = make_runner(delay_s=0.02)
    wanted = order()
    first, second = await asyncio.gather(runner.submit(wanted), runner.submit(wanted))
    assert {first.created, second.created} == {True, False}
    await ended(runner, wanted.draft.request_id)
    assert len(service.drafts) == 1


async def test_cancelling_stops_that_job_alone(make_runner: MakeRunner) -> None:
    runner, service = make_runner(delay_s=0.1)
    doomed = (await runner.submit(order("doomed"))).job.record.id
    other = (await runner.submit(order("other"))).job.record.id
    await until(runner, doomed, lambda view: view.progress.state is JobState.RUNNING)
    for _ in range(2):
        view = await runner.cancel(doomed)
        assert view.progress.state is JobState.CANCELLED
    assert service.cancelled == [doomed]
    assert (await events_of(runner, doomed))[-1].kind == "cancelled"
    assert (await ended(runner, other)).progress.state is JobState.FINISHED
    assert (await runner.cancel(other)).progress.state is JobState.FINISHED
    # It does not come back with another runner.
    await eventually(lambda: nothing_open(runner))
    again, service = make_runner()
    assert (await again.get(doomed)).progress.state is JobState.CANCELLED
    assert service.drafts == []


async def test_a_job_can_be_cancelled_in_the_moment_in_which_it_begins(make_runner: MakeRunner) -> None:
    runner, _ = make_runner(delay_s=30.0)
    runner.start()
    wanted = order()

    async def cancelled_at_once() -> JobState:
        while wanted.draft.request_id not in runner._jobs:
            await asyncio.sleep(0)
        async with asyncio.timeout(2):
            return (await runner.cancel(wanted.draft.request_id)).progress.state

    state, _ = await asyncio.gather(cancelled_at_once(), runner.submit(wanted))
    assert state is JobState.CANCELLED
    # Nor does it come back with another runner.
    await runner.close()
    assert (await make_runner()[0].get(wanted.draft.request_id)).progress.state is JobState.CANCELLED


async def test_a_waiting_job_can_be_cancelled_and_its_turn_goes_on(make_runner: MakeRunner) -> None:
    runner, service = make_runner(delay_s=0.05, max_running=1)
    ids = [(await runner.submit(order(f"{number}"))).job.record.id for number in range(3)]
    await until(runner, ids[2], lambda view: view.progress.position == 2 or view.progress.position == 1)
    await runner.cancel(ids[1])
    for job_id in (ids[0], ids[2]):
        assert (await ended(runner, job_id)).progress.state is JobState.FINISHED
    assert [draft.request_id for draft in service.drafts] == [ids[0], ids[2]]


async def test_interactive_jobs_go_before_batch_jobs(make_runner: MakeRunner) -> None:
    runner, service = make_runner(delay_s=0.02, max_running=1)
    ids = [
        (await runner.submit(order(priority=priority))).job.record.id
        for priority in (Priority.INTERACTIVE, Priority.BATCH, Priority.INTERACTIVE)
    ]
    positions = {job_id: (await runner.get(job_id)).progress.position for job_id in ids[1:]}
    assert positions[ids[2]] is not None
    for job_id in ids:
        await ended(runner, job_id)
    assert [draft.request_id for draft in service.drafts] == [ids[0], ids[2], ids[1]]


async def test_too_many_jobs_are_refused_with_a_time(make_runner: MakeRunner) -> None:
    runner, _ = make_runner(delay_s=30.0, max_unfinished=2)
    for _ in range(2):
        await runner.submit(order())
    with pytest.raises(TooManyJobs) as refusal:
        await runner.submit(order())
    assert refusal.value.retry_after_s >= 1.0


@pytest.mark.parametrize(
    ("fields", "kind", "field"),
    [
        ({"width": 65, "height": 64}, UnsupportedRequest, "width"),
        ({"scheduler_name": "abacus"}, UnsupportedRequest, "scheduler_name"),
        ({"pool": "nobody"}, UnknownModel, "pool"),
        ({"webhook_url": "https://example.com/"}, InvalidRequest, "webhook_url"),  # there is no secret
    ],
)
async def test_what_nobody_could_draw_is_refused_at_once(
    make_runner: MakeRunner, fields: dict[str, object], kind: type[InvalidRequest], field: str
) -> None:
    runner, service = make_runner()
    wanted = order()
    rest = {key: fields[key] for key in fields if key == "webhook_url"}
    draft = RequestDraft("x", **{k: v for k, v in fields.items() if k not in rest})  # type: ignore[arg-type]
    with pytest.raises(kind) as refusal:
        await runner.submit(type(wanted)(draft, **rest))  # type: ignore[arg-type]
    assert refusal.value.field == field
    with pytest.raises(NotFound):
        await runner.get(draft.request_id)
    assert service.drafts == []


async def test_an_accepted_job_outlasts_pools_that_are_full_or_away(make_runner: MakeRunner) -> None:
    runner, service = make_runner(failure=QueueFull("the pool is full", 0.01))
    service.is_ready = False
    job_id = (await runner.submit(order())).job.record.id  # nobody can check it, and it is accepted
    await until(runner, job_id, lambda view: view.progress.message is not None)
    service.is_ready = True
    view = await until(runner, job_id, lambda view: view.progress.message == "the pool is full")
    assert view.progress.state is JobState.QUEUED
    service.failure = None
    assert (await ended(runner, job_id)).progress.state is JobState.FINISHED
    assert len(service.drafts) >= 3


async def test_a_job_that_a_pool_refuses_later_fails_with_the_reason(make_runner: MakeRunner) -> None:
    runner, service = make_runner()
    service.is_ready = False
    job_id = (await runner.submit(order(scheduler_name="abacus"))).job.record.id
    service.is_ready = True
    view = await ended(runner, job_id)
    assert view.record.error is not None
    assert (view.record.error.code, view.record.error.field) == ("unsupported", "scheduler_name")


@pytest.mark.parametrize(
    ("failure", "code"),
    [(GenerationFailed("not finite"), "generation_failed"), (RuntimeError("secret"), "internal")],
)
async def test_a_failure_ends_the_job(make_runner: MakeRunner, failure: Exception, code: str) -> None:
    runner, _ = make_runner(failure=failure)
    view = await ended(runner, (await runner.submit(order())).job.record.id)
    assert view.progress.state is JobState.FAILED
    assert view.record.error is not None
    assert view.record.error.code == code
    assert "secret" not in view.record.error.message


async def test_a_job_that_kills_its_replicas_fails_in_the_end(make_runner: MakeRunner) -> None:
    runner, service = make_runner(failure=PoolUnavailable("a replica died"))
    view = await ended(runner, (await runner.submit(order())).job.record.id)
    assert view.record.error is not None
    assert view.record.error.code == "generation_failed"
    assert len(service.drafts) == 5


@pytest.mark.parametrize("limit", ["deadline", "max_age_s"])
async def test_a_job_that_is_too_late_fails(make_runner: MakeRunner, limit: str) -> None:
    runner, service = make_runner(delay_s=30.0, **({"max_age_s": 0.1} if limit == "max_age_s" else {}))
    deadline = time.time() + 0.1 if limit == "deadline" else None
    view = await ended(runner, (await runner.submit(order(deadline=deadline))).job.record.id)
    assert view.record.error is not None
    assert view.record.error.code == "deadline_exceeded"
    assert len(service.cancelled) == 1


async def test_the_end_waits_for_the_store(make_runner: MakeRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    runner, service = make_runner()
    away = 0

    def sometimes(write: Callable[..., Awaitable[None]]) -> Callable[..., Awaitable[None]]:
        async def attempt(*arguments: object) -> None:
            nonlocal away
            if away:
                away -= 1
                raise StoreUnavailable("away")
            await write(*arguments)

        return attempt

    monkeypatch.setattr(service.store, "put", sometimes(service.store.put))
    monkeypatch.setattr(runner._records, "put_done", sometimes(runner._records.put_done))
    wanted = order()
    await runner.submit(wanted)
    away = 2  # the picture takes two attempts more
    view = await ended(runner, wanted.draft.request_id)
    assert (view.progress.state, away) == (JobState.FINISHED, 0)
    doomed = order(deadline=time.time())
    away = 2  # the end does
    await runner.submit(doomed)
    view = await ended(runner, doomed.draft.request_id)
    assert (view.progress.state, away) == (JobState.FAILED, 0)
    assert (await service.store.get(wanted.draft.request_id, "0_0.png"))[0].size


@pytest.mark.parametrize("job_id", ["", "..", "nope", "../../etc/passwd", "A" * 36])
async def test_other_ids_are_not_found(make_runner: MakeRunner, job_id: str) -> None:
    runner, _ = make_runner()
    with pytest.raises(NotFound):
        await runner.get(job_id)
    with pytest.raises(NotFound):
        await runner.cancel(job_id)
    with pytest.raises(NotFound):
        await events_of(runner, job_id)


async def test_progress_begins_again_when_a_replica_dies(
    make_runner: MakeRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner, service = make_runner()
    _, other = make_runner()
    steps = [(0, 2), (0, None), (1, None), (0, 1), (0, None), (1, None), (2, None)]

    async def stream(
        draft: RequestDraft, *, progress: bool = False
    ) -> AsyncGenerator[StepProgress | GenerationResult, None]:
        for step, position in steps:
            yield StepProgress(draft.request_id, 0, step, 2, queue_position=position)
        yield await other.draw(draft)

    monkeypatch.setattr(service, "stream", stream)
    job_id = (await runner.submit(order())).job.record.id
    await ended(runner, job_id)
    seen = [
        (event.kind, event.progress.position, event.progress.step)
        for event in await events_of(runner, job_id)
    ]
    assert seen[2:-1] == [
        ("starting", 2, 0),
        ("step", None, 0),
        ("step", None, 1),
        ("step", None, 0),
        ("step", None, 1),
        ("step", None, 2),
    ]
    assert seen[-1] == ("finished", None, 4)
