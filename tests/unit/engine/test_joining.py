"""Who shares a step: whoever saves more time than it costs the others, and nobody is held up for long."""

from __future__ import annotations

import itertools

import pytest

from serve_app.capabilities import Capabilities
from serve_app.engine import Engine
from serve_app.engine.fake import FakePipeline
from serve_app.engine.picture import Picture
from serve_app.engine.scheduler import OVERTAKEN_AT_MOST, Scheduler
from serve_app.engine.step_times import StepTimes
from tests.unit.engine.driving import ManualClock, Recorder, ask, busy, make, put, run

SHAPE = (64, 64)


def ends(step_s: float, row_s: float, steps: list[int], **options: float) -> list[float]:
    """Seconds from the start until each of several pictures is finished, step times known."""
    engine, pipeline, clock = make(step_s=step_s, row_s=row_s)
    for _ in range(3):  # each row count alone, so that nothing is left to try
        put(engine, ask("warm", steps=1))
        run(engine)
    put(engine, ask("warm", steps=3, images=8))
    run(engine)
    pipeline.batches.clear()
    began = clock()
    recorders = [put(engine, ask(str(n), steps=count)) for n, count in enumerate(steps)]
    finished = [0.0] * len(steps)
    while busy(engine):
        engine.tick()
        for number, recorder in enumerate(recorders):
            if recorder.pictures and not finished[number]:
                finished[number] = clock() - began
    return finished


def test_a_device_that_one_row_fills_draws_one_after_the_other() -> None:
    assert ends(0.0, 1.0, [10, 10]) == pytest.approx([10, 20]), "together both would end at 20"


def test_a_device_that_rows_share_draws_all_at_once() -> None:
    assert ends(1.0, 0.05, [10, 10, 10, 10]) == pytest.approx([12, 12, 12, 12], rel=0.1)


def test_a_short_picture_keeps_its_time_behind_a_long_one() -> None:
    engine, _, clock = make(step_s=0.1, row_s=0.9)
    put(engine, ask("warm", steps=1))
    run(engine)
    put(engine, ask("warm", steps=2, images=8))
    run(engine)
    put(engine, ask("long", steps=50))
    for _ in range(5):
        engine.tick()
    arrived = clock()
    short = put(engine, ask("short", steps=4))
    run(engine, until=lambda: bool(short.pictures))
    alone_s, one_step_s = 4.0, 1.0
    assert clock() - arrived <= 1.3 * alone_s + one_step_s


def test_a_long_picture_is_overtaken_for_half_of_its_own_time_at_most() -> None:
    engine, _, clock = make(step_s=0.0, row_s=1.0)
    put(engine, ask("warm", steps=1))
    run(engine)
    put(engine, ask("warm", steps=2, images=8))
    run(engine)
    began = clock()
    long = put(engine, ask("long", steps=20))
    shorts: list[Recorder] = []
    while not long.pictures:
        if all(recorder.pictures for recorder in shorts):  # there is always a short one
            shorts.append(put(engine, ask(f"short {len(shorts)}", steps=2)))
        engine.tick()
    assert len(shorts) >= 4, "short ones went before it"
    assert clock() - began <= (1 + OVERTAKEN_AT_MOST) * 20 + 3


def test_row_counts_never_measured_are_hoped_to_be_cheap_and_measured_ones_believed() -> None:
    times = StepTimes()
    times.record_step(SHAPE, 1, 1.0)
    assert times.hoped_step_s(SHAPE, 4) == 1.0
    assert times.step_s(SHAPE, 4) == 4.0, "admission stays on the safe side"
    times.record_step(SHAPE, 4, 3.0)
    assert times.hoped_step_s(SHAPE, 4) == 3.0
    assert times.hoped_step_s(SHAPE, 2) == pytest.approx(1 + 2 / 3)


def test_an_unlucky_row_count_is_not_avoided() -> None:
    times = StepTimes()
    for _ in range(5):
        for rows in range(1, 9):
            times.record_step(SHAPE, rows, (1.0 + 0.1 * rows) * (2.0 if rows == 4 else 1.0))
    costs = [times.hoped_step_s(SHAPE, rows) for rows in range(1, 9)]
    assert [later - earlier for earlier, later in itertools.pairwise(costs)] == pytest.approx(
        [costs[1] - costs[0]] * 7
    )
    assert costs[3] < 1.3 * 1.4, "it is known by its neighbours"
    assert costs[7] == pytest.approx(1.8, rel=0.15)


def test_what_is_recent_counts_more() -> None:
    times = StepTimes()
    for _ in range(15):
        times.record_step(SHAPE, 2, 1.0)
        times.record_step(SHAPE, 8, 1.6)
    for _ in range(500):
        times.record_step(SHAPE, 8, 16.0)
    assert times.step_s(SHAPE, 8) == pytest.approx(16.0, rel=0.05)


