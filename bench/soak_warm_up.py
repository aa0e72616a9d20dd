"""What each size takes once, code and layouts of weights, is there before memory is watched.

`draw_every_size` asks an engine for them, `ask_every_size` a service.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from itertools import product

import httpx

from serve_app.engine import Engine
from serve_app.engine.pipeline import StepPipeline
from serve_app.errors import ImagineError
from serve_app.request import GenerationRequest, new_request_id
from serve_app.result import Pixels, StageSeconds, StepProgress

_PICTURES = 4
_AT_ONCE = (1, 2, 3, 4, 6, 8)
"""Code is written for each number of rows too; a service draws whatever number comes together."""

_TIMEOUT_S = 120.0


class _Listener:
    def __init__(self) -> None:
        self.ends = threading.Semaphore(0)
        self.error: ImagineError | None = None

    def on_progress(self, progress: StepProgress, preview: Pixels | None) -> None:
        pass

    def on_picture(self, index: int, pixels: Pixels, seconds: StageSeconds) -> None:
        self.ends.release()

    def on_failure(self, index: int, error: ImagineError) -> None:
        self.error = error
        self.ends.release()


def draw_every_size(pipeline: StepPipeline, sides: Sequence[int]) -> None:
    """Draws some pictures of each width and height, by an engine of its own that ends.

    Args:
        pipeline: Draws.
        sides: Pixels.

    Raises:
        ImagineError: A picture failed.
        TimeoutError: One did not come.
    """
    engine = Engine(pipeline)
    engine.start()
    try:
        for width, height in product(sides, repeat=2):
            listener = _Listener()
            request = GenerationRequest(
                request_id=new_request_id(),
                prompt="a red star",
                negative_prompt="",
                height=height,
                width=width,
                num_inference_steps=1,
                guidance_scale=0.0,
                seed=0,
                num_images=_PICTURES,
                scheduler_name=None,
            )
            engine.submit(request, listener)
            for _ in range(_PICTURES):
                if not listener.ends.acquire(timeout=_TIMEOUT_S):
                    raise TimeoutError(f"no picture of {width}x{height} within {_TIMEOUT_S:g} s")
            if listener.error is not None:
                raise listener.error
    finally:
        engine.stop(_TIMEOUT_S)


async def ask_every_size(client: httpx.AsyncClient, sides: Sequence[int]) -> None:
    """Has a service draw pictures of each width and height, several numbers of them at once.

    Args:
        client: Of the service.
        sides: Pixels.

    Raises:
        httpx.HTTPStatusError: It did not draw one.
    """
    for (width, height), number in product(product(sides, repeat=2), _AT_ONCE):
        body = {"prompt": "a red star", "size": f"{width}x{height}", "n": number}
        answer = await client.post("v1/images/generations", json={**body, "num_inference_steps": 2})
        answer.raise_for_status()
