"""The ingress's estimate of a pool's speed."""

from __future__ import annotations

import pytest

from serve_app.request import GenerationRequest, RequestDraft
from serve_app.result import ReplicaLoad
from serve_app.speed import SpeedEstimate, StartEstimate, work_units


def _request(steps: int = 4, guidance_scale: float = 0.0) -> GenerationRequest:
    return GenerationRequest("id", "x", "", 512, 512, steps, guidance_scale, seed=0)


class Clock:
    """Seconds that pass only when told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def _drawn(speed: SpeedEstimate, clock: Clock, seconds: float, device_s: float = 0.0) -> None:
    """One request from its start to its end, nothing beside it."""
    speed.started(_request())
    clock.now += seconds
    speed.ended(_request(), seconds, device_s)


def test_work_grows_with_steps_and_doubles_with_guidance() -> None:
    assert work_units(_request(8)) == pytest.approx(2 * work_units(_request(4)))
    assert work_units(_request(4, 5.0)) == pytest.approx(2 * work_units(_request(4)))
    assert RequestDraft("x").seed != RequestDraft("x").seed


def test_a_measured_second_becomes_the_prediction() -> None:
    clock = Clock()
    speed = SpeedEstimate(clock=clock)
    _drawn(speed, clock, 2.0)
    assert speed.predicted_s(_request()) == pytest.approx(2.0)
    assert speed.predicted_s(_request(8)) == pytest.approx(4.0)


def test_work_in_flight_pushes_the_prediction_back_until_it_ends() -> None:
    clock = Clock()
    speed = SpeedEstimate(clock=clock)
    _drawn(speed, clock, 2.0)
    speed.started(_request())
    assert speed.predicted_s(_request()) == pytest.approx(4.0)
    speed.ended(_request(), seconds=None)
    assert speed.predicted_s(_request()) == pytest.approx(2.0)


def test_a_queue_that_was_drawn_leaves_the_speed_as_it_is() -> None:
    clock = Clock()
    speed = SpeedEstimate(clock=clock)
    for _ in range(64):
        speed.started(_request())
    for place in range(64):  # one after another, 2 s each: the last ones waited for all before them
        clock.now += 2.0
        speed.ended(_request(), seconds=2.0 * (place + 1))
        left = 63 - place
        assert speed.predicted_s(_request()) == pytest.approx(2.0 * (left + 1))


def test_pictures_that_end_together_share_the_seconds() -> None:
    clock = Clock()
    speed = SpeedEstimate(clock=clock)
    for _ in range(4):
        for _ in range(8):
            speed.started(_request())
        clock.now += 80.0
        for _ in range(8):
            speed.ended(_request(), seconds=80.0)
        assert speed.predicted_s(_request()) == pytest.approx(10.0)


def test_time_without_work_and_work_that_was_given_up_teach_nothing() -> None:
    clock = Clock()
    speed = SpeedEstimate(clock=clock)
    _drawn(speed, clock, 2.0)
    clock.now += 1000.0
    speed.started(_request())
    clock.now += 100.0
    speed.ended(_request(), seconds=None)
    _drawn(speed, clock, 2.0)
    assert speed.predicted_s(_request()) == pytest.approx(2.0)


def test_what_was_drawn_last_counts_most() -> None:
    clock = Clock()
    speed = SpeedEstimate(clock=clock)
    for _ in range(20):
        _drawn(speed, clock, 2.0)
    for _ in range(10):
        _drawn(speed, clock, 6.0)
    assert 5.5 < speed.predicted_s(_request()) < 6.0


def test_a_cost_counts_the_device_alone_and_not_the_waiting() -> None:
    clock = Clock()
    speed = SpeedEstimate(clock=clock)
    _drawn(speed, clock, 2.0, device_s=0.5)
    speed.started(_request())
    assert speed.predicted_s(_request()) == pytest.approx(4.0)
    assert speed.predicted_device_s(_request()) == pytest.approx(0.5)


def test_what_is_expected_counts_until_something_was_measured() -> None:
    clock = Clock()
    speed = SpeedEstimate(expected_step_s=3.0, clock=clock)
    units = work_units(_request())
    assert speed.predicted_s(_request()) == pytest.approx(3.0 * units)
    speed.expect(2.0)
    assert speed.predicted_device_s(_request()) == pytest.approx(2.0 * units)
    _drawn(speed, clock, units, device_s=units)
    speed.expect(100.0)
    assert speed.predicted_s(_request()) == pytest.approx(units)


def test_the_work_of_others_counts_while_what_a_replica_told_is_fresh() -> None:
    clock = Clock()
    speed = SpeedEstimate(1.0, clock)
    alone_s = speed.predicted_s(_request())
    speed.told(ReplicaLoad("a", queued_images=3, running_images=1, predicted_wait_s=20.0))
    speed.told(ReplicaLoad("b", queued_images=0, running_images=1, predicted_wait_s=10.0))
    assert speed.predicted_s(_request()) == pytest.approx(15.0 + alone_s)
    clock.now = 5.0
    assert speed.predicted_s(_request()) == pytest.approx(10.0 + alone_s)
    speed.told(ReplicaLoad("a", queued_images=0, running_images=0, predicted_wait_s=0.0))
    assert speed.predicted_s(_request()) == pytest.approx(2.5 + alone_s)
    assert len(speed.loads()) == 2
    clock.now = 31.0
    assert [load.replica for load in speed.loads()] == ["a"]


def test_a_start_is_learned_from_the_ones_before() -> None:
    clock = Clock()
    start = StartEstimate(100.0, clock)
    assert start.remaining_s() == 100.0
    start.began()
    clock.now = 30.0
    start.began()  # it goes on
    assert start.remaining_s() == pytest.approx(70.0)
    clock.now = 40.0
    start.ended(measured=True)
    assert start.remaining_s() == start.expected_s == pytest.approx(40.0)
    start.began()
    clock.now = 100.0
    start.ended(measured=True)
    assert start.expected_s == pytest.approx(50.0)  # halfway from 40 to 60
    start.began()
    clock.now = 101.0
    start.ended(measured=False)  # a replica that only seemed to be gone
    assert start.expected_s == pytest.approx(50.0)
    assert not start.under_way


def test_a_start_that_is_late_is_trusted_less_and_less() -> None:
    clock = Clock()
    start = StartEstimate(100.0, clock)
    start.began()
    clock.now = 101.0
    assert start.remaining_s() == pytest.approx(2.0)
    clock.now = 400.0
    assert start.remaining_s() == pytest.approx(301.0)
