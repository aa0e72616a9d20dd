"""The test picture a replica draws before it calls itself ready."""

from __future__ import annotations

import logging
import queue
import time

from serve_app.capabilities import Capabilities, PoolFacts
from serve_app.engine import Engine
from serve_app.errors import ConfigurationError, ImagineError
from serve_app.request import Pixels, RequestDraft, StageSeconds, StepProgress, new_request_id

logger = logging.getLogger(__name__)

WARMUP_TIMEOUT_S = 1800.0
"""A full-size SDXL on a few CPU cores without bf16 needs minutes; a compiler's first call too."""

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


def warm_up(engine: Engine, facts: PoolFacts) -> None:
    """Draws a small picture in one step and looks at it.

    Raises:
        ConfigurationError: It failed, took longer than `WARMUP_TIMEOUT_S`, or is one flat colour.
    """
    width, height = _size(facts.capabilities, facts.defaults.width, facts.defaults.height)
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


def _size(capabilities: Capabilities, width: int, height: int) -> tuple[int, int]:
    """A size that can be drawn: the only one where there is one, else the default cut to `LARGEST_SIDE`."""
    if capabilities.fixed_sizes:
        return capabilities.fixed_sizes[0]
    step = capabilities.size_multiple
    side = max(capabilities.min_side, LARGEST_SIDE) // step * step
    return min(width, side), min(height, side)
