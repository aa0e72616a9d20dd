"""`ConstantLoad`: requests at a constant rate, whoever still waits, and how each of them ended."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import io
import itertools
import time
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import httpx
from PIL import Image

from bench.chaos.orders import MENU, Order, Recipe, Way, orders

ANSWER_TIMEOUT_S = 180.0
"""Longest wait for one answer, and for the end of one job."""

_JOB_POLL_S = 0.3
_AGAIN_S = 0.5


class Outcome(StrEnum):
    """How a request ended."""

    ANSWERED = "answered"
    """With the right picture."""

    REFUSED = "refused"
    """At the door, with a time to come again (429, 503): the service was full."""

    FAILED = "failed"
    """The service's own error, no answer in time, a job that failed or was lost."""

    WRONG = "wrong"
    """Another picture than the one asked for."""

    BY_INGRESS = "failed by ingress"
    """Serve's own bare 500: the ingress replica that had it in hand is gone."""

    BY_PROXY = "failed by proxy"
    """No connection, a connection that was cut, or an answer of a proxy that knows no route yet."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One request that has ended.

    Attributes:
        order: What was asked for.
        outcome: How it ended.
        sent_s: When it was sent, in seconds from the start of the load.
        ended_s: When it ended.
        detail: What was seen, where it is not a picture.
        repeats: How often the order of a job had to be sent again.
    """

    order: Order
    outcome: Outcome
    sent_s: float
    ended_s: float
    detail: str = ""
    repeats: int = 0

    @property
    def waited_s(self) -> float:
        """Seconds from sending it to its end."""
        return self.ended_s - self.sent_s


class _Ended(Exception):
    """A request ended otherwise than with its picture."""

    def __init__(self, outcome: Outcome, detail: str, *, passing: bool = False) -> None:
        super().__init__(detail)
        self.outcome, self.detail = outcome, detail
        self.passing = passing  # asking again helps


