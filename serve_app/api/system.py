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
from serve_app.capabilities import PoolFacts
from serve_app.errors import ImagineError
from serve_app.service import ImageService

PROBE_TIMEOUT_S = 5.0
"""A probe must answer; a service that does not tell whether it is ready within this time is not."""


class Health(BaseModel):
    """``ready`` exactly while a picture could be drawn now."""

    status: Literal["ready", "starting"] = Field(examples=["ready"])


class PoolReadiness(BaseModel):
    """One configured pool."""

    name: str = Field(examples=["default"])
    accelerator: str = Field(examples=["cpu"])
    model: str = Field(examples=["small-sdxl"])
    ready: bool


class Readiness(BaseModel):
    """Whether pictures can be drawn, and by which pools."""

    ready: bool
    pools: list[PoolReadiness]


class Liveness(BaseModel):
    """The process answers."""

    status: Literal["live"] = "live"


router = APIRouter(tags=["system"], route_class=WireErrors().route_class())


async def _is_ready(service: ImageService) -> bool:
    try:
        async with asyncio.timeout(PROBE_TIMEOUT_S):
            return await service.ready()
    except (ImagineError, TimeoutError):
        return False


async def _answering(service: ImageService) -> Sequence[PoolFacts]:
    try:
        async with asyncio.timeout(PROBE_TIMEOUT_S):
            return await service.all_facts()
    except (ImagineError, TimeoutError):
        return ()


@router.get("/health", summary="Can it draw?", responses={503: {"model": Health, "description": "Not yet"}})
async def health(service: Service, response: Response) -> Health:
    """200 while at least one pool can draw, else 503."""
    if await _is_ready(service):
        return Health(status="ready")
    response.status_code = 503
    return Health(status="starting")


@router.get(
    "/ready",
    summary="Which pools can draw?",
    responses={503: {"model": Readiness, "description": "None yet"}},
)
async def ready(service: Service, response: Response) -> Readiness:
    """As ``/health``, with every configured pool."""
    is_ready, facts = await asyncio.gather(_is_ready(service), _answering(service))
    by_name = {pool.pool: pool for pool in facts}
    pools = [
        PoolReadiness(
            name=pool.name,
            accelerator=by_name[pool.name].accelerator if pool.name in by_name else pool.accelerator,
            model=pool.model,
            ready=pool.name in by_name,
        )
        for pool in service.settings.pools
    ]
    if not is_ready:
        response.status_code = 503
    return Readiness(ready=is_ready, pools=pools)


@router.get("/live", summary="Is the process alive?")
async def live() -> Liveness:
    """200 for as long as the process answers, whatever the pools do."""
    return Liveness()


@router.get("/api/pools", summary="What each pool can draw", responses=error_responses(ErrorBody, 503))
async def pools(service: Service) -> list[dict[str, Any]]:
    """Model, accelerator, defaults and limits of every pool that answers now."""
    return [asdict(facts) for facts in await service.all_facts()]


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
