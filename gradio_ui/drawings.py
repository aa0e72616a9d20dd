"""The drawings of one open page: `Tab` and `Drawing`. No Gradio and no HTTP in here."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from gradio_ui import words
from gradio_ui.client import Service, ServiceError
from gradio_ui.picture_file import thumbnail

log = logging.getLogger(__name__)

QUIET_S = 15.0
"""A listener is sent home when nothing has been drawn for this long: browsers have few connections."""

MAX_UNFINISHED = 16
"""Unfinished drawings of one tab."""

_KEPT_ENDED = 32
_FIRST_PAUSE_S, _MAX_PAUSE_S = 0.5, 5.0
_GIVE_UP_S = 1800.0
_ENDED = ("finished", "failed", "cancelled")


@dataclass
class Drawing:
    """One job of a tab, as the page shows it.

    Attributes:
        id: The job's id.
        order: What was sent to ``POST /api/jobs``.
        keep: Whether it goes on when the page is closed.
        body: The job's JSON as last heard.
        previews: Newest base64 PNG of each picture by its index.
        trouble: Why nothing has been heard for a while, or None.
        thumbnails: Small pictures as data urls, once it is finished.
        version: Grows with every change.
        last_event_id: Number of the last event heard.
        accepted_at: Unix time in seconds.
        task: What follows its events.
    """

    id: str
    order: dict[str, Any]
    keep: bool
    body: dict[str, Any]
    previews: dict[int, str] = field(default_factory=dict)
    trouble: str | None = None
    thumbnails: list[str] = field(default_factory=list)
    version: int = 0
    last_event_id: str = ""
    accepted_at: float = field(default_factory=time.time)
    task: asyncio.Task[None] | None = None

    @property
    def ended(self) -> bool:
        """Whether nothing changes any more."""
        return self.body.get("state") in _ENDED

    def view(self) -> dict[str, Any]:
        """What the page's script is told."""
        body = self.body
        view: dict[str, Any] = {
            "id": self.id,
            "state": body.get("state"),
            "words": self.trouble or words.state(body),
            "trouble": self.trouble is not None,
            "progress": body.get("progress") or 0.0,
            "prompt": self.order["prompt"],
            "num_images": body.get("num_images") or 1,
            "keep": self.keep,
            "settings": self.order,
            "previews": {str(index): preview for index, preview in sorted(self.previews.items())},
        }
        if body.get("state") == "failed":
            error = body.get("error") or {}
            view["words"] = words.notice(
                ServiceError(
                    str(error.get("message") or "the service gave no reason"),
                    status=422 if error.get("field") else 500,
                    code=str(error.get("code") or ""),
                    field=error.get("field"),
                )
            ).text
        if body.get("state") == "finished":
            view["entries"] = self._entries()
        return view

    def _entries(self) -> list[dict[str, Any]]:
        """One for each picture: all that the browser keeps of it."""
        result = self.body["result"]
        shared = {
            "prompt": self.order["prompt"],
            "negative_prompt": self.order.get("negative_prompt", ""),
            "num_inference_steps": result["num_inference_steps"],
            "guidance_scale": result["guidance_scale"],
            "scheduler": self.order.get("scheduler", ""),
            "model": result["model"],
            "pool": result["pool"],
            "accelerator": result["accelerator"],
            "format": self.order.get("format", "png"),
            "total_s": result["total_s"],
            "cost": result["cost"] / len(result["images"]),
            "drawn_at": self.body.get("ended_at") or time.time(),
        }
        return [
            {
                **shared,
                "id": f"{self.id}/{picture_name(image)}",
                "seed": image["seed"],
                "width": image["width"],
                "height": image["height"],
                "seconds": image["seconds"],
                "thumbnail": self.thumbnails[index] if index < len(self.thumbnails) else "",
            }
            for index, image in enumerate(result["images"])
        ]


def picture_name(image: Mapping[str, Any]) -> str:
    """The last part of a picture's address."""
    return str(image["url"]).rpartition("/")[2]


