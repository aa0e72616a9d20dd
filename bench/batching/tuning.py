"""The best settings for static batching: measured call times, put through a queue model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from bench.batching.latency import percentile
from bench.batching.static import StaticBatching, simulate
from bench.batching.workloads import Kind, trace

BATCHES = (1, 2, 4, 8)
WINDOWS = (0.05, 0.1, 0.25, 0.5, 1.0)
"""In mean times of a picture alone, so that they suit any device."""

_MODEL_REQUESTS = 600
_HALVINGS = 10
_HOPELESS = 4.0  # targets


@dataclass(frozen=True, slots=True)
class CallTimes:
    """Seconds of one stock call, linear in its steps.

    Attributes:
        fixed_s: By (width, height, guided, pictures): text, VAE and all else that no step is.
        step_s: The same, per step.
    """

    fixed_s: Mapping[tuple[int, int, bool, int], float]
    step_s: Mapping[tuple[int, int, bool, int], float]

    def __call__(self, kind: Kind, pictures: int) -> float:
        """Between two measured numbers of pictures, on the straight line."""
        above = min(size for size in BATCHES if size >= pictures)
        if above == pictures:
            return self._measured(kind, pictures)
        below = max(size for size in BATCHES if size < pictures)
        share = (pictures - below) / (above - below)
        return (1 - share) * self._measured(kind, below) + share * self._measured(kind, above)

    def _measured(self, kind: Kind, pictures: int) -> float:
        key = (kind.width, kind.height, kind.guided, pictures)
        return self.fixed_s[key] + kind.steps * self.step_s[key]


def measure_calls(kinds: Sequence[Kind], call_s: Callable[[Kind, int], float]) -> CallTimes:
    """Times calls of few and of more steps, for each shape and number of pictures.

    Args:
        kinds: What will arrive.
        call_s: Draws that many pictures in one call and gives the seconds.
    """
    fixed: dict[tuple[int, int, bool, int], float] = {}
    step: dict[tuple[int, int, bool, int], float] = {}
    few, more = 1, 5
    for width, height, guidance_scale in {(kind.width, kind.height, kind.guidance_scale) for kind in kinds}:
        for pictures in BATCHES:
            short, longer = (Kind(width, height, steps, guidance_scale) for steps in (few, more))
            call_s(short, pictures)  # warms up
            seconds = [min(call_s(kind, pictures) for _ in range(2)) for kind in (short, longer)]
            key = (width, height, short.guided, pictures)
            step[key] = max(0.0, (seconds[1] - seconds[0]) / (more - few))
            fixed[key] = max(0.0, seconds[0] - few * step[key])
    return CallTimes(fixed, step)


@dataclass(frozen=True, slots=True)
class Tuned:
    """A setting and what the queue model says of it.

    Attributes:
        batching: The setting.
        load: Highest load within the target; 0 for none.
        mean_s: Mean latency at the serial capacity's half, in seconds.
    """

    batching: StaticBatching
    load: float
    mean_s: float


def tune(
    kinds: Sequence[Kind],
    service_s: Callable[[Kind, int], float],
    *,
    capacity_per_s: float,
    target_s: float,
    windowed: bool,
    seed: int,
) -> Tuned:
    """The setting that carries the most load; of equals (within 1 %) the one with the lowest latency.

    Args:
        kinds: What arrives.
        service_s: Seconds of one call.
        capacity_per_s: Serial pictures per second, the unit of load.
        target_s: Seconds the 99th percentile may take.
        windowed: Whether to wait for the batch to fill; else greedy.
        seed: Of the model's arrivals.
    """
    windows = [share / capacity_per_s for share in WINDOWS] if windowed else [0.0]
    found = []
    for max_batch in BATCHES[1:]:
        for window_s in windows:
            batching = StaticBatching(max_batch, window_s)
            load = _most_load(kinds, batching, service_s, capacity_per_s, target_s, seed)
            calm = trace(kinds, _MODEL_REQUESTS, capacity_per_s / 2, seed=seed)
            mean_s = sum(simulate(calm, batching, service_s)) / _MODEL_REQUESTS
            found.append(Tuned(batching, load, mean_s))
    most = max(setting.load for setting in found)
    return min(
        (setting for setting in found if setting.load >= 0.99 * most), key=lambda setting: setting.mean_s
    )


def _most_load(
    kinds: Sequence[Kind],
    batching: StaticBatching,
    service_s: Callable[[Kind, int], float],
    capacity_per_s: float,
    target_s: float,
    seed: int,
) -> float:
    low, high = 0.0, 8.0
    for _ in range(_HALVINGS):
        load = (low + high) / 2
        jobs = trace(kinds, _MODEL_REQUESTS, load * capacity_per_s, seed=seed)
        # A queue this long keeps more requests late than the percentile forgives.
        latencies = simulate(jobs, batching, service_s, give_up_s=_HOPELESS * target_s)
        kept = len(latencies) == len(jobs) and percentile(latencies) <= target_s
        low, high = (load, high) if kept else (low, load)
    return low
