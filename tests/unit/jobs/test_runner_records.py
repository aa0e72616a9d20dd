"""`JobRunner` and what it keeps: idempotency keys, records that run out, records that cannot be read."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from serve_app.errors import InvalidRequest, NotFound, StoreUnavailable
from serve_app.jobs import IdempotencyKey, JobRecord, JobState
from tests.unit.jobs.conftest import MakeRunner, ended, events_of, eventually, nothing_open, order, until


async def test_an_idempotency_key_leads_to_the_job_it_made(make_runner: MakeRunner) -> None:
    runner, service = make_runner(delay_s=0.02)
    key = IdempotencyKey("a" * 64, "b" * 64)
    answers = await asyncio.gather(*(runner.submit(order(idempotency_key=key)) for _ in range(4)))
    (job_id,) = {answer.job.record.id for answer in answers}
    assert sum(answer.created for answer in answers) == 1
    await ended(runner, job_id)
    again = await runner.submit(order(idempotency_key=key))
    assert (again.created, again.job.record.id) == (False, job_id)
    assert len(service.drafts) == 1
    with pytest.raises(InvalidRequest) as refusal:
        await runner.submit(order(idempotency_key=IdempotencyKey("a" * 64, "c" * 64)))
    assert refusal.value.field == "idempotency_key"
    # It survives the runner.
    other, service = make_runner()
    again = await other.submit(order(idempotency_key=key))
    assert (again.created, again.job.record.id) == (False, job_id)
    assert service.drafts == []


async def test_a_key_without_its_job_is_free_again(make_runner: MakeRunner) -> None:
    runner, _ = make_runner()
    key = IdempotencyKey("a" * 64, "b" * 64)
    # As when the process dies between the two writes of an order.
    await runner._records.put_key(key.hash, "c" * 64, order().draft.request_id)
    assert (await runner.submit(order(idempotency_key=key))).created


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"fingerprint"'])
async def test_a_key_that_cannot_be_read_is_free_again(
    make_runner: MakeRunner, tmp_path: Path, content: str
) -> None:
    folder = tmp_path / "store" / "jobs" / "keys"
    folder.mkdir(parents=True)
    (folder / f"{'a' * 64}.json").write_text(content)
    runner, _ = make_runner()
    key = IdempotencyKey("a" * 64, "b" * 64)
    first = await runner.submit(order(idempotency_key=key))
    assert first.created
    again = await runner.submit(order(idempotency_key=key))
    assert (again.created, again.job.record.id) == (False, first.job.record.id)


async def test_records_are_removed_when_their_time_is_over(make_runner: MakeRunner, tmp_path: Path) -> None:
    runner, _ = make_runner(retention_s=0.3)
    job_id = (await runner.submit(order())).job.record.id
    await ended(runner, job_id)
    other, _ = make_runner(retention_s=0.3)
    done = tmp_path / "store" / "jobs" / "done" / f"{job_id}.json"
    assert done.is_file()

    async def gone() -> bool:
        return not done.exists()

    other.start()
    await eventually(gone)
    for one in (runner, other):  # the first one still has it in memory
        with pytest.raises(NotFound):
            await one.get(job_id)


async def test_a_record_that_cannot_be_read_stops_nobody(make_runner: MakeRunner, tmp_path: Path) -> None:
    folder = tmp_path / "store" / "jobs" / "open"
    folder.mkdir(parents=True)
    broken = folder / f"{order().draft.request_id}.json"
    broken.write_text("{")
    runner, _ = make_runner()
    job_id = (await runner.submit(order())).job.record.id
    assert (await ended(runner, job_id)).progress.state is JobState.FINISHED
    assert broken.exists()


async def test_a_new_runner_takes_up_what_the_last_one_left(make_runner: MakeRunner) -> None:
    first, drawn_before = make_runner(delay_s=30.0)
    ids = [(await first.submit(order(f"fox {number}"))).job.record.id for number in range(3)]
    await until(first, ids[0], lambda view: view.progress.state is JobState.RUNNING)
    old_events = first.events(ids[0])
    last_seen = [(await anext(old_events)).id for _ in range(3)][-1]
    await old_events.aclose()
    await first.close()  # as when its process dies: nothing is written at the end
    assert drawn_before.finished == []
    second, service = make_runner()
    second.start()
    for number, job_id in enumerate(ids):
        view = await ended(second, job_id)
        assert view.progress.state is JobState.FINISHED
        direct = await service.draw(order(f"fox {number}").draft)
        assert (await service.store.get(job_id, "0_0.png"))[1] == direct.images[0].data
    # Numbers go on, and a reader of the first runner gets the state as it is now.
    events = await events_of(second, ids[0], last_seen)
    assert events[0].id > last_seen
    assert events[-1].kind == "finished"
    # Nothing is left to do for a third one.
    await eventually(lambda: nothing_open(second))
    third, service = make_runner()
    await third.get(ids[0])
    await asyncio.sleep(0.1)
    assert service.drafts == []


async def test_many_jobs_are_taken_up_some_at_a_time(
    make_runner: MakeRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, _ = make_runner(delay_s=30.0)
    ids = [(await first.submit(order(f"fox {number}"))).job.record.id for number in range(64)]
    await first.close()
    second, _ = make_runner(delay_s=30.0, max_running=1)
    put_open, writing, most_writing = second._records.put_open, 0, 0

    async def slow(record: JobRecord) -> None:
        nonlocal writing, most_writing
        writing += 1
        most_writing = max(most_writing, writing)
        await asyncio.sleep(0.02)
        await put_open(record)
        writing -= 1

    monkeypatch.setattr(second._records, "put_open", slow)
    views = [await second.get(job_id) for job_id in ids]
    assert most_writing == 16  # not one by one, for which callers would wait, nor all at once
    assert [view.record.starts for view in views] == [2] * 64
    # Those that wait do so in the order in which they were accepted.
    positions = [view.progress.position for view in views if view.progress.position is not None]
    assert positions == sorted(positions)
    assert len(positions) >= 62


async def test_a_finished_job_is_finished_however_late_the_rest_of_it_is_done(
    make_runner: MakeRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, _ = make_runner(retention_s=0.2)

    async def away(_: str) -> None:
        raise StoreUnavailable("away")

    monkeypatch.setattr(first._records, "remove_open", away)
    job_id = (await first.submit(order())).job.record.id
    await ended(first, job_id)
    await first.close()
    await asyncio.sleep(0.3)  # longer than its end may be asked for
    second, service = make_runner(retention_s=0.2)
    second.start()
    await eventually(lambda: nothing_open(second))
    assert service.drafts == []


async def test_nothing_is_left_of_a_job_when_the_store_comes_back(
    make_runner: MakeRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner, service = make_runner()
    remove_open, refused = runner._records.remove_open, 0

    async def away_once(job_id: str) -> None:
        nonlocal refused
        if not refused:
            refused += 1
            raise StoreUnavailable("away")
        await remove_open(job_id)

    monkeypatch.setattr(runner._records, "remove_open", away_once)
    await ended(runner, (await runner.submit(order())).job.record.id)
    await eventually(lambda: nothing_open(runner))
    assert (refused, len(service.drafts)) == (1, 1)


async def test_readers_of_a_job_that_is_left_for_later_are_let_go(
    make_runner: MakeRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner, _ = make_runner(max_age_s=0.2)

    async def away(_: JobRecord) -> None:
        raise StoreUnavailable("away")

    with monkeypatch.context() as store:
        store.setattr(runner._records, "put_done", away)
        job_id = (await runner.submit(order())).job.record.id
        async with asyncio.timeout(10):
            events = [event async for event in runner.events(job_id)]
    assert all(event.record is None for event in events)
    assert (await ended(runner, job_id)).progress.state is JobState.FAILED
    async with asyncio.timeout(10):
        later = [event async for event in runner.events(job_id, events[-1].id)]
    assert later[-1].kind == "failed"
