"""The server-sent events of ``/v1/images/generations``: previews on the way, and the finished picture."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, Field

from serve_app.api.drawing import stage_seconds
from serve_app.api.sse import with_silences
from serve_app.errors import ImagineError
from serve_app.images import png_size
from serve_app.result import GenerationResult, StepProgress

KEEP_ALIVE_S = 15.0
"""Seconds of silence after which a comment is sent: proxies close connections that say nothing for a minute."""


class Usage(BaseModel):
    """Tokens, which OpenAI bills. Nothing is billed by tokens here, so all are 0; X-Cost tells the cost."""

    input_tokens: int = 0
    input_tokens_details: dict[str, int] = Field(
        default_factory=lambda: {"image_tokens": 0, "text_tokens": 0}
    )
    output_tokens: int = 0
    total_tokens: int = 0


class PictureEvent(BaseModel):
    """What both events have.

    Attributes:
        b64_json: The file in base64.
        created_at: Unix time in seconds.
        size: WIDTHxHEIGHT of this file; previews are small.
        quality: As asked for.
        background: Always ``opaque``.
        output_format: Format of this file; previews are PNGs.
    """

    b64_json: str
    created_at: int
    size: str
    quality: str
    background: Literal["opaque"] = "opaque"
    output_format: str


class PartialImage(PictureEvent):
    """A preview.

    Attributes:
        partial_image_index: 0-based.
    """

    type: Literal["image_generation.partial_image"] = "image_generation.partial_image"
    partial_image_index: int


class CompletedImage(PictureEvent):
    """The finished picture.

    Attributes:
        usage: Nothing is counted in tokens.
        seed: The seed that draws it again.
        pool: Pool that drew it.
        accelerator: Its accelerator.
        model: Its model.
        cost: What it cost, in the currency of the pool's ``price_per_hour``.
        seconds: Wall seconds by stage, of ``start`` too where its pool had to start first.
    """

    type: Literal["image_generation.completed"] = "image_generation.completed"
    usage: Usage = Usage()
    seed: int
    pool: str
    accelerator: str
    model: str
    cost: float
    seconds: dict[str, float]


@dataclass(frozen=True, slots=True)
class StreamedOutput:
    """What the client asked for, as far as the events repeat it.

    Attributes:
        quality: As asked for.
        partial_images: Most previews.
    """

    quality: str
    partial_images: int


def preview_every(num_inference_steps: int, partial_images: int) -> int:
    """Steps between two previews, so that at most `partial_images` come, evenly spread before the last step."""
    return -(-num_inference_steps // (partial_images + 1)) if partial_images else 0


async def picture_events(
    first: StepProgress | GenerationResult,
    events: AsyncGenerator[StepProgress | GenerationResult, None],
    output: StreamedOutput,
    error_body: Callable[[ImagineError], dict[str, Any]],
) -> AsyncGenerator[tuple[str, str], None]:
    """From the drawing's events to the client's.

    Args:
        first: The event that was read already.
        events: The others; closed at the end.
        output: What the client asked for.
        error_body: The JSON that tells of an error.

    Yields:
        (type, data as JSON). An error ends the stream with an event of type ``error``.
    """
    sent = 0
    event: StepProgress | GenerationResult | None = first
    async with aclosing(events):
        try:
            while event is not None:
                if isinstance(event, GenerationResult):
                    completed = _completed(event, output)
                    yield completed.type, completed.model_dump_json()
                elif event.preview is not None and sent < output.partial_images:
                    partial = _partial(event.preview, sent, output)
                    yield partial.type, partial.model_dump_json()
                    sent += 1
                event = await anext(events, None)
        except ImagineError as error:
            yield "error", json.dumps(error_body(error))


def _completed(result: GenerationResult, output: StreamedOutput) -> CompletedImage:
    image = result.images[0]
    return CompletedImage(
        b64_json=base64.b64encode(image.data).decode("ascii"),
        created_at=int(time.time()),
        size=f"{image.width}x{image.height}",
        quality=output.quality,
        output_format=image.format.value,
        seed=image.seed,
        pool=result.pool,
        accelerator=result.accelerator,
        model=result.model,
        cost=result.cost,
        seconds=stage_seconds([result]),
    )


def _partial(preview: bytes, index: int, output: StreamedOutput) -> PartialImage:
    width, height = png_size(preview)
    return PartialImage(
        b64_json=base64.b64encode(preview).decode("ascii"),
        created_at=int(time.time()),
        size=f"{width}x{height}",
        quality=output.quality,
        output_format="png",
        partial_image_index=index,
    )


async def server_sent(events: AsyncGenerator[tuple[str, str], None]) -> AsyncGenerator[str, None]:
    """Writes (type, data) as server-sent events, with a comment where nothing happens for `KEEP_ALIVE_S`."""
    async with aclosing(with_silences(events, KEEP_ALIVE_S)) as items:
        async for item in items:
            yield ": still drawing\n\n" if item is None else f"event: {item[0]}\ndata: {item[1]}\n\n"
