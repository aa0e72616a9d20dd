"""Jobs: requests that are accepted at once and drawn whatever happens meanwhile. No Ray, HTTP or torch.

The life of a job:

1. `JobRunner.submit` checks it, writes its record (`JobRecord`) to the store, and only then says yes.
2. `JobDrawing` waits for its turn (`Turns`), hands it to the pools, and hands it to them again when they refuse it
   or die. What happens is appended to its `EventLog`, which any number of readers follow.
3. Its pictures, then its final record are stored; then the webhook is delivered, then the mark that something
   is left to do is removed. A runner that starts anew goes through these marks and takes up where the last one
   was stopped, so a job ends exactly once for its readers, and its webhook is delivered at least once.
"""

from serve_app.jobs.body import JobBody, job_body
from serve_app.jobs.drawing import Drawer
from serve_app.jobs.events import JobEvent, JobProgress
from serve_app.jobs.keeper import IdempotencyKey, JobKeeper, JobOrder, JobView, Submission
from serve_app.jobs.record_store import JobRecordStore
from serve_app.jobs.records import JobRecord, JobState
from serve_app.jobs.runner import JobRunner

__all__ = [
    "Drawer",
    "IdempotencyKey",
    "JobBody",
    "JobEvent",
    "JobKeeper",
    "JobOrder",
    "JobProgress",
    "JobRecord",
    "JobRecordStore",
    "JobRunner",
    "JobState",
    "JobView",
    "Submission",
    "job_body",
]
