"""The service about itself: ``/health``, ``/ready``, ``/live``, ``/api/pools`` and the front page."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, Literal

from fastapi import APIRouter, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse
from pydantic import BaseModel, Field

from serve_app import __version__
from serve_app.api.deps import Service
from serve_app.api.errors import ErrorBody, WireErrors, error_responses
from serve_app.errors import ImagineError
from serve_app.pool_status import PoolState, PoolStatus
from serve_app.service import ImageService

PROBE_TIMEOUT_S = 5.0
"""A probe must answer; a service that does not tell whether it is ready within this time is not."""


class Health(BaseModel):
    """``ready`` while a picture could be drawn now; ``asleep`` while the next request starts a replica."""

    status: Literal["ready", "asleep", "starting", "failed"] = Field(examples=["ready"])


class PoolReadiness(BaseModel):
    """One configured pool."""

    name: str = Field(examples=["default"])
    accelerator: str = Field(examples=["cpu"])
    model: str = Field(examples=["small-sdxl"])
    ready: bool
    state: PoolState


class Readiness(BaseModel):
    """Whether pictures can be drawn, and by which pools."""

    ready: bool
    pools: list[PoolReadiness]


class Liveness(BaseModel):
    """The process answers."""

    status: Literal["live"] = "live"


router = APIRouter(tags=["system"], route_class=WireErrors().route_class())


async def _statuses(service: ImageService) -> Sequence[PoolStatus]:
    """What every pool is doing; nothing where the service does not tell in time."""
    try:
        async with asyncio.timeout(PROBE_TIMEOUT_S):
            return await service.pool_statuses()
    except (ImagineError, TimeoutError):
        return ()


def _state(statuses: Sequence[PoolStatus]) -> PoolState:
    """The best of all pools' states; ``starting`` while nothing is known."""
    states = {status.state for status in statuses}
    best_first = (PoolState.READY, PoolState.ASLEEP, PoolState.STARTING, PoolState.FAILED)
    return next((state for state in best_first if state in states), PoolState.STARTING)


@router.head("/health", include_in_schema=False)  # what uptime checkers ask with
@router.get("/health", summary="Can it draw?", responses={503: {"model": Health, "description": "Not yet"}})
async def health(service: Service, response: Response) -> Health:
    """200 while at least one pool draws, at once or (scaled to zero) after a start; else 503."""
    statuses = await _statuses(service)
    if not any(status.takes_requests for status in statuses):
        response.status_code = 503
    return Health(status=_state(statuses).value)


@router.head("/ready", include_in_schema=False)
@router.get(
    "/ready",
    summary="Which pools can draw?",
    responses={503: {"model": Readiness, "description": "None yet"}},
)
async def ready(service: Service, response: Response) -> Readiness:
    """As ``/health``, with every configured pool. A pool that is asleep is not ready, but takes requests."""
    statuses = await _statuses(service)
    by_name = {status.facts.pool: status for status in statuses}
    pools = [
        PoolReadiness(
            name=pool.name,
            accelerator=by_name[pool.name].facts.accelerator if pool.name in by_name else pool.accelerator,
            model=pool.model,
            ready=pool.name in by_name and by_name[pool.name].state is PoolState.READY,
            state=by_name[pool.name].state if pool.name in by_name else PoolState.STARTING,
        )
        for pool in service.settings.pools
    ]
    is_ready = any(status.takes_requests for status in statuses)
    if not is_ready:
        response.status_code = 503
    return Readiness(ready=is_ready, pools=pools)


@router.head("/live", include_in_schema=False)
@router.get("/live", summary="Is the process alive?")
async def live() -> Liveness:
    """200 for as long as the process answers, whatever the pools do."""
    return Liveness()


@router.get("/api/pools", summary="What each pool can draw", responses=error_responses(ErrorBody, 503))
async def pools(service: Service) -> list[dict[str, Any]]:
    """Every pool: model, accelerator, defaults and limits (``assumed`` from the settings until a replica was seen),
    ``state``, replicas running and wanted, work there as far as this replica of the ingress knows it, step time, price,
    and what went wrong last."""
    statuses = await service.pool_statuses()
    return [{**asdict(status.facts), **_without_facts(status)} for status in statuses]


def _without_facts(status: PoolStatus) -> dict[str, Any]:
    body = asdict(status)
    del body["facts"]
    return body


_PAGE = """<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><title>imagine</title><meta name="viewport" content="width=device-width">
<style>body{font:16px/1.5 system-ui,sans-serif;max-width:40rem;margin:3rem auto;padding:0 1rem}
input{font:inherit;width:100%;padding:.5rem;box-sizing:border-box}</style></head>
<body><h1>imagine</h1>
<form action="imagine"><label>What shall be drawn?
<input name="prompt" value="an astronaut is dancing on green grass, sunlit"></label></form>
<p><a href="docs">All routes</a> · <a href="api/pools">pools</a> · <a href="ready">readiness</a></p>
</body></html>
"""


@router.get("/", include_in_schema=False)
async def front_page(request: Request) -> Response:
    """A small page for browsers, JSON for others. Its links are relative: they hold behind any prefix."""
    if "text/html" in request.headers.get("accept", ""):
        return HTMLResponse(_PAGE)
    return JSONResponse(
        {"name": "imagine", "version": __version__, "docs": "docs", "draw": "imagine?prompt=a%20red%20fox"}
    )
