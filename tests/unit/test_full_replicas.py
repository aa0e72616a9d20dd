"""What is believed of replicas that refused, of how much, and for how long."""

from __future__ import annotations

import pickle
from dataclasses import replace

import pytest

from serve_app.errors import DeadlineUnreachable, QueueFull
from serve_app.full_replicas import MAX_BELIEVED_S, FullReplicas
from serve_app.result import ReplicaLoad


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def _load(replica: str, predicted_wait_s: float = 5.0, pictures: int = 10) -> ReplicaLoad:
    return ReplicaLoad(replica, queued_images=pictures, running_images=0, predicted_wait_s=predicted_wait_s)


def test_a_refusal_is_believed_for_as_long_as_a_picture_takes() -> None:
    clock = Clock()
    full = FullReplicas(clock)
    full.told(replace(_load("a"), refusal=QueueFull("no room", 4.0)), 1)
    clock.now += 0.4
    refusal = full.refusal(1, 1)
    assert refusal is not None
    assert refusal.message == "no room"
    assert refusal.retry_after_s == pytest.approx(3.6)
    clock.now += 0.2
    assert full.refusal(1, 1) is None


def test_it_is_never_believed_for_long_nor_where_nothing_was_measured() -> None:
    clock = Clock()
    full = FullReplicas(clock)
    full.told(replace(_load("slow", predicted_wait_s=6000.0), refusal=QueueFull("no room", 600.0)), 1)
    full.told(replace(_load("new", predicted_wait_s=0.0), refusal=QueueFull("no room")), 1)
    full.told(replace(_load("empty", pictures=0), refusal=QueueFull("no room")), 1)
    assert full.refusal(1, 2) is None
    assert full.refusal(1, 1) is not None
    clock.now += MAX_BELIEVED_S
    assert full.refusal(1, 1) is None


def test_all_replicas_must_have_refused_and_the_least_wait_is_told() -> None:
    full = FullReplicas(Clock())
    full.told(replace(_load("a"), refusal=QueueFull("a is full", 9.0)), 1)
    assert full.refusal(1, 2) is None
    full.told(replace(_load("b"), refusal=QueueFull("b is full", 3.0)), 1)
    refusal = full.refusal(1, 2)
    assert refusal is not None
    assert refusal.retry_after_s == 3.0
    full.has_room("b")
    assert full.refusal(1, 2) is None
    assert full.refusal(1, 0) is None  # nobody knows how many there are


def test_one_asks_at_a_time_once_it_was_full_and_more_where_there_is_room() -> None:
    clock = Clock()
    full = FullReplicas(clock)
    with full.asking(), full.asking():
        assert full.refusal(1, 1) is None, "nobody is held back before"
    full.told(replace(_load("a"), refusal=QueueFull("no room", 4.0)), 1)
    assert full.refusal(1, 1) is not None
    clock.now += 0.6  # it is believed for half a second
    assert full.refusal(1, 1) is None
    with full.asking():
        held_back = full.refusal(1, 1)
        assert held_back is not None
        assert held_back.message == "no room"
    full.told(_load("a"), 1)
    with full.asking():
        assert full.refusal(1, 1) is None
        with full.asking():
            assert full.refusal(1, 1) is not None, "two at a time"
    full.told(replace(_load("a"), refusal=QueueFull("no room", 4.0)), 1)
    clock.now += 0.6
    with full.asking():
        assert full.refusal(1, 1) is not None, "one again"
    full.told(replace(_load("a"), refusal=QueueFull("no room for 4", 4.0)), 4)
    assert full.refusal(4, 1) is not None
    with full.asking():
        assert full.refusal(3, 1) is None, "fewer might fit"


def test_an_acceptance_that_fills_a_replica_counts_for_requests_of_any_size() -> None:
    clock = Clock()
    full = FullReplicas(clock)
    full.told(replace(_load("a"), full=QueueFull("full now", 4.0)), 3)
    with full.asking():
        for num_images in (1, 4):
            refusal = full.refusal(num_images, 1)
            assert refusal is not None
            assert refusal.message == "full now"
    full.has_room("a")
    assert full.refusal(1, 1) is None


def test_a_deadline_that_cannot_be_met_does_not_make_a_replica_full() -> None:
    full = FullReplicas(Clock())
    full.told(replace(_load("a"), refusal=DeadlineUnreachable("too late")), 1)
    assert full.refusal(1, 1) is None


def test_a_pool_that_was_full_a_while_ago_is_asked_by_all() -> None:
    clock = Clock()
    full = FullReplicas(clock)
    full.told(replace(_load("a"), refusal=QueueFull("no room", 4.0)), 1)
    assert full.refusal(1, 1) is not None
    clock.now += 0.5 + MAX_BELIEVED_S
    with full.asking(), full.asking():
        assert full.refusal(1, 1) is None


def test_a_question_without_an_answer_keeps_nobody_out_for_long() -> None:
    clock = Clock()
    full = FullReplicas(clock)
    full.told(replace(_load("a"), refusal=QueueFull("no room", 4.0)), 1)
    assert full.refusal(1, 1) is not None
    clock.now += 0.6
    with full.asking():
        assert full.refusal(1, 1) is not None
        clock.now += MAX_BELIEVED_S
        assert full.refusal(1, 1) is None


def test_fewer_pictures_might_still_fit() -> None:
    full = FullReplicas(Clock())
    full.told(replace(_load("a"), refusal=QueueFull("no room for 4")), 4)
    assert full.refusal(3, 1) is None
    assert full.refusal(4, 1) is not None
    assert full.refusal(5, 1) is not None


def test_a_refusal_crosses_the_handle_whole() -> None:
    load = ReplicaLoad("a", 1, 2, 3.0, QueueFull("no room", 4.0))
    found = pickle.loads(pickle.dumps(load))
    assert isinstance(found.refusal, QueueFull)
    assert (found.refusal.message, found.refusal.retry_after_s) == ("no room", 4.0)
