"""Turns between owners: `FairQueue` alone, and what the engine makes of it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.engine import admission
from serve_app.engine.fair_queue import DECODE_STEPS, FairQueue
from serve_app.engine.picture import Picture
from serve_app.errors import LimitReached, QueueFull
from tests.unit.engine.driving import Recorder, ask, make, put, run


def picture(owner: str = "", steps: int = 4, name: str = "") -> Picture:
    return Picture(ask(name or owner or "any", steps=steps, owner=owner), 0, Recorder(), 0.0)


def drained(queue: FairQueue) -> list[Picture]:
    expected = list(queue)
    taken = [queue.popleft() for _ in range(len(queue))]
    assert taken == expected  # reading it tells the order, as long as nobody comes
    return taken


def test_one_owner_keeps_the_order_of_arrival() -> None:
    queue = FairQueue()
    pictures = [picture(steps=steps) for steps in (50, 1, 20, 4)]
    for one in pictures:
        queue.append(one)
    assert drained(queue) == pictures


def test_who_sends_one_goes_before_the_rest_of_who_sent_many() -> None:
    queue = FairQueue()
    many = [picture("many") for _ in range(10)]
    for one in many:
        queue.append(one)
    assert queue.popleft() is many[0]
    few = picture("few")
    queue.append(few)
    assert drained(queue)[0] is few


def test_shares_are_equal_in_work_not_in_pictures() -> None:
    queue = FairQueue()
    for _ in range(100):
        queue.append(picture("long", steps=40))
        queue.append(picture("short", steps=4))
    begun = {"long": 0.0, "short": 0.0}
    for _ in range(100):
        taken = queue.popleft()
        begun[taken.request.owner] += taken.request.num_inference_steps + DECODE_STEPS
        # The bound of the method: never further apart than one picture of each.
        assert abs(begun["long"] - begun["short"]) <= 40 + 4 + 2 * DECODE_STEPS


def test_silence_earns_nothing() -> None:
    queue = FairQueue()
    for _ in range(20):
        queue.append(picture("busy"))
    for _ in range(10):
        queue.popleft()
    late = [picture("late") for _ in range(10)]
    for one in late:
        queue.append(one)
    order = [one.request.owner for one in drained(queue)]
    assert (
        order[:6].count("busy") >= 2
    )  # the one that came late does not take all it had not asked for before


def test_leaving_costs_nothing() -> None:
    queue = FairQueue()
    other = [picture("other") for _ in range(3)]
    left = [picture("left") for _ in range(10)]
    for one in left + other:
        queue.append(one)
    for one in left:
        queue.remove(one)
    again = picture("left")
    queue.append(again)
    assert drained(queue).index(again) <= 1
    with pytest.raises(ValueError, match="does not wait"):
        queue.remove(again)


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["come", "come", "go", "leave"]), st.sampled_from("abc"), st.integers(1, 50)
        )
    )
)
def test_nothing_is_lost_and_owners_stay_in_order(events: list[tuple[str, str, int]]) -> None:
    queue = FairQueue()
    waiting: dict[str, list[Picture]] = {owner: [] for owner in "abc"}
    for kind, owner, number in events:
        if kind == "come":
            waiting[owner].append(picture(owner, steps=number))
            queue.append(waiting[owner][-1])
        elif kind == "go" and len(queue):
            first = queue.first
            assert queue.popleft() is first
            assert waiting[first.request.owner].pop(0) is first
        elif kind == "leave" and waiting[owner]:
            queue.remove(waiting[owner].pop(number % len(waiting[owner])))
    left = drained(queue)
    for owner in "abc":
        assert [one for one in left if one.request.owner == owner] == waiting[owner]


def test_a_flood_of_one_owner_does_not_hold_up_another() -> None:
    engine, _, clock = make(step_s=1.0, max_rows=1)
    flood = [put(engine, ask(f"flood{number}", steps=4, owner="flood")) for number in range(40)]
    engine.tick()
    began = clock.now
    other = put(engine, ask("other", steps=4, owner="other"))
    run(engine, until=lambda: bool(other.pictures))
    # The few that were prepared already go first, those that still waited do not.
    assert clock.now - began <= (4 + 1 + 1) * 4
    run(engine)
    assert all(one.pictures for one in flood)


def test_one_owner_leaves_places_for_others() -> None:
    engine, _, _ = make(max_queued_images=8)
    put(engine, ask("two", owner="two"))
    for number in range(6):
        put(engine, ask(f"one{number}", owner="one"))
    with pytest.raises(LimitReached) as refusal:
        put(engine, ask("more", owner="one"))
    assert refusal.value.retry_after_s >= 1.0
    put(engine, ask("last", owner="two"))
    with pytest.raises(QueueFull):
        put(engine, ask("none left", owner="two"))


def test_a_request_larger_than_the_share_gets_in_when_its_owner_has_nothing_waiting() -> None:
    engine, _, _ = make(max_queued_images=4)
    assert int(admission.OWNERS_SHARE * 4) == 3
    put(engine, ask("four", owner="one", images=4))


def test_one_owner_leaves_seconds_for_others() -> None:
    engine, _, _ = make(step_s=10.0, max_rows=1, max_queue_s=100.0)
    put(engine, ask(steps=1))
    run(engine)
    put(engine, ask(steps=8, owner="one"))
    with pytest.raises(LimitReached):
        put(engine, ask(steps=1, owner="one"))
    put(engine, ask(steps=1, owner="two"))


def test_without_keys_the_queue_is_for_all() -> None:
    engine, _, _ = make(max_queued_images=4)
    for number in range(4):
        put(engine, ask(str(number)))
    with pytest.raises(QueueFull):
        put(engine, ask("full"))
