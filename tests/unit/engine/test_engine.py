"""The engine on the fake pipeline. Most tests drive `Engine.tick` themselves, on a clock of their own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest

from serve_app.engine import Engine
from serve_app.engine.fake import POISON_DECODE, POISON_PREPARE, POISON_STEP, FakePipeline
from serve_app.engine.pipeline import StepPipeline
from serve_app.engine.state import ImageState
from serve_app.errors import (
    GenerationCancelled,
    GenerationFailed,
)
from serve_app.request import Priority
from serve_app.result import Pixels, StageSeconds, StepProgress
from tests.unit.engine.driving import ManualClock, Recorder, ask, drawn_alone, make, put, run


def test_fake_is_a_step_pipeline() -> None:
    assert isinstance(FakePipeline(), StepPipeline)


def test_a_request_gets_all_its_pictures_and_progress() -> None:
    engine, pipeline, _ = make()
    request = ask(images=3, steps=2)
    recorder = put(engine, request)
    run(engine)
    assert {i: drawn_alone(request, i) for i in range(3)} == recorder.pictures
    assert [p.step for p in recorder.progress if p.image_index == 1] == [0, 1, 2]
    assert len(pipeline.batches) == 2, "three pictures prepared together share their steps"


def test_stage_seconds_add_up() -> None:
    engine, _, _ = make(step_s=2.0, decode_s=3.0)
    recorder = put(engine, ask(steps=4))
    run(engine)
    assert recorder.seconds[0] == StageSeconds(queue=0.0, prepare=0.0, denoise=8.0, decode=3.0, device=11.0)


def test_shares_of_the_device_add_up_to_the_time_it_was_busy() -> None:
    engine, _, clock = make(step_s=2.0, decode_s=3.0)
    began = clock.now
    plain, guided = put(engine, ask("plain", steps=4)), put(engine, ask("guided", steps=2, guidance=5.0))
    run(engine)
    shares = [recorder.seconds[0].device for recorder in (plain, guided)]
    assert sum(shares) == pytest.approx(clock.now - began)
    # Two shared steps of three rows, two alone, one decoding; and two thirds of two steps, one decoding.
    assert shares == pytest.approx([2 * 2 / 3 + 2 * 2 + 3, 2 * 2 * 2 / 3 + 3])


def test_pictures_join_and_leave_between_steps() -> None:
    engine, pipeline, _ = make()
    put(engine, ask("long", steps=6))
    engine.tick()
    short = put(engine, ask("short", steps=2))
    run(engine, short.ended.is_set)
    assert engine.stats().running_images == 1, "the long one is still being drawn"
    assert [len(batch) for batch in pipeline.batches] == [1, 2, 2]


def test_guided_and_unguided_share_a_step() -> None:
    engine, pipeline, _ = make(max_rows=3)
    put(engine, ask("guided", guidance=5.0))
    put(engine, ask("plain"))
    run(engine)
    assert {len(batch) for batch in pipeline.batches[1:]} == {2}


def test_short_overtakes_long_when_rows_are_short() -> None:
    engine, _, clock = make(max_rows=2)
    for index in range(3):
        put(engine, ask(f"long{index}", steps=50, guidance=5.0))
    for _ in range(5):
        engine.tick()
    before = clock.now
    short = put(engine, ask("short", steps=4))
    run(engine, short.ended.is_set)
    assert clock.now - before <= 1.3 * 4 + 1


def test_passed_over_pictures_do_not_starve() -> None:
    engine, pipeline, clock = make(max_rows=1)
    long = put(engine, ask("long", steps=3))
    clock.sleep(0.1)
    shorts = [put(engine, ask(f"short{index}", steps=2)) for index in range(60)]
    run(engine, long.ended.is_set)
    assert not all(short.ended.is_set() for short in shorts)
    assert pipeline.batches


def test_shapes_share_time_not_steps() -> None:
    clock = ManualClock()

    class ByArea(FakePipeline):
        def denoise_step(self, batch):  # type: ignore[no-untyped-def]
            clock.sleep(batch[0].request.width / 64)
            super().denoise_step(batch)

    pipeline = ByArea()
    engine = Engine(pipeline, clock=clock, wall_clock=clock)
    put(engine, ask("small", steps=2000, side=64))
    put(engine, ask("large", steps=2000, side=256))
    for _ in range(500):
        engine.tick()
    steps = Counter(batch[0][0] for batch in pipeline.batches)
    assert 3.0 <= steps["small"] / steps["large"] <= 5.0, (
        "a step of the large shape costs four of the small one"
    )


def test_pictures_that_cannot_share_a_step_do_not_take_turns_after_each() -> None:
    engine, pipeline, _ = make(max_rows=1)
    for side in (64, 128):  # its step time is known
        put(engine, ask(f"warm{side}", side=side))
        run(engine)
    pipeline.batches.clear()
    put(engine, ask("one", steps=4, side=64))
    put(engine, ask("two", steps=4, side=128))
    run(engine)
    names = [batch[0][0] for batch in pipeline.batches]
    assert names in (["one"] * 4 + ["two"] * 4, ["two"] * 4 + ["one"] * 4), "else both would be late"


def test_a_short_picture_of_another_shape_does_not_wait_for_a_long_one() -> None:
    engine, pipeline, clock = make()
    long = put(engine, ask("long", steps=50, side=128))
    for _ in range(10):
        engine.tick()
    before = clock.now
    short = put(engine, ask("short", steps=4))
    run(engine, short.ended.is_set)
    assert clock.now - before <= 1.3 * 4 + 1
    # A stream of them gets half of the time, no more.
    pipeline.batches.clear()
    number = 0
    while not long.ended.is_set():
        if engine.stats().queued_images + engine.stats().running_images < 3:
            number += 1
            put(engine, ask(f"short{number}", steps=4))
        engine.tick()
    shares = Counter(batch[0][0] == "long" for batch in pipeline.batches)
    assert shares[True] >= 0.4 * shares.total()


def test_interactive_work_sets_batch_work_aside_and_it_resumes() -> None:
    engine, pipeline, _ = make(max_rows=2)
    background = put(engine, ask("batch", steps=10, guidance=5.0, priority=Priority.BATCH))
    for _ in range(3):
        engine.tick()
    urgent = put(engine, ask("now", steps=4, guidance=5.0))
    run(engine, urgent.ended.is_set)
    names = [batch[0][0] for batch in pipeline.batches]
    assert names == ["batch"] * 3 + ["now"] * 4
    run(engine)
    assert background.pictures[0] == drawn_alone(ask(steps=10, guidance=5.0))


def test_batch_work_does_not_starve_under_unbroken_interactive_load() -> None:
    engine, _, _ = make(max_rows=1)
    background = put(engine, ask("batch", steps=2, priority=Priority.BATCH))
    for index in range(400):
        if background.ended.is_set():
            return
        if engine.stats().queued_images < 4:
            put(engine, ask(f"now{index}", steps=1))
        engine.tick()
    raise AssertionError("the batch picture starved")


def test_cancelling_takes_effect_at_the_next_step() -> None:
    engine, pipeline, _ = make()
    other = put(engine, ask("other", steps=6))
    recorder = Recorder()
    ticket = engine.submit(ask("left", steps=50), recorder)
    for _ in range(3):
        engine.tick()
    ticket.cancel()
    ticket.cancel()
    count = len(pipeline.batches)
    run(engine)
    assert isinstance(recorder.failures[0], GenerationCancelled)
    assert all(name != "left" for batch in pipeline.batches[count:] for name, _, _ in batch)
    assert other.pictures
    assert engine.stats().images_cancelled == 1


def test_cancelling_while_queued_draws_nothing() -> None:
    engine, pipeline, _ = make()
    recorder = Recorder()
    engine.submit(ask(), recorder).cancel()
    run(engine)
    assert isinstance(recorder.failures[0], GenerationCancelled)
    assert not pipeline.batches


@pytest.mark.parametrize("poison", [POISON_PREPARE, POISON_STEP, POISON_DECODE])
def test_a_poisoned_picture_fails_alone(poison: str) -> None:
    engine, _, _ = make()
    good = [put(engine, ask("good", seed=seed)) for seed in range(3)]
    bad = put(engine, ask("bad", prompt=poison))
    run(engine)
    assert isinstance(bad.failures[0], GenerationFailed)
    assert [one.pictures[0] for one in good] == [drawn_alone(ask(seed=seed)) for seed in range(3)]


def test_out_of_memory_halves_the_rows_and_is_remembered() -> None:
    engine, pipeline, _ = make(memory_rows=3)
    recorders = [put(engine, ask(seed=seed)) for seed in range(8)]
    run(engine)
    assert [one.pictures[0] for one in recorders] == [drawn_alone(ask(seed=seed)) for seed in range(8)]
    assert max(len(batch) for batch in pipeline.batches) <= 3
    # Another wave never tries more rows than are known to fit.
    pipeline.denoise_step = refuse_more_than(3, pipeline.denoise_step)  # type: ignore[method-assign]
    again = [put(engine, ask(seed=seed)) for seed in range(8)]
    run(engine)
    assert all(one.pictures for one in again)


def refuse_more_than(rows: int, step: Callable[..., None]) -> Callable[..., None]:
    def checked(batch):  # type: ignore[no-untyped-def]
        assert sum(state.rows for state in batch) <= rows
        step(batch)

    return checked


def test_a_picture_that_does_not_fit_alone_fails_clearly() -> None:
    engine, _, _ = make(memory_rows=1)
    guided, plain = put(engine, ask("big", guidance=5.0)), put(engine, ask("small"))
    run(engine)
    assert "memory" in guided.failures[0].message
    assert plain.pictures


def test_a_preview_that_fails_costs_no_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    engine, pipeline, _ = make()

    def broken(state: ImageState) -> Pixels:
        raise MemoryError("no room for a preview")

    monkeypatch.setattr(pipeline, "preview", broken)
    recorder = put(engine, ask(steps=6, preview_every=2))
    run(engine)
    assert not recorder.failures
    assert recorder.pictures
    assert not recorder.previews


def test_previews_every_so_many_steps() -> None:
    engine, _, _ = make()
    recorder = put(engine, ask(steps=6, preview_every=2))
    run(engine)
    assert len(recorder.previews) == 2, "steps 2 and 4; the last one is followed by the picture itself"


def test_at_most_one_decode_per_tick() -> None:
    engine, _, _ = make()
    recorder = put(engine, ask(steps=1, images=4))
    done = []
    for _ in range(4):
        engine.tick()
        done.append(len(recorder.pictures))
    assert done == [1, 2, 3, 4]


def test_a_listener_that_raises_loses_only_its_picture() -> None:
    engine, _, _ = make()

    class Broken(Recorder):
        def on_progress(self, progress: StepProgress, preview: Pixels | None) -> None:
            raise RuntimeError("a bug of the caller")

    broken, good = Broken(), put(engine, ask("good"))
    engine.submit(ask("broken"), broken)
    run(engine)
    assert good.pictures
    assert isinstance(broken.failures[0], GenerationCancelled)