class Tab:
    """The drawings of one page.

    Args:
        service: Draws.
    """

    def __init__(self, service: Service) -> None:
        self._service = service
        self._drawings: dict[str, Drawing] = {}
        self._changed = asyncio.Event()
        self._submitting = 0
        self._left = False
        self._active_at = time.monotonic()
        self.listeners = 0

    @property
    def unfinished(self) -> list[Drawing]:
        """Drawings that have not ended."""
        return [drawing for drawing in self._drawings.values() if not drawing.ended]

    async def draw(self, order: Mapping[str, Any], *, keep: bool) -> Drawing:
        """Hands an order to the service and follows what becomes of it.

        Raises:
            ServiceError: It was refused, or too much of this tab is unfinished.
        """
        if len(self.unfinished) + self._submitting >= MAX_UNFINISHED:
            raise ServiceError(
                f"{MAX_UNFINISHED} drawings of this page are unfinished; wait for one, or stop one",
                status=429,
                retry_after_s=5,
            )
        self._submitting += 1
        try:
            body = await self._service.submit(order)
        finally:
            self._submitting -= 1
        drawing = self._follow(Drawing(str(body["id"]), dict(order), keep, dict(body)))
        if self._left and not keep:  # the page closed while the service took its time
            await self._service.cancel(drawing.id)
        return drawing

    async def attach(self, job_id: str, order: Mapping[str, Any], *, keep: bool) -> bool:
        """Follows a job that this browser had before.

        Returns:
            Whether the service still knows it.

        Raises:
            ServiceError: The service does not answer.
        """
        if job_id in self._drawings or len(self.unfinished) >= MAX_UNFINISHED:
            return True
        try:
            body = await self._service.job(job_id)
        except ServiceError as error:
            if error.is_unknown:
                return False
            raise
        if job_id not in self._drawings:
            self._follow(Drawing(job_id, {**order, "prompt": body["prompt"]}, keep, body))
        return True

    async def cancel(self, job_id: str) -> None:
        """Stops a drawing; asking again, or for one that is not this tab's, changes nothing.

        Raises:
            ServiceError: The service does not answer, so it may go on.
        """
        drawing = self._drawings.get(job_id)
        if drawing is not None and not drawing.ended:
            await self._service.cancel(job_id)

    async def listen(self) -> AsyncGenerator[dict[str, Any] | None, None]:
        """Every drawing now, then each as it changes; None, and the end, when nothing has been drawn for `QUIET_S`.

        What changes faster than it is read is told once, as it is then. {} in between shows that somebody is there.
        """
        self.listeners += 1
        self._active_at = time.monotonic()
        told: dict[str, int] = {}
        try:
            while True:
                changed = self._changed
                for drawing in list(self._drawings.values()):
                    if told.get(drawing.id) != drawing.version:
                        told[drawing.id] = drawing.version
                        yield drawing.view()
                busy = self.unfinished or self._submitting
                if not busy and time.monotonic() - self._active_at >= QUIET_S:
                    yield None
                    return
                try:
                    await asyncio.wait_for(changed.wait(), QUIET_S / 3)
                except TimeoutError:
                    yield {}
        finally:
            self.listeners -= 1

    async def leave(self) -> None:
        """The page is gone: stops what was not asked to finish."""
        self._left = True
        for drawing in self.unfinished:
            if not drawing.keep:
                try:
                    await self._service.cancel(drawing.id)
                except ServiceError as error:
                    log.warning("Job %s of a closed page could not be cancelled: %s", drawing.id, error)
        await self.close()

    async def close(self) -> None:
        """Stops following; the jobs themselves go on."""
        tasks = [drawing.task for drawing in self._drawings.values() if drawing.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _follow(self, drawing: Drawing) -> Drawing:
        self._drawings[drawing.id] = drawing
        ended = [known for known in self._drawings.values() if known.ended]
        for old in ended[: max(0, len(ended) - _KEPT_ENDED)]:
            del self._drawings[old.id]
        drawing.task = asyncio.get_running_loop().create_task(self._watch(drawing))
        self._show(drawing)
        return drawing

    def _show(self, drawing: Drawing) -> None:
        drawing.version += 1
        self._active_at = time.monotonic()
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def _watch(self, drawing: Drawing) -> None:
        """Follows the events of a job to its end, also over a service that goes away and comes back."""
        pause_s, silent_since = _FIRST_PAUSE_S, time.monotonic()
        while not drawing.ended:
            try:
                if await self._hear(drawing):
                    pause_s, silent_since = _FIRST_PAUSE_S, time.monotonic()
                if drawing.ended:
                    break
                # The stream ended before the job did: its last event may have gone by.
                await self._settle(drawing, await self._service.job(drawing.id))
            except ServiceError as error:
                if error.is_unknown:
                    self._fail(drawing, "the service does not know it any more")
                    return
                if time.monotonic() - silent_since > _GIVE_UP_S:
                    self._fail(drawing, "the service has not answered for a long time")
                    return
                trouble = f"The service does not answer ({error}); the drawing goes on when it is back"
                if drawing.trouble != trouble:
                    drawing.trouble = trouble
                    self._show(drawing)
            if not drawing.ended:
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, _MAX_PAUSE_S)

    async def _hear(self, drawing: Drawing) -> bool:
        heard = False
        async with aclosing(self._service.events(drawing.id, drawing.last_event_id)) as events:
            async for event in events:
                heard, drawing.trouble = True, None
                drawing.last_event_id = event.id or drawing.last_event_id
                preview = event.data.get("preview")
                if preview:
                    drawing.previews[int(event.data.get("image_index") or 0)] = str(preview)
                body = {
                    key: value for key, value in event.data.items() if key not in ("preview", "image_index")
                }
                # A state that this page does not know yet is shown by its own name.
                body.setdefault("state", event.kind)
                await self._settle(drawing, body)
        return heard

    async def _settle(self, drawing: Drawing, news: Mapping[str, Any]) -> None:
        body = {**drawing.body, **news}
        if body.get("state") == "finished":
            # First the small pictures, then the word that it is finished: the gallery shows both at once.
            drawing.thumbnails = await self._thumbnails(drawing.id, body)
            drawing.previews.clear()
        drawing.body = body
        self._show(drawing)

    async def _thumbnails(self, job_id: str, body: Mapping[str, Any]) -> list[str]:
        async def one(image: Mapping[str, Any]) -> str:
            try:
                file = await self._service.picture(job_id, picture_name(image))
            except ServiceError as error:
                log.warning("No small picture of %s: %s", job_id, error)
                return ""
            return await asyncio.to_thread(thumbnail, file.data)

        return list(await asyncio.gather(*(one(image) for image in body["result"]["images"])))

    def _fail(self, drawing: Drawing, reason: str) -> None:
        drawing.trouble = None
        drawing.body = {**drawing.body, "state": "failed", "error": {"code": "lost", "message": reason}}
        self._show(drawing)
