"""What happens to a drawing when its caller leaves: it stops, or it goes on and its pictures are kept."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Coroutine
from contextvars import Context, ContextVar
from typing import Any, Literal, TypeVar

from fastapi import Request
from pydantic import BaseModel, Field

from serve_app.api.caller import caller_here
from serve_app.api.deps import request_id_of
from serve_app.errors import ImagineError, InvalidRequest
from serve_app.request import new_request_id, owner_here, traceparent_here
from serve_app.store import PictureStore

log = logging.getLogger(__name__)

Done = TypeVar("Done")

_UUID4 = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
# The event loop itself holds tasks weakly. Bounded: a drawing in here is one that a pool's bounded queue accepted, and
# it ends within the time limit.
_tasks: set[asyncio.Task[Any]] = set()


OnDisconnect = Literal["cancel", "finish"]
"""What to do when the caller's connection closes before the answer."""

ON_DISCONNECT = (
    "When the connection closes early: `cancel` stops the drawing; `finish` draws to the end, and keeps the pictures "
    "at /images/{X-Request-Id}/0_0.png and so on, where the request's X-Request-Id is a random UUID (version 4), "
    "in small letters there."
)


class Disconnectable(BaseModel):
    """The field that every body of a route that draws has."""

    on_disconnect: OnDisconnect | None = Field(default="cancel", description=ON_DISCONNECT)


async def keep_as(request: Request, store: PictureStore, on_disconnect: OnDisconnect | None) -> str | None:
    """The id under which pictures are kept whether or not the caller stays; None: the drawing stops when it leaves.

    The caller must know the id before the answer, so it is the ``X-Request-Id``, provided nobody can guess it:
    a UUID of version 4, in small letters however it was written. Otherwise a fresh one, which only the log tells.

    Raises:
        InvalidRequest: Pictures are stored under that id already; nobody may replace them.
        StoreUnavailable: The storage does not answer.
    """
    if on_disconnect != "finish":
        return None
    offered = request_id_of(request).lower()  # `uuidgen` of macOS writes capitals
    if _UUID4.fullmatch(offered) is None:
        return new_request_id()
    if await store.holds(offered):
        raise InvalidRequest("X-Request-Id", "pictures are kept under this id already; send a fresh one")
    return offered


def detached(work: Coroutine[Any, Any, Done]) -> asyncio.Task[Done]:
    """Runs `work` as a task that does not end with the request it was started in.

    In a context of its own, since Ray Serve finds in the request's which calls to cancel together with it. Whose it is
    goes along.
    """
    context = Context()
    ours: tuple[ContextVar[Any], ...] = (caller_here, owner_here, traceparent_here)
    for variable in ours:
        context.run(variable.set, variable.get())
    task = asyncio.get_running_loop().create_task(work, context=context)
    _tasks.add(task)
    task.add_done_callback(_forget)
    return task


def _forget(task: asyncio.Task[Any]) -> None:
    _tasks.discard(task)
    # Who still waits for the task hears of its error; this is for the ones that nobody waits for any more.
    if not task.cancelled() and (error := task.exception()) is not None:
        expected = isinstance(error, ImagineError)
        log.log(logging.INFO if expected else logging.ERROR, "A drawing failed: %s", error)


async def attended(work: Coroutine[Any, Any, Done], picture_id: str | None) -> Done:
    """Awaits `work`, and does what the caller wished should this be cancelled meanwhile.

    Args:
        work: The drawing; it stores its pictures itself where they are to be kept.
        picture_id: From `keep_as`. None: cancelling this cancels `work`; an id: `work` goes on.
    """
    if picture_id is None:
        return await work
    task = detached(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        log.info("The caller left; the drawing goes on and is kept as %s", picture_id)
        raise
