"""What the engine accepts: a bounded queue, waits told from measured times, deadlines."""

from __future__ import annotations

import pytest

from serve_app.errors import (
    DeadlineExceeded,
    DeadlineUnreachable,
    QueueFull,
)
from tests.unit.engine.driving import ask, make, put, run


def test_the_queue_is_bounded_all_or_nothing() -> None:
    engine, _, _ = make(max_queued_images=4)
    put(engine, ask(images=3))
    with pytest.raises(QueueFull) as refusal:
        put(engine, ask(images=2))
    assert refusal.value.retry_after_s >= 1.0
    assert engine.stats().queued_images == 3
    put(engine, ask(images=1))


def test_a_request_larger_than_the_queue_gets_in_when_nothing_waits() -> None:
    engine, _, _ = make(max_queued_images=4)
    put(engine, ask("one", images=1))
    with pytest.raises(QueueFull):
        put(engine, ask("large", images=6))
    run(engine)
    large = put(engine, ask("large", images=6))
    with pytest.raises(QueueFull):
        put(engine, ask("another"))
    run(engine)
    assert len(large.pictures) == 6


def test_retry_after_comes_from_measured_step_times() -> None:
    engine, _, _ = make(step_s=10.0, max_rows=1, max_queued_images=2)
    put(engine, ask("first", steps=2))
    run(engine)
    put(engine, ask("second", steps=6, images=2))
    with pytest.raises(QueueFull) as refusal:
        put(engine, ask("third"))
    assert refusal.value.retry_after_s == pytest.approx(60.0)


def test_predicted_seconds_bound_the_queue() -> None:
    engine, _, _ = make(step_s=10.0, max_rows=1, max_queue_s=50.0)
    put(engine, ask(steps=1))
    run(engine)
    put(engine, ask(steps=6))
    with pytest.raises(QueueFull):
        put(engine, ask(steps=1))


def test_what_one_more_picture_would_be_told() -> None:
    engine, _, _ = make(step_s=10.0, max_rows=1, max_queued_images=3, max_queue_s=50.0)
    assert engine.queue_full() is None
    put(engine, ask(steps=1))
    run(engine)
    put(engine, ask(steps=5))
    assert engine.queue_full() is None, "50 s may wait"
    put(engine, ask(steps=1))
    by_work = engine.queue_full()
    assert by_work is not None
    assert by_work.message == "60 s of work are waiting already"
    assert by_work.retry_after_s == pytest.approx(10.0)
    with pytest.raises(QueueFull) as refusal:
        put(engine, ask(steps=1))
    assert (refusal.value.message, refusal.value.retry_after_s) == (by_work.message, by_work.retry_after_s)


def test_places_that_come_free_in_a_moment_do_not_count_as_taken() -> None:
    engine, _, _ = make(max_rows=1, max_queued_images=4)  # and four prepared
    put(engine, ask(images=4, steps=20))
    with pytest.raises(QueueFull):
        put(engine, ask())
    assert engine.queue_full() is None
    while engine.stats().queued_images:
        engine.tick()
    put(engine, ask(images=3))
    assert engine.queue_full() is None
    put(engine, ask())
    full = engine.queue_full()
    assert full is not None, "the next place comes free when a picture ends"
    assert "no room for 1 more" in full.message


def test_unreachable_deadlines_are_refused_and_reachable_ones_met() -> None:
    engine, _, clock = make(step_s=1.0, max_rows=1)
    put(engine, ask(steps=2))
    run(engine)
    put(engine, ask("ahead", steps=10))
    with pytest.raises(DeadlineUnreachable) as refusal:
        put(engine, ask("late", steps=10, deadline=clock.now + 12))
    assert refusal.value.retry_after_s == pytest.approx(10.0)
    # A short one overtakes, so it has only its like before it.
    short = put(engine, ask("short", steps=2, deadline=clock.now + 5))
    run(engine)
    assert short.pictures


def test_a_picture_past_its_deadline_is_dropped() -> None:
    engine, _, clock = make(step_s=10.0)
    late = put(engine, ask(steps=50, deadline=clock.now + 25))
    run(engine)
    assert isinstance(late.failures[0], DeadlineExceeded)
    with pytest.raises(DeadlineExceeded):
        put(engine, ask(deadline=clock.now - 1))


def test_queue_positions_are_told() -> None:
    engine, _, _ = make(max_rows=1)
    for index in range(6):
        put(engine, ask(f"r{index}", steps=3))
    last = put(engine, ask("last", steps=3))
    run(engine)
    positions = [p.queue_position for p in last.progress if p.queue_position is not None]
    assert positions
    assert positions == sorted(positions, reverse=True)
