"""`Traffic`: random requests of all kinds to a whole service, in bursts and lulls, with clients that leave."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import httpx

from serve_app.load_test import PROMPTS

BACKLOGS = (0, 0, 1, 4, 16, 140)
"""Requests under way at a time; at the last one the service has to refuse."""

PHASE_S = 6.0
"""Mean seconds at one backlog."""

SIDES = (64, 128, 192, 256)
"""Widths and heights, pixels."""

_LEAVING_SHARE = 0.15
_MAX_PROBLEMS = 20
_REFUSALS = (429, 503)


class Traffic:
    """Asks, and looks whether each answer is one that was to be expected.

    Args:
        client: Of the service.
        seed: Of all random choices.
        most_steps: Most steps of a picture.

    Attributes:
        ends: How requests ended, by kind of request and status; ``left`` where the client left first.
        problems: The first answers that were not to be expected.
        wrong: How many those were.
    """

    def __init__(self, client: httpx.AsyncClient, *, seed: int, most_steps: int = 8) -> None:
        self._client = client
        self._random = random.Random(seed)
        self._most_steps = most_steps
        self._kinds: dict[str, Callable[[], Awaitable[int]]] = {
            "picture": self._picture,
            "stored": self._stored,
            "stream": self._stream,
            "job": self._job,
            "bad": self._bad,
        }
        self._under_way: set[asyncio.Task[None]] = set()
        self.ends: Counter[str] = Counter()
        self.problems: list[str] = []
        self.wrong = 0

    async def flow(self, seconds: float, phase_s: float = PHASE_S) -> None:
        """Asks for so long, and waits for what is under way then."""
        until = time.monotonic() + seconds
        next_phase, backlog = 0.0, 0
        while (now := time.monotonic()) < until:
            if now >= next_phase:
                backlog = self._random.choice(BACKLOGS)
                next_phase = now + self._random.expovariate(1 / phase_s)
            if len(self._under_way) < backlog:
                self._send()
            await asyncio.sleep(self._random.uniform(0.0, 0.04))
        await asyncio.gather(*self._under_way)

    def _send(self) -> None:
        kind = self._random.choices(tuple(self._kinds), (10, 3, 3, 2, 1))[0]
        leaves_after_s = self._random.expovariate(1.0) if self._random.random() < _LEAVING_SHARE else None
        task = asyncio.create_task(self.ask(kind, leaves_after_s))
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)

    async def ask(self, kind: str, leaves_after_s: float | None = None) -> None:
        """One request, to its end.

        Args:
            kind: ``picture``, ``stored``, ``stream``, ``job``, or ``bad``: one that must be refused.
            leaves_after_s: Seconds after which the client leaves; None for never.
        """
        try:
            async with asyncio.timeout(leaves_after_s):
                status = await self._kinds[kind]()
        except TimeoutError:
            self.ends[f"{kind} left"] += 1
        except (httpx.TransportError, ValueError, KeyError) as error:
            self._problem(f"{kind}: {type(error).__name__}: {error}")
        else:
            self.ends[f"{kind} {status}"] += 1

    def _problem(self, text: str) -> None:
        self.wrong += 1
        if len(self.problems) < _MAX_PROBLEMS:
            self.problems.append(text)

    def _drawing(self) -> dict[str, Any]:
        pick = self._random.choice
        return {"prompt": pick(PROMPTS), "seed": self._random.randrange(2**32)}

    def _size(self) -> tuple[int, int]:
        return self._random.choice(SIDES), self._random.choice(SIDES)

    def _steps(self) -> int:
        return self._random.randint(1, self._most_steps)

    def _judged(self, answer: httpx.Response, *expected: int) -> int:
        """The status; a refusal must say when to come again."""
        status = answer.status_code
        if status in _REFUSALS:
            if "retry-after" not in answer.headers:
                self._problem(f"{answer.request.url}: {status} without Retry-After")
        elif status not in expected:
            self._problem(f"{answer.request.url}: {status}: {answer.text[:200]}")
        return status

    async def _picture(self) -> int:
        width, height = self._size()
        params = {
            **self._drawing(),
            "width": width,
            "height": height,
            "num_inference_steps": self._steps(),
            "guidance_scale": self._random.choice((0.0, 3.0)),
            "format": self._random.choice(("png", "webp", "jpeg")),
        }
        return self._judged(await self._client.get("imagine", params=params), 200)

    async def _stored(self) -> int:
        width, height = self._size()
        body = {**self._drawing(), "size": f"{width}x{height}", "step": self._steps()}
        answer = await self._client.post(
            "api/text2image", json={**body, "number": self._random.randint(1, 2)}
        )
        status = self._judged(answer, 200)
        if status == 200:
            url = httpx.URL(answer.json()["output"][0]["url"])
            return self._judged(await self._client.get(url.path), 200)
        return status

    async def _stream(self) -> int:
        width, height = self._size()
        body = {**self._drawing(), "size": f"{width}x{height}", "num_inference_steps": self._steps()}
        body |= {"stream": True, "partial_images": self._random.randint(0, 3)}
        async with self._client.stream("POST", "v1/images/generations", json=body) as answer:
            text = (await answer.aread()).decode()
        status = self._judged(answer, 200)
        # Once a stream has begun, a refusal too is told in it.
        ends = ("event: image_generation.completed", '"code": "overloaded"')
        if status == 200 and not any(end in text for end in ends):
            self._problem(f"a stream without an end: {text[-200:]}")
        return status

    async def _job(self) -> int:
        width, height = self._size()
        body = {
            **self._drawing(),
            "width": width,
            "height": height,
            "num_inference_steps": self._steps(),
            "deadline_s": 120,
        }
        answer = await self._client.post("api/jobs", json=body)
        status = self._judged(answer, 202)
        if status == 202:
            events = httpx.URL(answer.json()["urls"]["events"])
            async with self._client.stream("GET", events.path) as stream:
                text = (await stream.aread()).decode()
            if "event: finished" not in text and "event: failed" not in text:
                self._problem(f"a job without an end: {text[-200:]}")
        return status

    async def _bad(self) -> int:
        params = {**self._drawing(), "width": 13}
        return self._judged(await self._client.get("imagine", params=params), 422)
