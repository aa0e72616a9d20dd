"""Drawing within the time limit, and the headers that tell of it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TypeVar
from urllib.parse import quote

from serve_app.errors import DeadlineExceeded, ImagineError
from serve_app.request import GeneratedImage, GenerationResult, RequestDraft
from serve_app.service import ImageService

Kept = TypeVar("Kept")


@asynccontextmanager
async def time_limit(timeout_s: float) -> AsyncIterator[float]:
    """Bounds a block by the service's longest request.

    Args:
        timeout_s: Seconds.

    Yields:
        The Unix time in seconds at which the block ends.

    Raises:
        DeadlineExceeded: The time ran out; what ran inside was cancelled.
    """
    limit = asyncio.timeout(timeout_s)
    try:
        async with limit:
            yield time.time() + timeout_s
    except TimeoutError as error:
        if not limit.expired():
            raise
        raise DeadlineExceeded(f"The request took longer than {timeout_s:g} s") from error


async def draw(service: ImageService, draft: RequestDraft) -> GenerationResult:
    """Draws one request within the time limit. Cancelling the task cancels the drawing.

    Raises:
        ImagineError: Any of the domain errors.
    """
    async with time_limit(service.settings.request_timeout_s) as deadline:
        return await service.draw(replace(draft, deadline=deadline))


async def draw_rounds(
    service: ImageService,
    drafts: Sequence[RequestDraft],
    keep: Callable[[int, GenerationResult], Awaitable[Kept]],
) -> list[tuple[Kept, float]]:
    """Draws several requests at once within one time limit.

    When one fails or the caller leaves, the rest stop.

    Args:
        service: Draws them.
        drafts: One per round.
        keep: Called with the position and the result of each round as soon as it is drawn; what it returns is
            kept in place of the result, so that finished pictures need not stay in memory meanwhile.

    Returns:
        For each draft, in their order, what `keep` returned and the wall seconds of the drawing.

    Raises:
        ImagineError: The first domain error of any of them.
    """

    async def draw_one(position: int, draft: RequestDraft) -> tuple[Kept, float]:
        start = time.perf_counter()
        result = await service.draw(draft)
        seconds = time.perf_counter() - start
        return await keep(position, result), seconds

    async with time_limit(service.settings.request_timeout_s) as deadline:
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [
                    group.create_task(draw_one(position, replace(draft, deadline=deadline)))
                    for position, draft in enumerate(drafts)
                ]
        except BaseExceptionGroup as failures:
            raise _first_domain_error(failures) from failures
    return [task.result() for task in tasks]


def picture_headers(result: GenerationResult, image: GeneratedImage, *, repeatable: bool) -> dict[str, str]:
    """Headers of an answer that is the picture itself.

    Args:
        result: The whole result.
        image: The picture that is sent.
        repeatable: Whether the client gave the seed, so that the same request gives the same picture.
    """
    stages = {
        name: getattr(image.seconds, name) for name in ("queue", "prepare", "denoise", "decode", "encode")
    }
    return {
        "X-Seed": str(image.seed),
        "X-Pool": _header_value(result.pool),
        "X-Model": _header_value(result.model),
        "Server-Timing": ", ".join(f"{name};dur={seconds * 1000:.1f}" for name, seconds in stages.items()),
        "Content-Disposition": f'inline; filename="imagine-{image.seed}.{image.format.value}"',
        # Without a seed the next visit to the same address must draw anew.
        "Cache-Control": "private, max-age=3600" if repeatable else "no-store",
        "X-Content-Type-Options": "nosniff",
    }


def _first_domain_error(failures: BaseExceptionGroup[BaseException]) -> BaseException:
    """The error that the client is told of; a fault of our own when no domain error is among them."""
    known = failures.subgroup(ImagineError)
    group: BaseExceptionGroup[BaseException] = known if known is not None else failures
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _header_value(text: str) -> str:
    """Printable ASCII as it is; anything else percent-encoded, since headers carry no more."""
    return quote(text, safe="/:@ .,+-_=()")
