"""Job records on a folder and on a real S3 server."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from serve_app.errors import NotFound, StoreUnavailable
from serve_app.jobs import JobRecord, JobRecordStore, JobState
from serve_app.jobs.records import JobError
from serve_app.request import ImageFormat, OutputOptions, Priority, RequestDraft
from serve_app.settings import JobsSettings, StoreSettings
from serve_app.store import PictureStore
from tests.unit.jobs.conftest import MakeRunner, ended, order
from tests.unit.test_store import s3_endpoint, settings  # noqa: F401 - fixtures

DRAFT = RequestDraft(
    prompt="Füchse 🦊 \n \u2028",
    negative_prompt="x",
    width=64,
    num_inference_steps=3,
    guidance_scale=1.5,
    seed=2**32 - 1,
    num_images=3,
    scheduler_name="ddim",
    output=OutputOptions(ImageFormat.WEBP, 80),
    priority=Priority.BATCH,
    deadline=time.time() + 100.25,
    preview_every=2,
    pool="default",
)


@pytest.fixture
def records(settings: StoreSettings) -> JobRecordStore:  # noqa: F811
    return JobRecordStore(settings, JobsSettings())


async def test_a_record_comes_back_as_it_was(records: JobRecordStore) -> None:
    record = JobRecord(id=DRAFT.request_id, draft=DRAFT, created_at=time.time(), base_url="http://x/serve")
    with pytest.raises(NotFound):
        await records.get(record.id)
    assert await records.open_jobs() == []
    await records.put_open(record)
    assert await records.get(record.id) == record
    assert await records.open_jobs() == [record]
    assert await records.open_jobs(known={record.id}) == []
    end = record.model_copy(
        update={
            "state": JobState.FAILED,
            "ended_at": time.time(),
            "error": JobError(code="internal", message="x"),
        }
    )
    await records.put_done(end)
    assert await records.open_jobs() == [end]  # the end is what counts, as long as both are there
    await records.remove_open(record.id)
    await records.remove_open(record.id)
    assert await records.open_jobs() == []
    assert await records.get(record.id) == end


async def test_keys(records: JobRecordStore) -> None:
    assert await records.get_key("a" * 64) is None
    await records.put_key("a" * 64, "b" * 64, DRAFT.request_id)
    assert await records.get_key("a" * 64) == ("b" * 64, DRAFT.request_id)


async def test_a_job_survives_its_runner_on_either_store(
    make_runner: MakeRunner,
    settings: StoreSettings,  # noqa: F811
) -> None:
    first, _ = make_runner(store=settings, delay_s=30.0)
    job_id = (await first.submit(order(num_images=2))).job.record.id
    await first.close()
    second, service = make_runner(store=settings)
    second.start()
    view = await ended(second, job_id, within_s=30.0)
    assert view.progress.state is JobState.FINISHED
    direct = await service.draw(order(num_images=2).draft)
    for number, image in enumerate(direct.images):
        assert (await service.store.get(job_id, f"0_{number}.png"))[1] == image.data


async def test_sweeping_pictures_and_records_leave_each_other_alone(tmp_path: Path) -> None:
    store = StoreSettings(url=str(tmp_path), max_bytes=1, max_age_s=1)
    records = JobRecordStore(store, JobsSettings(retention_s=50, max_age_s=100))
    record = JobRecord(id=DRAFT.request_id, draft=DRAFT, created_at=0.0, ended_at=time.time())
    await records.put_open(record)
    await records.put_done(record)
    await records.put_key("a" * 64, "b" * 64, record.id)
    half_written = tmp_path / "jobs" / "open" / "x.json#1"
    half_written.write_text("half")
    await PictureStore(store).sweep()
    assert await records.sweep() == 0
    assert len(list(tmp_path.glob("jobs/*/*"))) == 4

    def age(seconds: float) -> None:
        for file in tmp_path.glob("jobs/*/*"):
            os.utime(file, (time.time() - seconds, time.time() - seconds))

    age(51)
    # Something is left to do for it: without its end it would be drawn again.
    assert await records.sweep() == 0
    await records.remove_open(record.id)
    assert await records.sweep() == 1
    assert {file.parent.name for file in tmp_path.glob("jobs/*/*")} == {"open", "keys"}
    await records.put_open(record)
    age(4000)
    assert await records.sweep() == 0
    # What is unfinished is never swept.
    assert [file.name for file in tmp_path.glob("jobs/*/*")] == [f"{record.id}.json"]


async def test_an_end_counts_for_its_job_however_long_ago_it_was(records: JobRecordStore) -> None:
    record = JobRecord(id=DRAFT.request_id, draft=DRAFT, created_at=0.0)
    end = record.model_copy(update={"state": JobState.FINISHED, "ended_at": 1.0})
    await records.put_open(record)
    await records.put_done(end)
    with pytest.raises(NotFound, match="no longer kept"):
        await records.get(record.id)
    assert await records.open_jobs() == [end]


async def test_a_store_that_is_away_says_so(tmp_path: Path) -> None:
    options = {
        "endpoint": "http://127.0.0.1:1",
        "region": "us-east-1",
        "access_key_id": "x",
        "secret_access_key": "x",
    }
    records = JobRecordStore(StoreSettings(url="s3://nobody", options=options), JobsSettings())
    record = JobRecord(id=DRAFT.request_id, draft=DRAFT, created_at=0.0)
    with pytest.raises(StoreUnavailable):
        await records.put_open(record)