def test_more_rows_never_seem_cheaper() -> None:
    times = StepTimes()
    for _ in range(3):
        times.record_step(SHAPE, 1, 2.0)
        times.record_step(SHAPE, 8, 1.0)
    assert times.step_s(SHAPE, 1) == times.step_s(SHAPE, 8)
    assert 1.0 <= times.step_s(SHAPE, 8) <= 2.0
    for _ in range(3):
        times.record_step(SHAPE, 16, 100.0)
    assert times.step_s(SHAPE, 1) >= 0.0


def test_a_row_count_that_was_slow_once_gets_another_chance() -> None:
    times = StepTimes()
    times.record_step(SHAPE, 1, 1.0)
    times.record_step(SHAPE, 2, 50.0)
    for _ in range(1001):
        times.record_step(SHAPE, 1, 1.0)
    assert times.hoped_step_s(SHAPE, 2) == 1.0


def test_steps_that_are_filled_up_are_one_kind_of_work() -> None:
    times = StepTimes(Capabilities(max_rows=6, fixed_rows=(2, 4)).filled_rows)
    for _ in range(3):
        times.record_step(SHAPE, 2, 5.0)  # while the device was slow
    assert times.is_warm(SHAPE, 1)
    for _ in range(20):
        times.record_step(SHAPE, 1, 1.0)
    assert times.hoped_step_s(SHAPE, 1) == times.hoped_step_s(SHAPE, 2) == times.step_s(SHAPE, 2) == 1.0
    for _ in range(3):
        times.record_step(SHAPE, 3, 1.5)
    assert times.step_s(SHAPE, 3) == times.step_s(SHAPE, 4) == pytest.approx(1.5)
    assert times.row_step_s(SHAPE, rows=3, max_rows=4) == pytest.approx(0.5), (
        "three share what four would cost"
    )


def test_the_engine_joins_what_is_filled_up_anyway() -> None:
    engine, pipeline, _ = make(step_s=1.0, row_s=0.5, fixed_rows=(2,), max_rows=2)
    pipeline._step_s = 10.0  # a slow moment, in which steps have two rows
    put(engine, ask("two", steps=5, images=2))
    run(engine)
    pipeline._step_s = 1.0
    put(engine, ask("one", steps=20))
    run(engine)
    del pipeline.batches[:]
    put(engine, ask("long", steps=20))
    put(engine, ask("short", steps=10))
    run(engine)
    assert sum(len(batch) == 2 for batch in pipeline.batches) == 10


def test_a_limit_set_by_running_out_of_memory_rises_again_after_many_good_steps() -> None:
    engine, pipeline, _ = make(memory_rows=2)
    put(engine, ask("first", steps=2, images=4))
    run(engine)
    assert max(len(batch) for batch in pipeline.batches) == 2
    pipeline._memory_rows = None  # whoever held the memory is gone
    put(engine, ask("second", steps=150, images=16))
    run(engine, most=5000)
    assert max(len(batch) for batch in pipeline.batches) >= 4


def test_limits_are_forgotten_at_the_full_number_of_rows() -> None:
    scheduler = Scheduler(max_rows=4, max_queued_images=4, max_rows_in_flight=16)
    picture = Picture(ask(), 0, Recorder(), 0.0)
    _, pipeline, _ = make()
    picture.state = pipeline.prepare(picture.request, 0)
    scheduler.limit_rows(picture.state.batch_key, 3)
    for _ in range(200):
        scheduler.went_well(picture.state.batch_key)
    assert scheduler.fitting([picture] * 5) == [picture] * 4


def test_a_slow_first_step_of_a_row_count_is_not_believed_for_long() -> None:
    """Libraries write code for a size at its first step; a batch that was slow once must not be avoided for that."""
    seen: set[int] = set()
    clock = ManualClock()

    class ColdAtFirst(FakePipeline):
        def denoise_step(self, batch):  # type: ignore[no-untyped-def]
            if len(batch) not in seen:
                seen.add(len(batch))
                clock.sleep(100.0)
            clock.sleep(1.0 + 0.05 * len(batch))
            super().denoise_step(batch)

    pipeline = ColdAtFirst(max_rows=8)
    engine = Engine(pipeline, clock=clock, wall_clock=clock)
    for round_number in range(3):
        began = clock()
        recorders = [put(engine, ask(f"{round_number}-{n}", steps=4)) for n in range(16)]
        run(engine)
        assert all(recorder.pictures for recorder in recorders)
    assert clock() - began <= 4 * 2 * 1.4 * 1.1, "two full batches, one after the other"
    put(engine, ask("one", steps=4))
    assert engine.stats().predicted_wait_s == pytest.approx(4 * 1.4, rel=0.5)
