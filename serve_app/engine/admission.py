"""Refusals at the door: `refuse_unless_possible`, `queue_full`."""

from __future__ import annotations

from collections.abc import Sequence

from serve_app.engine.pace import Pace
from serve_app.engine.picture import Picture
from serve_app.engine.scheduler import Scheduler
from serve_app.engine.step_times import StepTimes
from serve_app.errors import DeadlineExceeded, DeadlineUnreachable, LimitReached, QueueFull

OWNERS_SHARE = 0.75
"""Of the queue's places, and of its predicted seconds: as much as one owner of an API key may fill, so that there is
room for the next one who comes. Where no keys are asked for, nobody can be told apart, and the queue is for all."""

_LEAST_RETRY_AFTER_S = 1.0


def backlog_s(scheduler: Scheduler, times: StepTimes, pace: Pace) -> float:
    """Predicted seconds until all accepted work is done; 0 before the first measurement."""
    return times.work_s(scheduler.pictures(), scheduler.max_rows) / pace.value if times.measured else 0.0


def queue_full(
    num_images: int, scheduler: Scheduler, work_s: float, *, max_queue_s: float | None
) -> QueueFull | None:
    """Why there is no room for so many more pictures, whoever's they are; None where there is.

    Args:
        num_images: Pictures of one request.
        scheduler: What was accepted before.
        work_s: Its `backlog_s`.
        max_queue_s: Most predicted seconds of accepted work, or None.
    """
    # A request larger than the queue gets in when nothing waits: it could never get in otherwise.
    lacking = num_images - scheduler.places if scheduler.queued else 0
    if lacking > 0:
        # Places come free one picture at a time, at the pace at which the whole backlog is worked off.
        pictures = sum(1 for _ in scheduler.pictures())
        wait_s = lacking * work_s / pictures if pictures else 0.0
        return QueueFull(
            f"the queue has no room for {num_images} more pictures", max(_LEAST_RETRY_AFTER_S, wait_s)
        )
    if max_queue_s is not None and work_s > max_queue_s:
        return QueueFull(
            f"{work_s:.0f} s of work are waiting already", max(_LEAST_RETRY_AFTER_S, work_s - max_queue_s)
        )
    return None


def refuse_unless_possible(
    pictures: Sequence[Picture],
    scheduler: Scheduler,
    times: StepTimes,
    pace: Pace,
    *,
    max_queue_s: float | None,
    unix_now: float,
) -> None:
    """Raises unless all pictures of a new request have a place and time enough.

    Args:
        pictures: All pictures of one request.
        scheduler: What was accepted before.
        times: Measured step times.
        pace: How fast the work they predict is done.
        max_queue_s: Most predicted seconds of accepted work, or None.
        unix_now: Unix time in seconds.

    Raises:
        QueueFull: No place, or too much work accepted.
        LimitReached: The owner's own pictures fill as much of the queue as one owner may.
        DeadlineUnreachable: The predicted finish is after the deadline.
        DeadlineExceeded: The deadline is over.
    """
    request = pictures[0].request
    work_s = backlog_s(scheduler, times, pace)
    full = queue_full(len(pictures), scheduler, work_s, max_queue_s=max_queue_s)
    if full is not None:
        raise full
    if request.owner:
        _refuse_more_than_share(pictures, scheduler, times, pace, max_queue_s=max_queue_s)
    if request.deadline is None:
        return
    left_s = request.deadline - unix_now
    if left_s <= 0:
        raise DeadlineExceeded("the deadline is over already")
    if not times.measured:
        return  # nothing is known to be unreachable yet
    ahead = scheduler.pictures()
    before = [picture for picture in ahead if picture.interactive or not pictures[0].interactive]
    # One picture's steps follow each other, however much is done beside them.
    own_s = times.work_s(pictures, scheduler.max_rows) / min(1.0, pace.value)
    before_s = times.work_s(before, scheduler.max_rows, most_steps=request.num_inference_steps) / pace.value
    if own_s + before_s > left_s:
        raise DeadlineUnreachable(
            f"it would take about {own_s + before_s:.1f} s, but only {left_s:.1f} s are left",
            max(_LEAST_RETRY_AFTER_S, before_s),
        )


def _refuse_more_than_share(
    pictures: Sequence[Picture],
    scheduler: Scheduler,
    times: StepTimes,
    pace: Pace,
    *,
    max_queue_s: float | None,
) -> None:
    owner = pictures[0].request.owner
    own = [picture for picture in scheduler.pictures() if picture.request.owner == owner]
    own_s = times.work_s(own, scheduler.max_rows) / pace.value if times.measured else 0.0
    waiting = sum(picture.request.owner == owner for picture in scheduler.waiting())
    # A request larger than the share gets in when nothing else of its owner waits: it could never get in otherwise.
    lacking = waiting + len(pictures) - int(OWNERS_SHARE * scheduler.max_queued_images) if waiting else 0
    if lacking > 0:
        raise LimitReached(
            f"{waiting} of your pictures wait already; the places left in the queue are for others",
            max(_LEAST_RETRY_AFTER_S, lacking * backlog_s(scheduler, times, pace) / len(own)),
        )
    if max_queue_s is not None and own_s > OWNERS_SHARE * max_queue_s:
        raise LimitReached(
            f"{own_s:.0f} s of work of yours are waiting already; the rest of the queue is for others",
            max(_LEAST_RETRY_AFTER_S, own_s - OWNERS_SHARE * max_queue_s),
        )
