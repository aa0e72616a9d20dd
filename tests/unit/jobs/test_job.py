"""What a job shows: while its pool is being started for it, and when it is taken up after its end."""

from __future__ import annotations

from dataclasses import replace

from serve_app.jobs import JobRecord, JobState
from serve_app.jobs.job import Job
from serve_app.request import RequestDraft
from serve_app.result import StepProgress


def test_a_job_says_that_an_accelerator_is_being_started_until_it_is_drawn() -> None:
    job = Job(JobRecord(id="x", draft=RequestDraft("x"), created_at=0.0, starts=1), event_buffer=10)
    job.begin_drawing()
    job.step(StepProgress("x", 0, 0, 4, starting_pool="inf2"))
    job.step(StepProgress("x", 0, 0, 4, starting_pool="inf2"))  # nothing new
    assert job.view.progress.state is JobState.STARTING
    assert job.view.progress.message == "starting an accelerator of pool inf2"
    assert [event.kind for event in job.log.after(0)] == ["starting", "starting"]
    job.step(StepProgress("x", 0, 1, 4))
    assert job.view.progress == replace(job.view.progress, state=JobState.RUNNING, message=None)


def test_the_end_of_a_job_keeps_its_number_when_the_job_is_taken_up_again() -> None:
    record = JobRecord(
        id="x",
        draft=RequestDraft("x"),
        created_at=0.0,
        starts=2,
        state=JobState.FINISHED,
        last_event_id=1_000_008,
    )
    job = Job(record, event_buffer=10)
    job.end(record)
    # Who has seen any event but the last one is told of it, whatever number the first of a new log would have.
    for last_seen in (0, 1, 8, 1_000_001, 1_000_007):
        assert [event.id for event in job.log.after(last_seen)] == [record.last_event_id]
    assert job.log.after(record.last_event_id) == []
