"""How fast predicted work is done: bounds, idle times, changes, and what an engine learns of itself."""

from __future__ import annotations

import pytest

from serve_app.engine.pace import Pace
from tests.unit.engine.driving import ask, busy, make, put


def test_work_that_takes_as_long_as_predicted_leaves_it_at_one() -> None:
    pace = Pace(2.0)
    pace.begin(100.0)
    for second in range(1, 50):
        pace.done(1.0, 100.0 + second)
    assert pace.value == pytest.approx(1.0)


def test_it_follows_what_is_seen_and_forgets() -> None:
    pace = Pace(4.0)
    pace.begin(0.0)
    now = 0.0
    for _ in range(100):
        now += 2.0
        pace.done(1.0, now)
    assert pace.value == pytest.approx(0.5, rel=0.01)
    for _ in range(200):
        now += 0.5
        pace.done(1.0, now)
    assert pace.value == pytest.approx(2.0, rel=0.01)


def test_two_ends_at_the_same_time_both_count() -> None:
    pace = Pace(4.0)
    pace.begin(0.0)
    for second in range(1, 100):
        pace.done(1.0, float(second))
        pace.done(1.0, float(second))
    assert pace.value == pytest.approx(2.0, rel=0.01)


def test_it_has_bounds_and_one_long_silence_is_no_more_than_the_window() -> None:
    pace = Pace(2.0)
    pace.begin(0.0)
    for second in range(1, 100):
        pace.done(50.0, float(second))
    assert pace.value == 2.0
    pace.done(1.0, 1e6)
    assert pace.value == 0.05
    for second in range(1, 60):
        pace.done(1.0, 1e6 + second)
    assert pace.value == pytest.approx(1.0, rel=0.05)


def test_time_without_work_does_not_count() -> None:
    pace = Pace(2.0)
    now = 0.0
    for _ in range(50):
        now += 1000.0
        pace.begin(now)
        now += 1.0
        pace.done(1.0, now)
    assert pace.value == pytest.approx(1.0)


def test_an_engine_predicts_its_waits_by_what_really_goes_by() -> None:
    """Half of the time goes by between the steps, where no measured duration shows it."""
    engine, _, clock = make(step_s=1.0, max_rows=1)

    def draw_all() -> None:
        while busy(engine):
            engine.tick()
            clock.sleep(1.0)

    for number in range(20):
        put(engine, ask(f"first {number}", steps=4))
    draw_all()
    recorders = [put(engine, ask(f"second {number}", steps=4)) for number in range(10)]
    predicted_s, began = engine.stats().predicted_wait_s, clock()
    draw_all()
    assert all(recorder.pictures for recorder in recorders)
    assert clock() - began == pytest.approx(80.0, rel=0.05)
    assert predicted_s == pytest.approx(80.0, rel=0.1)
