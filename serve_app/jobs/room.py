"""How many jobs there may be at a time."""

from __future__ import annotations

from collections.abc import Sequence

from serve_app.errors import TooManyJobs
from serve_app.jobs.job import Job


def refuse_too_many(
    jobs: Sequence[Job], accepting: int, most: int, *, whose: str, webhook: bool, retry_after_s: float
) -> None:
    """Refuses one more job where there are as many as may be.

    A job that has ended is not unfinished while its webhook is told: a receiver that is down must not close the
    service for everybody. As many of these are kept; beyond that, orders with a webhook are refused.

    Args:
        jobs: That something is left to do for.
        accepting: Jobs that are being accepted.
        most: Most that may be unfinished.
        whose: For people, after a number: "jobs" or "of your jobs".
        webhook: Whether the new one has a webhook.
        retry_after_s: When there may be room.

    Raises:
        TooManyJobs: There is no room.
    """
    telling = sum(job.ended.is_set() for job in jobs)
    if len(jobs) - telling + accepting >= most:
        raise TooManyJobs(f"{most} {whose} are unfinished, and no more may be", retry_after_s)
    if webhook and telling >= most:
        raise TooManyJobs(f"the webhooks of {telling} {whose} are still to be delivered", retry_after_s)
