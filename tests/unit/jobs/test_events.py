"""The event log: every reader at its own pace, with a bounded memory."""

from __future__ import annotations

import asyncio

from serve_app.jobs import JobProgress, JobRecord, JobState
from serve_app.jobs.events import EventLog
from serve_app.request import RequestDraft

RUNNING = JobProgress(JobState.RUNNING)
RECORD = JobRecord(id="x", draft=RequestDraft("x"), created_at=0.0)


def _ids(log: EventLog, last_seen: int) -> list[int]:
    return [event.id for event in log.after(last_seen)]


def test_a_reader_who_comes_back_misses_nothing_that_is_kept() -> None:
    log = EventLog(capacity=3)
    for _ in range(5):
        log.append(RUNNING)
    assert _ids(log, 4) == [5]
    assert _ids(log, 2) == [3, 4, 5]
    assert _ids(log, 5) == []


def test_a_reader_who_missed_some_gets_the_current_state() -> None:
    log = EventLog(capacity=3, first_id=1_000_001)
    for _ in range(5):
        log.append(RUNNING)
    for last_seen in (0, 7, 1_000_001, 9_000_000):
        assert _ids(log, last_seen) == [1_000_005]


def test_of_each_picture_only_the_newest_preview_is_kept() -> None:
    log = EventLog(capacity=10)
    for step in range(3):
        for image in range(2):
            log.append(RUNNING, image, bytes([step, image]))
    kept = [event.preview for event in log.after(0)]
    assert kept == [None, None, None, None, b"\2\0", b"\2\1"]
    log.append(JobProgress(JobState.FINISHED), record=RECORD)
    assert [event.preview for event in log.after(0)] == [None] * 7


async def test_readers_of_any_speed_see_the_end() -> None:
    log = EventLog(capacity=4)

    async def read(pause_s: float) -> list[int]:
        seen = []
        async for event in log.follow():
            seen.append(event.id)
            await asyncio.sleep(pause_s)
        return seen

    readers = [asyncio.create_task(read(pause_s)) for pause_s in (0.0, 0.03)]
    for _ in range(20):
        log.append(RUNNING)
        await asyncio.sleep(0.005)
    log.append(JobProgress(JobState.FINISHED), record=RECORD)
    log.close()
    async with asyncio.timeout(5):
        fast, slow = await asyncio.gather(*readers)
    assert fast == list(range(1, 22))
    assert slow[-1] == 21
    assert slow == sorted(set(slow))
    assert len(slow) < 21
    async with asyncio.timeout(1):
        assert [event.id async for event in log.follow(21)] == []
