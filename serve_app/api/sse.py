"""Server-sent events: their bytes, and comments in between so that no proxy thinks the connection is dead."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Mapping
from typing import Any, TypeVar

Item = TypeVar("Item")

HEADERS: Mapping[str, str] = {
    "Cache-Control": "no-cache, no-transform",
    # nginx would keep small answers back otherwise.
    "X-Accel-Buffering": "no",
}
MEDIA_TYPE = "text/event-stream"
HEARTBEAT = b": heartbeat\n\n"


def encode_event(data: Any, *, event: str | None = None, event_id: int | None = None) -> bytes:
    """One event with JSON data (which has no line breaks).

    Args:
        data: JSON-able.
        event: Its name, a single line.
        event_id: What the client sends back as ``Last-Event-ID``.
    """
    lines = [] if event_id is None else [f"id: {event_id}"]
    if event is not None:
        lines.append(f"event: {event}")
    lines.append(f"data: {json.dumps(data, separators=(',', ':'))}")
    return ("\n".join(lines) + "\n\n").encode()


async def with_silences(
    items: AsyncGenerator[Item, None], longest_s: float
) -> AsyncGenerator[Item | None, None]:
    """The items, and None whenever `longest_s` seconds have passed without one.

    Args:
        items: Closed with this iterator.
        longest_s: Seconds.
    """
    pending = asyncio.ensure_future(anext(items))
    try:
        while True:
            done, _ = await asyncio.wait({pending}, timeout=longest_s)
            if not done:
                yield None
                continue
            try:
                item = pending.result()
            except StopAsyncIteration:
                return
            yield item
            pending = asyncio.ensure_future(anext(items))
    finally:
        pending.cancel()
        await asyncio.wait({pending})
        await items.aclose()
