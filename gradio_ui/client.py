"""The service as the page sees it: the protocol `Service`, and `HttpService`, which speaks HTTP.

`gradio_ui.fake_client.FakeService` is its twin without a network.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import httpx

CONNECT_TIMEOUT_S = 5.0
ANSWER_TIMEOUT_S = 30.0
SILENCE_TIMEOUT_S = 60.0
"""Longest silence of an event stream: the service sends a comment every 15 seconds (`jobs.heartbeat_s`)."""

REPLAY_TIMEOUT_S = 600.0
MAX_PICTURE_BYTES = 64 * 1024 * 1024


@dataclass(eq=False)  # not frozen: Python itself sets attributes of an exception that is raised
class ServiceError(Exception):
    """The service did not do what was asked.

    Attributes:
        message: The service's own sentence, or what went wrong on the way to it.
        status: HTTP status; 0 when there was no answer at all.
        code: The service's word for programs, or "".
        field: The field at fault, by its name in the jobs API, or None.
        retry_after_s: Seconds after which a retry has a fair chance, or None.
    """

    message: str
    status: int = 0
    code: str = ""
    field: str | None = None
    retry_after_s: float | None = None

    def __str__(self) -> str:
        return self.message

    @property
    def is_away(self) -> bool:
        """Whether there is no service to talk to now: no answer, or a proxy's word for that.

        A proxy that already listens while the service is still starting knows none of its paths and says 404; the
        service's own 404 has a code, as has its 504 for a picture that took too long.
        """
        return self.status in (0, 502) or (self.status in (404, 504) and not self.code)

    @property
    def is_unknown(self) -> bool:
        """Whether the service itself says that it does not know what was asked for."""
        return self.status == 404 and bool(self.code)


@dataclass(frozen=True, slots=True)
class ServiceEvent:
    """One server-sent event of a job.

    Attributes:
        id: Number to go on after, or "".
        kind: Its name: queued, starting, step, finished, failed, cancelled, or one that is not known here yet.
        data: Its JSON.
    """

    id: str
    kind: str
    data: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class PictureFile:
    """A picture as the service sent it.

    Attributes:
        data: The file.
        media_type: Its kind, such as ``image/png``.
        headers: Of the answer, with names in lower case.
    """

    data: bytes
    media_type: str
    headers: Mapping[str, str] = field(default_factory=dict)


class Service(Protocol):
    """What the page asks of the service. All calls raise `ServiceError`."""

    async def pools(self) -> list[dict[str, Any]]:
        """``GET /api/pools``: of every pool what it can draw and, where the service tells it, what it is doing."""
        ...

    async def submit(self, order: Mapping[str, Any]) -> dict[str, Any]:
        """``POST /api/jobs``: the job as accepted."""
        ...

    async def job(self, job_id: str) -> dict[str, Any]:
        """``GET /api/jobs/{id}``."""
        ...

    async def cancel(self, job_id: str) -> dict[str, Any]:
        """``DELETE /api/jobs/{id}``."""
        ...

    def events(self, job_id: str, last_event_id: str = "") -> AsyncGenerator[ServiceEvent, None]:
        """``GET /api/jobs/{id}/events`` after the given one; ends with the job, or when the connection does."""
        ...

    async def picture(self, job_id: str, name: str) -> PictureFile:
        """``GET /images/{id}/{name}``."""
        ...

    async def replay(self, file: bytes) -> PictureFile:
        """``POST /api/replay``: the picture drawn again from what its file says."""
        ...

    async def aclose(self) -> None:
        """Closes all connections."""
        ...


class HttpService:
    """`Service` over HTTP.

    Args:
        base_url: Root of the service.
        api_key: Sent with every request as a bearer token; "" sends none.
        transport: For tests: what carries the requests instead of the network.
    """

    def __init__(
        self, base_url: str, *, api_key: str = "", transport: httpx.AsyncBaseTransport | None = None
    ) -> None:
        self._base_url = base_url.rstrip("/")
        self._client = httpx.AsyncClient(
            base_url=self._base_url + "/",
            timeout=httpx.Timeout(ANSWER_TIMEOUT_S, connect=CONNECT_TIMEOUT_S),
            limits=httpx.Limits(max_connections=512, max_keepalive_connections=32),
            trust_env=False,
            headers={"Authorization": f"Bearer {api_key}"} if api_key else None,
            transport=transport,
        )

    async def pools(self) -> list[dict[str, Any]]:
        """See `Service.pools`."""
        pools = _json(await self._request("GET", "api/pools"))
        if not (
            isinstance(pools, list) and all(isinstance(pool, dict) and "defaults" in pool for pool in pools)
        ):
            raise ServiceError("what answers there is not this service")
        return pools

    async def submit(self, order: Mapping[str, Any]) -> dict[str, Any]:
        """See `Service.submit`."""
        return dict(_json(await self._request("POST", "api/jobs", json=dict(order))))

    async def job(self, job_id: str) -> dict[str, Any]:
        """See `Service.job`."""
        return dict(_json(await self._request("GET", f"api/jobs/{job_id}")))

    async def cancel(self, job_id: str) -> dict[str, Any]:
        """See `Service.cancel`."""
        return dict(_json(await self._request("DELETE", f"api/jobs/{job_id}")))

    async def events(self, job_id: str, last_event_id: str = "") -> AsyncGenerator[ServiceEvent, None]:
        """See `Service.events`."""
        headers = {"Last-Event-ID": last_event_id} if last_event_id else {}
        timeout = httpx.Timeout(SILENCE_TIMEOUT_S, connect=CONNECT_TIMEOUT_S)
        try:
            async with self._client.stream(
                "GET", f"api/jobs/{job_id}/events", headers=headers, timeout=timeout
            ) as answer:
                if answer.status_code != 200:
                    await answer.aread()
                    if answer.status_code == 204:
                        return
                    raise refusal(answer)
                parser = EventParser()
                async for line in answer.aiter_lines():
                    event = parser.feed(line)
                    if event is not None:
                        yield event
        except httpx.HTTPError as error:
            raise self._unreachable(error) from error

    async def picture(self, job_id: str, name: str) -> PictureFile:
        """See `Service.picture`."""
        return _picture(await self._request("GET", f"images/{job_id}/{name}"))

    async def replay(self, file: bytes) -> PictureFile:
        """See `Service.replay`."""
        answer = await self._request("POST", "api/replay", content=file, timeout=REPLAY_TIMEOUT_S)
        return _picture(answer)

    async def aclose(self) -> None:
        """See `Service.aclose`."""
        await self._client.aclose()

    async def _request(self, method: str, path: str, **options: Any) -> httpx.Response:
        try:
            answer = await self._client.request(method, path, **options)
        except httpx.HTTPError as error:
            raise self._unreachable(error) from error
        if not answer.is_success:
            raise refusal(answer)
        return answer

    def _unreachable(self, error: httpx.HTTPError) -> ServiceError:
        if isinstance(error, httpx.TimeoutException):
            return ServiceError(f"no answer in time from {self._base_url}")
        return ServiceError(f"no connection to {self._base_url}")


class EventParser:
    """Server-sent events from lines, as the HTML standard reads them (of what the service sends)."""

    def __init__(self) -> None:
        self._id = self._kind = ""
        self._data: list[str] = []

    def feed(self, line: str) -> ServiceEvent | None:
        """Takes one line without its end; returns the event that an empty line completes."""
        if not line:
            return self._complete()
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "id":
            self._id = value
        elif name == "event":
            self._kind = value
        elif name == "data":
            self._data.append(value)
        return None  # a comment, whose name is empty, or a field that means nothing

    def _complete(self) -> ServiceEvent | None:
        kind, data = self._kind, "\n".join(self._data)
        self._kind, self._data = "", []
        if not data:
            return None
        try:
            value = json.loads(data)
        except ValueError:
            return None
        return ServiceEvent(self._id, kind or "message", value) if isinstance(value, dict) else None


def refusal(answer: httpx.Response) -> ServiceError:
    """What an answer with an error status says, in the service's shape or anyone else's."""
    retry_after = answer.headers.get("retry-after", "")
    retry_after_s = float(retry_after) if retry_after.isascii() and retry_after.isdecimal() else None
    try:
        detail = answer.json()["error"]
        return ServiceError(
            str(detail["message"]),
            status=answer.status_code,
            code=str(detail.get("code") or ""),
            field=detail.get("field"),
            retry_after_s=retry_after_s,
        )
    except (ValueError, KeyError, TypeError, AttributeError):
        return ServiceError(
            f"it answered {answer.status_code} {answer.reason_phrase}".strip(),
            status=answer.status_code,
            retry_after_s=retry_after_s,
        )


def _json(answer: httpx.Response) -> Any:
    try:
        return answer.json()
    except ValueError as error:
        raise ServiceError("what answers there is not this service") from error


def _picture(answer: httpx.Response) -> PictureFile:
    kind = answer.headers.get("content-type", "").partition(";")[0].strip()
    if not kind.startswith("image/") or len(answer.content) > MAX_PICTURE_BYTES:
        raise ServiceError("it sent something else than a picture", status=answer.status_code)
    return PictureFile(answer.content, kind, {key.lower(): value for key, value in answer.headers.items()})
