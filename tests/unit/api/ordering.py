"""Ordering a small job and waiting for its end, as a client does."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx

SMALL = {"prompt": "a red fox", "width": 64, "height": 64, "seed": 7}


async def end_of(client: httpx.AsyncClient, job_id: str) -> dict[str, Any]:
    async with asyncio.timeout(10):
        while True:
            body: dict[str, Any] = (await client.get(f"/api/jobs/{job_id}")).json()
            if body["state"] in ("finished", "failed", "cancelled"):
                return body
            await asyncio.sleep(0.01)


async def post_job(client: httpx.AsyncClient, **fields: Any) -> httpx.Response:
    return await client.post("/api/jobs", json={**SMALL, **fields})
