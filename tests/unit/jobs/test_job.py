"""What a job shows while its pool is being started for it."""

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
