"""`FakeService`: a `Service` without a network, for tests of the page's own parts."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import io
import itertools
import json
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field
from typing import Any

from PIL import Image, PngImagePlugin

from gradio_ui.client import PictureFile, ServiceError, ServiceEvent

FAKE_POOL: Mapping[str, Any] = {
    "pool": "default",
    "model": "small-sdxl",
    "accelerator": "fake",
    "defaults": {
        "height": 512,
        "width": 512,
        "num_inference_steps": 4,
        "guidance_scale": 0.0,
        "scheduler_name": "euler",
    },
    "capabilities": {
        "max_rows": 8,
        "size_multiple": 32,
        "min_side": 64,
        "max_side": 2048,
        "max_pixels": 2048 * 2048,
        "fixed_sizes": [],
        "guidance": True,
        "previews": True,
        "scheduler_names": ["euler", "ddim"],
        "max_num_inference_steps": 150,
    },
    "state": "ready",
    "replicas_running": 1,
    "replicas_wanted": 1,
    "queued_images": 0,
    "running_images": 0,
    "start_s": None,
    "step_s": 0.2,
    "price_per_hour": 0.5,
    "last_error": None,
}


@dataclass
class _FakeJob:
    body: dict[str, Any]
    order: dict[str, Any]
    events: list[ServiceEvent] = field(default_factory=list)
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    task: asyncio.Task[None] | None = None


class FakeService:
    """Draws one flat colour per prompt and seed, a step every `delay_s` seconds.

    Args:
        pools: What `pools` answers.
        delay_s: Seconds of each step.

    Attributes:
        orders: Every order that was accepted.
        cancelled: Ids of jobs that were stopped.
        away: While True nothing answers, and event streams break.
        refusal: Raised by `submit` instead of accepting, or None.
    """

    def __init__(self, pools: list[Mapping[str, Any]] | None = None, *, delay_s: float = 0.0) -> None:
        self._pools = [dict(pool) for pool in (pools or [FAKE_POOL])]
        self._jobs: dict[str, _FakeJob] = {}
        self._numbers = itertools.count(1)
        self.delay_s = delay_s
        self.orders: list[dict[str, Any]] = []
        self.cancelled: list[str] = []
        self.away = False
        self.refusal: ServiceError | None = None

    async def pools(self) -> list[dict[str, Any]]:
        """The pools it was made with."""
        self._answer()
        return self._pools

    async def submit(self, order: Mapping[str, Any]) -> dict[str, Any]:
        """Accepts and starts to draw; raises `refusal` while there is one."""
        self._answer()
        if self.refusal is not None:
            raise self.refusal
        self.orders.append(dict(order))
        defaults = self._pools[0]["defaults"]
        job_id = f"{next(self._numbers):032x}"
        body: dict[str, Any] = {
            "id": job_id,
            "state": "queued",
            "position": 0,
            "step": 0,
            "num_inference_steps": order.get("num_inference_steps") or defaults["num_inference_steps"],
            "progress": 0.0,
            "eta_s": None,
            "message": None,
            "prompt": order["prompt"],
            "seed": order["seed"] if order.get("seed") is not None else 4711,
            "num_images": order.get("num_images") or 1,
            "result": None,
            "error": None,
        }
        job = _FakeJob(body, dict(order))
        self._jobs[job_id] = job
        self._tell(job, "queued")
        job.task = asyncio.get_running_loop().create_task(self._draw(job))
        return dict(body)

    async def job(self, job_id: str) -> dict[str, Any]:
        """Where a job stands."""
        return dict(self._find(job_id).body)

    async def cancel(self, job_id: str) -> dict[str, Any]:
        """Stops a job that has not ended."""
        job = self._find(job_id)
        if job.task is not None and not job.task.done():
            job.task.cancel()
            self.cancelled.append(job_id)
            job.body["state"] = "cancelled"
            self._tell(job, "cancelled")
        return dict(job.body)

    async def events(self, job_id: str, last_event_id: str = "") -> AsyncGenerator[ServiceEvent, None]:
        """Events after the given one; breaks off while the service is away."""
        job = self._find(job_id)
        seen = int(last_event_id or 0)
        while True:
            changed = job.changed
            for event in job.events[seen:]:
                self._answer()
                yield event
                seen = int(event.id)
            if job.body["state"] in ("finished", "failed", "cancelled") and seen == len(job.events):
                return
            await changed.wait()

    async def picture(self, job_id: str, name: str) -> PictureFile:
        """A flat picture with its parameters inside."""
        body = self._find(job_id).body
        index = int(name.partition(".")[0].rpartition("_")[2])
        image = body["result"]["images"][index]
        details = {"prompt": body["prompt"], "seed": image["seed"], "model": "small-sdxl"}
        return PictureFile(
            _png(body["prompt"], image["seed"], (image["width"], image["height"]), details), "image/png"
        )

    async def replay(self, file: bytes) -> PictureFile:
        """The same picture as the one sent."""
        self._answer()
        with Image.open(io.BytesIO(file)) as picture:
            details = json.loads(picture.info.get("imagine", "{}"))
            size = picture.size
        if not details:
            raise ServiceError(
                "picture: the file does not say how it was drawn",
                status=422,
                code="invalid_request",
                field="picture",
            )
        headers = {"x-seed": str(details["seed"]), "x-pool": "default", "x-cost": "0.001"}
        return PictureFile(_png(details["prompt"], details["seed"], size, details), "image/png", headers)

    async def aclose(self) -> None:
        """Stops all drawings."""
        for job in self._jobs.values():
            if job.task is not None:
                job.task.cancel()

    def break_streams(self) -> None:
        """Goes away now: readers of events notice it at once."""
        self.away = True
        for job in self._jobs.values():
            self._tell(job, "step")

    def _answer(self) -> None:
        if self.away:
            raise ServiceError("no connection to the fake service")

    def _find(self, job_id: str) -> _FakeJob:
        self._answer()
        if job_id not in self._jobs:
            raise ServiceError(f"no job {job_id}", status=404, code="not_found")
        return self._jobs[job_id]

    async def _draw(self, job: _FakeJob) -> None:
        body, order = job.body, job.order
        steps, every = int(body["num_inference_steps"]), int(order.get("preview_every") or 0)
        body["state"] = "starting"
        self._tell(job, "starting")
        for step in range(1, steps + 1):
            await asyncio.sleep(self.delay_s)
            body.update(state="running", position=None, step=step, progress=step / steps)
            preview = None
            if every and step < steps and step % every == 0:
                preview = base64.b64encode(_png("preview", step, (8, 8), {})).decode("ascii")
            self._tell(job, "step", image_index=0, preview=preview)
        width, height = order.get("width") or 512, order.get("height") or 512
        images = [
            {
                "url": f"http://service.test/images/{body['id']}/0_{index}.{order.get('format') or 'png'}",
                "seed": body["seed"] + index,
                "width": width,
                "height": height,
                "seconds": {"queue": 0.0, "prepare": 0.01, "denoise": 0.2, "decode": 0.1, "encode": 0.02},
            }
            for index in range(body["num_images"])
        ]
        pool = self._pools[0]
        body.update(
            state="finished",
            result={
                "images": images,
                "pool": pool["pool"],
                "model": pool["model"],
                "accelerator": pool["accelerator"],
                "num_inference_steps": steps,
                "guidance_scale": order.get("guidance_scale") or 0.0,
                "total_s": 0.33,
                "cost": 0.0001,
            },
        )
        self._tell(job, "finished")

    def _tell(self, job: _FakeJob, kind: str, **more: Any) -> None:
        data = {**job.body, **{key: value for key, value in more.items() if value is not None}}
        job.events.append(ServiceEvent(str(len(job.events) + 1), kind, data))
        changed, job.changed = job.changed, asyncio.Event()
        changed.set()


def _png(prompt: str, seed: int, size: tuple[int, int], details: Mapping[str, Any]) -> bytes:
    colour = tuple(hashlib.sha256(f"{prompt}\n{seed}".encode()).digest()[:3])
    chunks = PngImagePlugin.PngInfo()
    if details:
        chunks.add_text("imagine", json.dumps(details))
    file = io.BytesIO()
    Image.new("RGB", size, colour).save(file, "PNG", pnginfo=chunks)
    return file.getvalue()
