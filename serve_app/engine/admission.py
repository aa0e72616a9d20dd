"""Refusals at the door: `refuse_unless_possible`."""

from __future__ import annotations

from collections.abc import Sequence

from serve_app.engine.picture import Picture
from serve_app.engine.scheduler import Scheduler
from serve_app.engine.step_times import StepTimes
from serve_app.errors import DeadlineExceeded, DeadlineUnreachable, QueueFull

_LEAST_RETRY_AFTER_S = 1.0


def backlog_s(scheduler: Scheduler, times: StepTimes) -> float:
    """Predicted seconds of all accepted work; 0 before the first measurement."""
    return times.work_s(scheduler.pictures(), scheduler.max_rows) if times.measured else 0.0


def refuse_unless_possible(
    pictures: Sequence[Picture],
    scheduler: Scheduler,
    times: StepTimes,
    *,
    max_queue_s: float | None,
    unix_now: float,
) -> None:
    """Raises unless all pictures of a new request have a place and time enough.

    Args:
        pictures: All pictures of one request.
        scheduler: What was accepted before.
        times: Measured step times.
        max_queue_s: Most predicted seconds of accepted work, or None.
        unix_now: Unix time in seconds.

    Raises:
        QueueFull: No place, or too much work accepted.
        DeadlineUnreachable: The predicted finish is after the deadline.
        DeadlineExceeded: The deadline is over.
    """
    request = pictures[0].request
    ahead = list(scheduler.pictures())
    work_s = backlog_s(scheduler, times)
    lacking = len(pictures) - scheduler.places
    if lacking > 0:
        # Places come free one picture at a time, at the pace at which the whole backlog is worked off.
        wait_s = lacking * work_s / len(ahead) if ahead else 0.0
        raise QueueFull(
            f"the queue has no room for {len(pictures)} more pictures", max(_LEAST_RETRY_AFTER_S, wait_s)
        )
    if max_queue_s is not None and work_s > max_queue_s:
        raise QueueFull(
            f"{work_s:.0f} s of work are waiting already", max(_LEAST_RETRY_AFTER_S, work_s - max_queue_s)
        )
    if request.deadline is None:
        return
    left_s = request.deadline - unix_now
    if left_s <= 0:
        raise DeadlineExceeded("the deadline is over already")
    if not times.measured:
        return  # nothing is known to be unreachable yet
    before = [picture for picture in ahead if picture.interactive or not pictures[0].interactive]
    own_s = times.work_s(pictures, scheduler.max_rows)
    before_s = times.work_s(before, scheduler.max_rows, most_steps=request.num_inference_steps)
    if own_s + before_s > left_s:
        raise DeadlineUnreachable(
            f"it would take about {own_s + before_s:.1f} s, but only {left_s:.1f} s are left",
            max(_LEAST_RETRY_AFTER_S, before_s),
        )
