"""The test picture a replica draws before it calls itself ready."""

from __future__ import annotations

import logging
import queue
import time

from serve_app.capabilities import Capabilities, PoolFacts
from serve_app.engine import Engine
from serve_app.errors import ConfigurationError, ImagineError
from serve_app.request import RequestDraft, new_request_id
from serve_app.result import Pixels, StageSeconds, StepProgress

logger = logging.getLogger(__name__)

WARMUP_TIMEOUT_S = 1800.0
"""A full-size SDXL on a few CPU cores without bf16 needs minutes; a compiler's first call too."""

TIMED_AGAIN_S = 5.0
"""A test picture faster than this is drawn twice: the first one pays for lazy libraries and compilers, the second one
tells how fast the device is. The slower ones hide the difference."""

LARGEST_SIDE = 512
"""Large enough to touch every layer at a usual size, small enough for slow hardware."""


class Collector:
    """A listener that hands everything to the thread that waits.

    Attributes:
        events: `StepProgress`, (index, pixels, seconds) or an error, in the order they came.
    """

    def __init__(self) -> None:
        self.events: queue.Queue[StepProgress | tuple[int, Pixels, StageSeconds] | ImagineError] = (
            queue.Queue()
        )

    def on_progress(self, progress: StepProgress, preview: Pixels | None) -> None:
        """A step is done."""
        self.events.put(progress)

    def on_picture(self, index: int, pixels: Pixels, seconds: StageSeconds) -> None:
        """A picture is finished."""
        self.events.put((index, pixels, seconds))

    def on_failure(self, index: int, error: ImagineError) -> None:
        """A picture has failed."""
        self.events.put(error)


def warm_up(engine: Engine, facts: PoolFacts) -> float:
    """Draws a picture in one step at each size that a replica should be ready for, and looks at it.

    Returns:
        Seconds of one row's denoising step per megapixel.

    Raises:
        ConfigurationError: One failed, took longer than `WARMUP_TIMEOUT_S`, or is one flat colour.
    """
    sizes = _sizes(facts.capabilities, facts.defaults.width, facts.defaults.height)
    largest = max(sizes, key=lambda size: size[0] * size[1])  # small ones hardly tell how fast the device is
    for size in sizes:
        if size != largest:
            _draw(engine, facts, *size)
    started = time.monotonic()
    step_s = _draw(engine, facts, *largest)
    return _draw(engine, facts, *largest) if time.monotonic() - started < TIMED_AGAIN_S else step_s


def _draw(engine: Engine, facts: PoolFacts, width: int, height: int) -> float:
    draft = RequestDraft(
        "a red star on a blue background",
        width=width,
        height=height,
        num_inference_steps=1,
        seed=0,
        request_id=new_request_id(),
    )
    collector = Collector()
    started = time.monotonic()
    ticket = engine.submit(draft.for_pool(facts), collector)
    try:
        while True:
            left_s = started + WARMUP_TIMEOUT_S - time.monotonic()
            event = collector.events.get(timeout=max(0.0, left_s))
            if isinstance(event, ImagineError):
                raise ConfigurationError(f"the test picture of model {facts.model} failed: {event}")
            if isinstance(event, tuple):
                break
    except queue.Empty:
        ticket.cancel()
        raise ConfigurationError(
            f"the test picture of model {facts.model} took longer than {WARMUP_TIMEOUT_S:.0f} s"
        ) from None
    _, pixels, _ = event
    # Every byte of a channel alike in all three channels: NaN weights and wrong dtypes end like this.
    if all(len(set(pixels.rgb[channel::3])) == 1 for channel in range(3)):
        raise ConfigurationError(
            f"the test picture of model {facts.model} is one flat colour: the weights or the compute type do not "
            "work; try DTYPE=float32"
        )
    logger.info("test picture %dx%d in %.2f s", width, height, time.monotonic() - started)
    stats = engine.stats()
    return stats.last_step_s / max(1, stats.last_step_rows) / (width * height / 1_000_000)


def _sizes(capabilities: Capabilities, width: int, height: int) -> tuple[tuple[int, int], ...]:
    """All sizes where they are fixed, since each was compiled by itself; else the default cut to `LARGEST_SIDE`."""
    if capabilities.fixed_sizes:
        return capabilities.fixed_sizes
    step = capabilities.size_multiple
    side = max(capabilities.min_side, LARGEST_SIDE) // step * step
    return ((min(width, side), min(height, side)),)
