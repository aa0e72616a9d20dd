"""The page's own routes beside Gradio's, all under ``/studio``: events, stopping, leaving, pictures, replaying.

Nothing that passes here is written to disk.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, HTTPException, Query, Request, Response
from fastapi.responses import FileResponse, JSONResponse, StreamingResponse
from pydantic import BaseModel, ConfigDict, Field

from gradio_ui import script, words
from gradio_ui.client import PictureFile, Service, ServiceError
from gradio_ui.drawings import MAX_UNFINISHED
from gradio_ui.form import can_draw
from gradio_ui.picture_file import parameters
from gradio_ui.tabs import Tabs

PREFIX = "/studio"
MAX_UPLOAD_BYTES = 20_000_000
"""Largest picture to replay; the service's own default (`max_upload_bytes`)."""

_TAB = r"^[0-9a-f]{32}$"
_JOB = r"^[0-9a-fA-F-]{16,64}$"
_PICTURE = r"^[0-9]{1,4}_[0-9]{1,4}\.(png|webp|jpe?g)$"


class Pending(BaseModel):
    """An unfinished job as a browser remembers it: of an earlier page, or from before this process began."""

    model_config = ConfigDict(extra="ignore")

    id: Annotated[str, Field(pattern=_JOB)]
    settings: dict[str, Any] = Field(default_factory=dict)
    keep: bool = True


def router(service: Service, tabs: Tabs) -> APIRouter:
    """All routes.

    Args:
        service: Where pictures come from.
        tabs: The open pages.
    """
    routes = APIRouter(prefix=PREFIX, include_in_schema=False)

    page_script = script.source()

    @routes.get(f"/static/{script.NAME}")
    async def all_scripts() -> Response:
        return Response(page_script, media_type="text/javascript", headers={"Cache-Control": "no-cache"})

    @routes.get("/static/{name}")
    async def static(name: str) -> Response:
        file = script.STATIC / name
        if not re.fullmatch(r"[a-z]+\.(css|svg)", name) or not file.is_file():
            raise HTTPException(404)
        return FileResponse(file, headers={"Cache-Control": "no-cache"})

    @routes.get("/tabs/{tab_id}/events")
    async def events(tab_id: str) -> Response:
        _check(_TAB, tab_id)
        return StreamingResponse(
            _event_stream(tabs, tab_id),
            media_type="text/event-stream",
            headers={"Cache-Control": "no-cache, no-transform", "X-Accel-Buffering": "no"},
        )

    @routes.post("/tabs/{tab_id}/leave")
    async def leave(tab_id: str) -> Response:
        _check(_TAB, tab_id)
        tabs.goodbye(tab_id)
        return Response(status_code=204)

    @routes.post("/tabs/{tab_id}/attach")
    async def attach(tab_id: str, pending: list[Pending]) -> Response:
        _check(_TAB, tab_id)
        gone = []
        try:
            for job in pending[:MAX_UNFINISHED]:
                if not await tabs.get(tab_id).attach(job.id, job.settings, keep=job.keep):
                    gone.append(job.id)
        except ServiceError as error:
            return _refused(error)
        # What the service has forgotten the browser may forget too.
        return JSONResponse({"gone": gone})

    @routes.delete("/tabs/{tab_id}/jobs/{job_id}")
    async def cancel(tab_id: str, job_id: str) -> Response:
        _check(_TAB, tab_id)
        _check(_JOB, job_id)
        try:
            await tabs.get(tab_id).cancel(job_id)
        except ServiceError as error:
            return _refused(error)
        return Response(status_code=204)

    @routes.get("/pictures/{job_id}/{name}")
    async def picture(
        job_id: str, name: str, download: Annotated[str, Query(max_length=80)] = ""
    ) -> Response:
        _check(_JOB, job_id)
        _check(_PICTURE, name)
        try:
            file = await service.picture(job_id, name)
        except ServiceError as error:
            return _refused(error)
        headers = {"Cache-Control": "private, max-age=31536000, immutable"}
        if download:
            plain = re.sub(r"[^A-Za-z0-9._-]+", "-", download).strip("-.") or "picture"
            headers["Content-Disposition"] = f'attachment; filename="{plain}"'
        return _picture_answer(file, headers)

    @routes.post("/read")
    async def read(request: Request) -> Response:
        file = await _upload(request)
        return JSONResponse(await asyncio.to_thread(parameters, file))

    @routes.post("/replay")
    async def replay(request: Request) -> Response:
        try:
            drawn = await service.replay(await _upload(request))
        except ServiceError as error:
            return _refused(error)
        names = ("x-seed", "x-pool", "x-model", "x-cost", "server-timing")
        return _picture_answer(drawn, {name: drawn.headers[name] for name in names if name in drawn.headers})

    @routes.get("/health")
    async def health() -> Response:
        try:
            pools = await service.pools()
        except ServiceError as error:
            return JSONResponse({"ready": False, "words": words.notice(error).text})
        able = [pool for pool in pools if can_draw(pool)]
        if not able:
            return JSONResponse({"ready": False, "words": "The service is starting: no pool can draw yet"})
        models = ", ".join(dict.fromkeys(f"{pool['model']} on {pool['accelerator']}" for pool in able))
        asleep = all(pool.get("state") == "asleep" for pool in able)
        return JSONResponse({"ready": True, "words": f"{'Asleep' if asleep else 'Ready'}: {models}"})

    return routes


async def _event_stream(tabs: Tabs, tab_id: str) -> AsyncGenerator[bytes, None]:
    try:
        async with aclosing(tabs.listen(tab_id)) as views:
            async for view in views:
                if view is None:
                    yield b"event: quiet\ndata: {}\n\n"
                elif not view:
                    yield b": heartbeat\n\n"
                else:
                    yield f"event: drawing\ndata: {json.dumps(view, separators=(',', ':'))}\n\n".encode()
    except ServiceError as error:
        yield f"event: refused\ndata: {json.dumps(asdict(words.notice(error)))}\n\n".encode()


async def _upload(request: Request) -> bytes:
    """The body, read no further than is allowed."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_UPLOAD_BYTES:
            raise HTTPException(413, "too large")
    return bytes(body)


def _picture_answer(file: PictureFile, headers: dict[str, str]) -> Response:
    return Response(
        file.data, media_type=file.media_type, headers={**headers, "X-Content-Type-Options": "nosniff"}
    )


def _refused(error: ServiceError) -> Response:
    # A proxy's 404 means that nobody is there, not that something is not kept.
    status = error.status if 400 <= error.status < 600 and not error.is_away else 502
    return JSONResponse(asdict(words.notice(error)), status_code=status)


def _check(pattern: str, text: str) -> None:
    if not re.fullmatch(pattern, text):
        raise HTTPException(404)
