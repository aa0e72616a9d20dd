"""``/sdapi/v1/progress``, ``interrupt`` and ``skip``, and ``/internal/*``: all of the caller's own drawings."""

from __future__ import annotations

import base64
import time
from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request
from pydantic import BaseModel, Field

from serve_app.api.a1111.shape import ERRORS, A1111Error
from serve_app.api.caller import caller_of, may_see
from serve_app.api.deps import Service, body_schema, json_body
from serve_app.api.errors import error_responses
from serve_app.limits import ShortName, WholeNumber
from serve_app.live_drawings import LiveDrawing

_TASK_ID = "Only the drawing that was sent with this force_task_id."


class ProgressState(BaseModel):
    """Of the oldest drawing; ``job_count`` and ``job_no`` of all of them."""

    skipped: bool = False
    interrupted: bool = False
    stopping_generation: bool = False
    job: str = ""
    job_count: int = 0
    job_timestamp: str = "0"
    job_no: int = 0
    sampling_step: int = 0
    sampling_steps: int = 0


class Progress(BaseModel):
    """How far the caller's drawings are; all zero when there are none.

    Attributes:
        progress: 0 to 1.
        eta_relative: Seconds to go, 0 before the first step.
        state: Counters.
        current_image: Base64 of a small preview, or null.
        textinfo: What it waits for, or null.
    """

    progress: float
    eta_relative: float
    state: ProgressState
    current_image: str | None = None
    textinfo: str | None = None


class TaskQuery(BaseModel):
    """Which task is asked for.

    Attributes:
        id_task: The client's own id, as sent in ``force_task_id``.
        id_live_preview: Number of the last preview that the client has.
        live_preview: Whether it wants a preview.
    """

    model_config = {"json_schema_extra": {"examples": [{"id_task": "task(fox-1)", "id_live_preview": -1}]}}

    id_task: ShortName
    id_live_preview: WholeNumber | None = Field(default=-1, ge=-1, le=10**6)
    live_preview: bool | None = True


class TaskProgress(BaseModel):
    """How far one task is. A task that is unknown is neither active, queued nor completed."""

    active: bool
    queued: bool
    completed: bool
    progress: float | None = None
    eta: float | None = None
    live_preview: str | None = None
    id_live_preview: int | None = None
    textinfo: str | None = None


class PendingTasks(BaseModel):
    """The caller's tasks that are not finished, oldest first."""

    size: int
    tasks: list[str]


router = APIRouter(route_class=ERRORS.route_class())
_REFUSALS = error_responses(A1111Error, 422, 503)
_TaskId = Annotated[ShortName | None, Query(description=_TASK_ID)]


@router.get("/sdapi/v1/progress", summary="How far my drawings are", responses=_REFUSALS)
async def progress(
    request: Request, service: Service, skip_current_image: bool = False, id_task: _TaskId = None
) -> Progress:
    """The caller is told from others by its key, else by its address."""
    drawings = await _mine(request, service, id_task)
    if not drawings:
        return Progress(progress=0.0, eta_relative=0.0, state=ProgressState())
    oldest = drawings[0]
    preview = None if skip_current_image else oldest.progress.preview
    return Progress(
        progress=_fraction(drawings),
        eta_relative=_seconds_to_go(drawings),
        state=ProgressState(
            skipped=oldest.skips > 0,
            interrupted=oldest.interrupted,
            stopping_generation=oldest.interrupted,
            job=oldest.task_id or "txt2img",
            job_count=sum(drawing.rounds for drawing in drawings),
            job_timestamp=time.strftime("%Y%m%d%H%M%S", time.gmtime(oldest.started_at)),
            job_no=sum(drawing.progress.rounds_done for drawing in drawings),
            sampling_step=oldest.progress.step,
            sampling_steps=oldest.num_inference_steps,
        ),
        current_image=preview and base64.b64encode(preview).decode("ascii"),
        textinfo=_waiting(oldest),
    )


@router.post("/sdapi/v1/interrupt", summary="Stop my drawings", responses=_REFUSALS)
async def interrupt(request: Request, service: Service, id_task: _TaskId = None) -> dict[str, Any]:
    """Stops them at the next step; they answer with what is finished. Drawings of other callers go on."""
    for drawing in await _mine(request, service, id_task):
        await service.live.interrupt(drawing.drawing_id)
    return {}


@router.post("/sdapi/v1/skip", summary="Leave my current round out", responses=_REFUSALS)
async def skip(request: Request, service: Service, id_task: _TaskId = None) -> None:
    """Leaves out the first unfinished round of the caller's oldest drawing."""
    for drawing in (await _mine(request, service, id_task))[:1]:
        await service.live.skip(drawing.drawing_id)


@router.post(
    "/internal/progress",
    summary="How far my task is",
    responses={**_REFUSALS, **error_responses(A1111Error, 400, 408, 413)},
    openapi_extra=body_schema(TaskQuery),
)
async def task_progress(
    body: Annotated[TaskQuery, Depends(json_body(TaskQuery))], request: Request, service: Service
) -> TaskProgress:
    """The task is the request that was sent with this id as ``force_task_id``."""
    drawings = await _mine(request, service, body.id_task)
    if not drawings:
        finished = await service.live.was_finished(caller_of(request, service.settings), body.id_task)
        return TaskProgress(active=False, queued=False, completed=finished)
    drawing = drawings[0]
    waiting = drawing.progress.queue_position is not None or drawing.progress.starting
    preview = drawing.progress.preview if body.live_preview is not False else None
    # Previews are numbered by the steps behind them; the client says which one it has.
    number = drawing.progress.steps_done
    fresh = preview is not None and number != body.id_live_preview
    return TaskProgress(
        active=not waiting,
        queued=waiting,
        completed=False,
        progress=_fraction(drawings),
        eta=_seconds_to_go(drawings),
        live_preview="data:image/png;base64," + base64.b64encode(preview).decode("ascii")
        if preview is not None and fresh
        else None,
        id_live_preview=number if fresh else body.id_live_preview,
        textinfo=_waiting(drawing),
    )


@router.get("/internal/pending-tasks", summary="My unfinished tasks", responses=_REFUSALS)
async def pending_tasks(request: Request, service: Service) -> PendingTasks:
    """Those that were sent with a ``force_task_id``."""
    drawings = await _mine(request, service, None)
    tasks = [drawing.task_id for drawing in drawings if drawing.task_id is not None]
    return PendingTasks(size=len(tasks), tasks=tasks)


async def _mine(request: Request, service: Service, task_id: str | None) -> list[LiveDrawing]:
    caller = caller_of(request, service.settings)
    if task_id is None:
        return await service.live.of(caller)
    return [drawing for drawing in await service.live.task(task_id) if may_see(caller, drawing.caller)]


def _fraction(drawings: Sequence[LiveDrawing]) -> float:
    steps = sum(drawing.rounds * drawing.num_inference_steps for drawing in drawings)
    return min(1.0, sum(drawing.progress.steps_done for drawing in drawings) / steps)


def _seconds_to_go(drawings: Sequence[LiveDrawing]) -> float:
    done = _fraction(drawings)
    elapsed_s = max(0.0, time.time() - drawings[0].started_at)
    return elapsed_s / done - elapsed_s if done else 0.0


def _waiting(drawing: LiveDrawing) -> str | None:
    if drawing.progress.starting:
        return "Waiting: an accelerator is being started"
    position = drawing.progress.queue_position
    return None if position is None else f"Waiting: {position} pictures ahead"
