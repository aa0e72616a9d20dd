"""What must hold after a soak: `checks_of`."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from serve_app.engine.pipeline import StepPipeline
from serve_app.request import GenerationRequest
from serve_app.result import Pixels

if TYPE_CHECKING:
    from bench.soak import Soak

PIXEL_TOLERANCE = 1  # of 255
MAX_MEMORY_GROWTH = 0.05  # of the memory after the first fifth of the time...
MAX_MEMORY_GROWTH_BYTES = 48 * 1024**2  # ...or this, where it is more: allocators round up
MAX_THREAD_GROWTH = 2  # a pool may start its last threads late
MAX_FILE_GROWTH = 8  # connections that are kept open come and go
MIN_GROWTH_RUN_S = 240.0  # in less, all still grows to what the work takes
MAX_STUCK_S = 60.0
_TOO_SHORT = " (too short to judge)"


@dataclass(frozen=True)
class Sample:
    """A finished picture, to be drawn again alone.

    Attributes:
        request: Whose.
        index: Which of its pictures.
        file: Its RGB bytes.
    """

    request: GenerationRequest
    index: int
    file: Path


@dataclass(frozen=True)
class Check:
    """One promise.

    Attributes:
        name: What must hold.
        passed: Whether it did.
        seen: The figures behind it.
    """

    name: str
    passed: bool
    seen: str


def checks_of(soak: Soak, *, drained: bool, stopped: bool) -> list[Check]:
    """All checks of a run that has ended.

    Args:
        soak: The run.
        drained: Whether all work ended in time once nothing more was submitted.
        stopped: Whether the engine's thread ended.
    """
    tally, stats = soak.tally, soak.engine.stats()
    ends = sum(tally.ends.values())
    counted = (stats.images_done, stats.images_cancelled, stats.images_failed)
    heard = (
        tally.ends["picture"],
        tally.ends["GenerationCancelled"],
        ends - tally.ends["picture"] - tally.ends["GenerationCancelled"],
    )
    left = (stats.queued_images, stats.running_images, stats.rows_in_flight)
    engine_threads = [thread.name for thread in threading.enumerate() if thread.name.startswith("engine")]
    most_queued = max((reading.queued for reading in soak.readings), default=0)
    most_stuck_s = max((reading.stuck_s for reading in soak.readings), default=0.0)
    return [
        Check(
            "every accepted picture ends exactly once",
            ends == soak.accepted_pictures and not soak.unheard(),
            f"{soak.accepted_pictures} accepted, {ends} ended",
        ),
        Check("every end is one that was to be expected", not tally.problems, f"{len(tally.problems)} not"),
        Check("the engine's counters add up", counted == heard, f"{counted} counted, {heard} heard"),
        Check("no work is left", drained and left == (0, 0, 0), f"{left} queued, running, rows"),
        Check("the engine's threads end", stopped and not engine_threads, f"left: {engine_threads}"),
        Check("the queue keeps its bound", most_queued <= soak.max_queued_images, f"at most {most_queued}"),
        Check("it is never stuck", most_stuck_s <= MAX_STUCK_S, f"at most {most_stuck_s:.1f} s"),
        *flat_checks(soak.readings, soak.duration_s),
        _pictures(soak.clean, tally.samples),
    ]


class Measured(Protocol):
    """What a process had at one time."""

    @property
    def at_s(self) -> float:
        """Seconds since the start."""
        ...

    @property
    def rss_bytes(self) -> int:
        """Resident memory."""
        ...

    @property
    def threads(self) -> int:
        """Threads."""
        ...

    @property
    def files(self) -> int:
        """Open file handles."""
        ...


def flat_checks(
    readings: Sequence[Measured],
    duration_s: float,
    whose: str = "",
    *,
    least_for_memory_s: float = MIN_GROWTH_RUN_S,
) -> list[Check]:
    """That a process (or several, added up) does not grow, after warming up.

    Args:
        readings: In the order of time, evenly spaced.
        duration_s: Of the load; what is too short to judge passes, and says so.
        whose: Name of the process, where there are several.
        least_for_memory_s: A shorter load is too short to judge memory by.
    """
    suffix = f" ({whose})" if whose else ""
    return [
        _memory(readings, duration_s < least_for_memory_s, f"memory does not grow{suffix}"),
        _counted(readings, duration_s, f"threads do not grow{suffix}", MAX_THREAD_GROWTH, _threads_of),
        _counted(readings, duration_s, f"file handles do not grow{suffix}", MAX_FILE_GROWTH, _files_of),
    ]


def _threads_of(reading: Measured) -> int:
    return reading.threads


def _files_of(reading: Measured) -> int:
    return reading.files


def _fifths(readings: Sequence[Measured]) -> tuple[Sequence[Measured], Sequence[Measured]]:
    """The second and the last fifth of the time: after warming up, and at the end."""
    fifth = max(1, len(readings) // 5)
    return readings[fifth : 2 * fifth] or readings[:1], readings[-fifth:]


def _memory(readings: Sequence[Measured], too_short: bool, name: str) -> Check:
    early, late = (float(np.median([one.rss_bytes for one in part])) for part in _fifths(readings))
    bound = max(MAX_MEMORY_GROWTH * early, MAX_MEMORY_GROWTH_BYTES)
    slope = 0.0
    if len(settled := readings[len(readings) // 5 :]) > 1:
        slope = float(np.polyfit([one.at_s for one in settled], [one.rss_bytes for one in settled], 1)[0])
    return Check(
        name,
        too_short or late - early <= bound,
        f"{early / 2**20:.0f} -> {late / 2**20:.0f} MiB, bound +{bound / 2**20:.0f}, "
        f"{slope * 60 / 2**20:+.1f} MiB a minute{_TOO_SHORT if too_short else ''}",
    )


def _counted(
    readings: Sequence[Measured],
    duration_s: float,
    name: str,
    most: int,
    of: Callable[[Measured], int],
) -> Check:
    """By the least that is seen in a part: bursts take more and give it back, a leak does not."""
    early, late = (min(of(one) for one in part) for part in _fifths(readings))
    too_short = duration_s < MIN_GROWTH_RUN_S
    return Check(
        name, too_short or late <= early + most, f"{early} -> {late}{_TOO_SHORT if too_short else ''}"
    )


def _pictures(pipeline: StepPipeline, samples: list[Sample]) -> Check:
    """The sampled pictures against those drawn alone, now, without poison."""
    worst = 0
    for sample in samples:
        request = sample.request
        seed = request.image_seed(sample.index)
        alone = _draw(pipeline, replace(request, seed=seed, num_images=1, deadline=None))
        drawn = np.frombuffer(sample.file.read_bytes(), np.uint8).astype(np.int16)
        worst = max(worst, int(np.abs(drawn - np.frombuffer(alone.rgb, np.uint8)).max()))
    return Check(
        "sampled pictures equal those drawn alone",
        bool(samples) and worst <= PIXEL_TOLERANCE,
        f"{len(samples)} pictures, largest difference {worst} of 255",
    )


def _draw(pipeline: StepPipeline, request: GenerationRequest) -> Pixels:
    state = pipeline.prepare(request, 0)
    while not state.finished:
        pipeline.denoise_step([state])
        state.step += 1
    return pipeline.decode(state)