class ConstantLoad:
    """Mixed requests on a running service: pictures by bytes, OpenAI's, and jobs.

    Args:
        url: The service.
        rate: Requests per second.
        seed: Of what is asked for, in which order.
        pool: Pool that must draw all of it; None lets the service choose.
        max_in_flight: Most requests without an answer; what is due beyond them is counted in `not_sent`.

    Attributes:
        samples: All requests that have ended, in the order of their ends.
        not_sent: Requests that were due while too many others waited.
    """

    def __init__(
        self, url: str, *, rate: float, seed: int, pool: str | None = None, max_in_flight: int = 1000
    ) -> None:
        self._client = httpx.AsyncClient(
            base_url=url,
            timeout=ANSWER_TIMEOUT_S,
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=20),
            trust_env=False,
        )
        self._rate, self._orders, self._pool = rate, orders(seed), pool
        self._max_in_flight = max_in_flight
        self._expected: dict[Recipe, str] = {}
        self._tasks: dict[asyncio.Task[None], Order] = {}
        self._began = 0.0
        self.samples: list[Sample] = []
        self.not_sent = 0

    @property
    def now_s(self) -> float:
        """Seconds since the load began."""
        return time.monotonic() - self._began

    def in_flight(self, *ways: Way) -> int:
        """Requests of these ways that have not ended."""
        return sum(order.way in ways for order in self._tasks.values())

    async def learn(self) -> None:
        """Draws the menu once, while nothing is broken: what every later answer is compared with.

        Raises:
            httpx.HTTPError: The service does not draw.
        """

        async def drawn(recipe: Recipe) -> str:
            answer = await self._client.get("/imagine", params=recipe.fields(self._pool))
            return _pixels(answer.raise_for_status().content)

        self._expected = dict(zip(MENU, await asyncio.gather(*map(drawn, MENU)), strict=True))

    async def run(self, stop: asyncio.Event) -> None:
        """Sends requests until `stop`, then waits for those under way, each of which is bounded.

        A task that is cancelled leaves nothing behind.
        """
        self._began = time.monotonic()
        try:
            for number in itertools.count():
                due = self._began + number / self._rate
                try:
                    async with asyncio.timeout_at(asyncio.get_running_loop().time() + due - time.monotonic()):
                        await stop.wait()
                    break
                except TimeoutError:
                    self._send(next(self._orders))
            while self._tasks:
                await asyncio.wait(self._tasks)
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            await self._client.aclose()

    def _send(self, order: Order) -> None:
        if len(self._tasks) >= self._max_in_flight:
            self.not_sent += 1
            return
        task = asyncio.create_task(self._follow(order))
        self._tasks[task] = order
        task.add_done_callback(self._tasks.pop)

    async def _follow(self, order: Order) -> None:
        sent_s, repeats = self.now_s, itertools.count()
        outcome, detail = Outcome.ANSWERED, ""
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                picture = await self._picture(order, repeats)
            if _pixels(picture) != self._expected[order.recipe]:
                outcome = Outcome.WRONG
        except _Ended as end:
            outcome, detail = end.outcome, end.detail
        except TimeoutError:
            outcome, detail = Outcome.FAILED, f"no end within {ANSWER_TIMEOUT_S:.0f} s"
        except httpx.TransportError as error:
            outcome, detail = Outcome.BY_PROXY, type(error).__name__
        self.samples.append(Sample(order, outcome, sent_s, self.now_s, detail, next(repeats)))

    async def _picture(self, order: Order, repeats: itertools.count[int]) -> bytes:
        fields = order.recipe.fields(self._pool)
        if order.way is Way.JOB:
            return await self._job(order, fields, repeats)
        if order.way is Way.BYTES:
            return (await self._checked("GET", "/imagine", params=fields)).content
        answer = await self._checked("POST", "/v1/images/generations", json=fields)
        return base64.b64decode(answer.json()["data"][0]["b64_json"])

    async def _job(self, order: Order, fields: dict[str, Any], repeats: itertools.count[int]) -> bytes:
        """A job as its clients are told to use it: the order is repeated until it is taken, its state asked for."""
        headers = {"Idempotency-Key": order.key}
        job = (await self._until_heard(repeats, "POST", "/api/jobs", json=fields, headers=headers)).json()
        asking = itertools.count()
        while job["state"] not in ("finished", "failed", "cancelled"):
            await asyncio.sleep(_JOB_POLL_S)
            job = (await self._until_heard(asking, "GET", f"/api/jobs/{job['id']}")).json()
        if job["state"] != "finished":
            raise _Ended(Outcome.FAILED, f"job {job['state']}: {job['error']}")
        path = httpx.URL(job["result"]["images"][0]["url"]).path
        return (await self._until_heard(asking, "GET", path)).content

    async def _until_heard(
        self, repeats: itertools.count[int], method: str, path: str, **more: Any
    ) -> httpx.Response:
        """Asks again for as long as the connection breaks or the service is away. `repeats` counts that."""
        while True:
            try:
                return await self._checked(method, path, **more)
            except httpx.TransportError:
                pass  # the proxy died, or is not back yet
            except _Ended as end:
                if not end.passing:
                    raise
            next(repeats)
            await asyncio.sleep(_AGAIN_S)

    async def _checked(self, method: str, path: str, **more: Any) -> httpx.Response:
        answer = await self._client.request(method, path, **more)
        if answer.is_success:
            return answer
        detail = f"{answer.status_code} {answer.text[:200]}"
        if not answer.headers.get("content-type", "").startswith("application/json"):
            outcome = Outcome.BY_INGRESS if answer.status_code == 500 else Outcome.BY_PROXY
            raise _Ended(outcome, detail, passing=True)
        full = answer.status_code == 429 or (answer.status_code == 503 and "overloaded" in answer.text)
        outcome = Outcome.REFUSED if full else Outcome.FAILED
        raise _Ended(outcome, detail, passing=answer.status_code in (429, 503))


def _pixels(picture: bytes) -> str:
    """Digest of what is to be seen; texts in the file tell who drew it."""
    with Image.open(io.BytesIO(picture)) as image:
        return hashlib.sha256(image.convert("RGB").tobytes()).hexdigest()
