"""Drawing within the time limit, what happens when the caller leaves, and the headers that tell of it."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from typing import TypeVar
from urllib.parse import quote

from serve_app.api.caller import caller_here
from serve_app.api.unattended import attended, detached
from serve_app.errors import DeadlineExceeded, ImagineError
from serve_app.request import RequestDraft
from serve_app.result import GeneratedImage, GenerationResult, StepProgress
from serve_app.service import ImageService
from serve_app.store import PictureStore, picture_name

log = logging.getLogger(__name__)

Kept = TypeVar("Kept")

_STAGES = ("queue", "prepare", "denoise", "decode", "encode")


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


async def draw(service: ImageService, draft: RequestDraft, keep_as: str | None = None) -> GenerationResult:
    """Draws one request within the time limit.

    Args:
        service: Draws it.
        draft: What to draw.
        keep_as: From `unattended.keep_as`: None stops the drawing when this task is cancelled; an id lets it go
            on to its end, and stores the pictures under the id.

    Raises:
        ImagineError: Any of the domain errors.
    """

    _log_drawing(draft)
    caller = caller_here.get()

    async def drawn() -> GenerationResult:
        async with (
            service.quotas.drawing(caller, draft.num_images),
            time_limit(service.settings.request_timeout_s) as deadline,
        ):
            result = await service.draw(replace(draft, deadline=deadline))
        if keep_as is not None:
            await store_pictures(service.store, keep_as, result)
        return result

    return await attended(drawn(), keep_as)


async def follow(
    service: ImageService, draft: RequestDraft, keep_as: str | None = None
) -> AsyncGenerator[StepProgress | GenerationResult, None]:
    """As `draw`, with the steps on the way. Any task may read the iterator; closing it is leaving.

    Yields:
        `StepProgress` events and, last, the result.

    Raises:
        ImagineError: Any of the domain errors.
    """
    _log_drawing(draft)
    # At most one event for each step and place in the queue, so no limit of its own is needed.
    events: asyncio.Queue[StepProgress | None] = asyncio.Queue()
    caller = caller_here.get()

    async def drawn() -> GenerationResult:
        try:
            async with (
                service.quotas.drawing(caller, draft.num_images),
                time_limit(service.settings.request_timeout_s) as deadline,
                aclosing(service.stream(replace(draft, deadline=deadline), progress=True)) as stream,
            ):
                async for event in stream:
                    if isinstance(event, GenerationResult):
                        if keep_as is not None:
                            await store_pictures(service.store, keep_as, event)
                        return event
                    events.put_nowait(event)
        finally:
            events.put_nowait(None)
        raise AssertionError("stream() ends with a result or an error")

    drawing = detached(drawn())
    try:
        while (event := await events.get()) is not None:
            yield event
        yield await drawing
    finally:
        if keep_as is None and not drawing.done():
            drawing.cancel()
            await asyncio.wait({drawing})


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

    for draft in drafts:
        _log_drawing(draft)

    async def draw_one(position: int, draft: RequestDraft) -> tuple[Kept, float]:
        start = time.perf_counter()
        result = await service.draw(draft)
        seconds = time.perf_counter() - start
        return await keep(position, result), seconds

    async with (
        service.quotas.drawing(caller_here.get(), sum(draft.num_images for draft in drafts)),
        time_limit(service.settings.request_timeout_s) as deadline,
    ):
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [
                    group.create_task(draw_one(position, replace(draft, deadline=deadline)))
                    for position, draft in enumerate(drafts)
                ]
        except BaseExceptionGroup as failures:
            raise _first_domain_error(failures) from failures
    return [task.result() for task in tasks]


async def store_pictures(
    store: PictureStore, picture_id: str, result: GenerationResult, *, number: int = 0
) -> list[str]:
    """Stores every picture of one round.

    Returns:
        The names of the pictures, in their order.

    Raises:
        StoreUnavailable: The storage refused or did not answer.
    """
    names = [picture_name(number, image.index, image.format) for image in result.images]
    for name, image in zip(names, result.images, strict=True):
        await store.put(picture_id, name, image.data)
    return names


def drawing_headers(results: Sequence[GenerationResult], *, store_s: float | None = None) -> dict[str, str]:
    """Headers of every answer that tells of pictures, whatever its format.

    ``X-Seed`` (of the first picture), ``X-Pool``, ``X-Accelerator``, ``X-Model``, ``X-Cost`` (in the currency of the
    pools' ``price_per_hour``) and ``Server-Timing``. Of several pictures each stage tells of the one that was longest
    in it, since they are drawn side by side; ``start`` is there where a request was held while its pool started.

    Args:
        results: What was drawn, at least one.
        store_s: Seconds spent storing, where pictures were stored.
    """
    stages = stage_seconds(results)
    if store_s is not None:
        stages["store"] = store_s
    return {
        "X-Seed": str(results[0].images[0].seed),
        "X-Pool": _header_value(", ".join(dict.fromkeys(result.pool for result in results))),
        "X-Accelerator": ", ".join(dict.fromkeys(result.accelerator for result in results)),
        "X-Model": _header_value(", ".join(dict.fromkeys(result.model for result in results))),
        "X-Cost": f"{sum(result.cost for result in results):.8f}",
        "Server-Timing": ", ".join(f"{name};dur={stage_s * 1000:.1f}" for name, stage_s in stages.items()),
    }


def stage_seconds(results: Sequence[GenerationResult]) -> dict[str, float]:
    """Wall seconds by stage, of the longest picture in each; ``start`` only where a pool had to be started first."""
    seconds = [image.seconds for result in results for image in result.images]
    start_wait_s = max(result.start_wait_s for result in results)
    stages = {"start": start_wait_s} if start_wait_s > 0 else {}
    return stages | {name: max(float(getattr(one, name)) for one in seconds) for name in _STAGES}


def picture_headers(result: GenerationResult, image: GeneratedImage, *, repeatable: bool) -> dict[str, str]:
    """Headers of an answer that is the picture itself.

    Args:
        result: The whole result.
        image: The picture that is sent.
        repeatable: Whether the client gave the seed, so that the same request gives the same picture.
    """
    return {
        **drawing_headers([result]),
        "Content-Disposition": f'inline; filename="imagine-{image.seed}.{image.format.value}"',
        # Without a seed the next visit to the same address must draw anew.
        "Cache-Control": "private, max-age=3600" if repeatable else "no-store",
        "X-Content-Type-Options": "nosniff",
    }


def _log_drawing(draft: RequestDraft) -> None:
    """Ties the drawing's id, under which replicas know it, to the HTTP request's, which Serve adds to the line."""
    log.info("draws %s", draft.request_id, extra={"drawing_id": draft.request_id})


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
