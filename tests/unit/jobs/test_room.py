"""How many jobs there may be: those that have ended are not unfinished, but their webhooks have a bound too."""

from __future__ import annotations

import pytest

from serve_app.errors import TooManyJobs
from serve_app.jobs import JobOrder, JobRecord, JobState
from serve_app.jobs.job import Job
from serve_app.jobs.room import refuse_too_many
from serve_app.request import RequestDraft
from tests.unit.jobs.conftest import MakeRunner, ended, order
from tests.unit.jobs.test_webhooks import Resolver, webhooks


def _job(*, telling: bool = False) -> Job:
    record = JobRecord(id="x", draft=RequestDraft("x"), created_at=0.0, starts=1)
    job = Job(record, event_buffer=1)
    if telling:
        job.end(record.model_copy(update={"state": JobState.FINISHED}))
    return job


@pytest.mark.parametrize(
    ("unfinished", "telling", "accepting", "webhook", "message"),
    [
        (1, 0, 0, False, None),
        (2, 0, 0, False, "2 jobs are unfinished, and no more may be"),
        (1, 0, 1, True, "2 jobs are unfinished, and no more may be"),
        (1, 1, 0, True, None),
        (1, 2, 0, False, None),
        (1, 2, 0, True, "the webhooks of 2 jobs are still to be delivered"),
    ],
)
def test_room(unfinished: int, telling: int, accepting: int, webhook: bool, message: str | None) -> None:
    jobs = [*(_job() for _ in range(unfinished)), *(_job(telling=True) for _ in range(telling))]

    def ask() -> None:
        refuse_too_many(jobs, accepting, 2, whose="jobs", webhook=webhook, retry_after_s=3.0)

    if message is None:
        ask()
        return
    with pytest.raises(TooManyJobs, match=message) as refusal:
        ask()
    assert refusal.value.retry_after_s == 3.0


@pytest.mark.parametrize("whose", ["all", "an owner's"])
async def test_a_receiver_that_is_down_closes_the_service_to_nobody(
    make_runner: MakeRunner, whose: str
) -> None:
    receivers = webhooks(Resolver(["127.0.0.1"], OSError("away")), "hooks.test")
    receivers._wait_s = 30.0
    runner, _ = make_runner(webhooks=receivers, **({"max_unfinished": 1} if whose == "all" else {}))

    async def submit(webhook_url: str | None = None) -> str:
        wanted = JobOrder(order().draft, webhook_url=webhook_url, owner="o", max_unfinished=1)
        return (await runner.submit(wanted)).job.record.id

    await ended(runner, await submit("http://hooks.test/"))
    await ended(runner, await submit())
    with pytest.raises(TooManyJobs, match="webhooks of 1"):
        await submit("http://hooks.test/")
