"""Static batching: the rule, the queue model and its tuning."""

from __future__ import annotations

import pytest

from bench.batching.static import StaticBatching, simulate
from bench.batching.tuning import CallTimes, measure_calls, tune
from bench.batching.workloads import Job, Kind

FEW = Kind(256, 256, 4, 0.0)
MANY = Kind(256, 256, 50, 5.0)


def _jobs(*arrivals: tuple[float, Kind]) -> list[Job]:
    return [Job(number, at_s, kind, "x", 0) for number, (at_s, kind) in enumerate(arrivals)]


def test_a_batch_is_the_oldest_and_those_like_it_in_order() -> None:
    waiting = _jobs((0, FEW), (0, MANY), (0, FEW), (0, FEW))
    assert [job.number for job in StaticBatching(2).batch(waiting)] == [0, 2]
    assert [job.number for job in StaticBatching(8).batch(waiting)] == [0, 2, 3]
    assert [job.number for job in StaticBatching(8).batch(waiting[1:])] == [1]


def test_a_full_batch_does_not_wait_for_the_window() -> None:
    windowed = StaticBatching(2, window_s=0.5)
    assert windowed.release_s(_jobs((1.0, FEW), (1.1, MANY))) == 1.5
    assert windowed.release_s(_jobs((1.0, FEW), (1.1, FEW))) <= 1.1


def test_serial_in_the_model() -> None:
    jobs = _jobs((0.0, FEW), (0.5, MANY), (5.0, FEW))
    assert simulate(jobs, StaticBatching(1), lambda kind, n: kind.steps / 10) == pytest.approx(
        [0.4, 5.0, 0.9]
    )


def test_greedy_takes_what_waited_and_windowed_what_will_come() -> None:
    jobs = _jobs((0.0, FEW), (0.1, FEW), (0.2, FEW))
    assert simulate(jobs, StaticBatching(4), lambda kind, n: 1.0) == pytest.approx([1.0, 1.9, 1.8])
    windowed = StaticBatching(4, window_s=0.15)
    assert simulate(jobs, windowed, lambda kind, n: 1.0) == pytest.approx([1.15, 1.05, 1.95])
    full = StaticBatching(2, window_s=10.0)
    assert simulate(jobs[:2], full, lambda kind, n: 1.0) == pytest.approx([1.1, 1.0])


def test_the_model_stops_at_a_hopeless_latency() -> None:
    jobs = _jobs(*((0.0, FEW) for _ in range(50)))
    assert len(simulate(jobs, StaticBatching(1), lambda kind, n: 1.0, give_up_s=3.0)) == 4


def test_call_times_are_linear_in_steps_and_between_measured_batches() -> None:
    calls = measure_calls([FEW], lambda kind, pictures: 1.0 + 0.1 * pictures * kind.steps)
    assert calls(FEW, 1) == pytest.approx(1.4)
    assert calls(FEW, 3) == pytest.approx(2.2)
    assert calls(FEW, 8) == pytest.approx(4.2)


def test_tuning_finds_what_the_device_is_good_at() -> None:
    free = CallTimes(
        {(256, 256, False, n): 1.0 for n in (1, 2, 4, 8)}, {(256, 256, False, n): 0.0 for n in (1, 2, 4, 8)}
    )
    greedy = tune([FEW], free, capacity_per_s=1.0, target_s=3.0, windowed=False, seed=0)
    assert greedy.batching == StaticBatching(8)
    assert greedy.load > 3.0
    windowed = tune([FEW], free, capacity_per_s=1.0, target_s=3.0, windowed=True, seed=0)
    assert windowed.batching.window_s > 0

    def no_gain(kind: Kind, pictures: int) -> float:
        return float(pictures)

    plain = tune([FEW], no_gain, capacity_per_s=1.0, target_s=3.0, windowed=False, seed=0)
    assert plain.load < 1.0
