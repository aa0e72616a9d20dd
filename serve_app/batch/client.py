"""The service's jobs over HTTP, with the patience that a batch has."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

import httpx

from serve_app.errors import ImagineError

FIRST_PAUSE_S = 0.5
"""Before the second try of a call that was told no time, where it doubles with each, or to come back at once."""

MAX_PAUSE_S = 60.0
"""Longest pause of our own making."""

MAX_RETRY_AFTER_S = 300.0
"""Longest pause that ``Retry-After`` can ask for: a wrong clock somewhere must not stop the run for a day."""

TIMEOUTS = httpx.Timeout(60.0, connect=10.0)

MAX_FAULTS = 5
"""Answers of 500 to one call after which its line has failed: a restart gives a few, a fault of ours for ever."""

# What passes by itself: a proxy's timeout, too much at once, a gateway without a service behind it, a replica's death.
_PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})


class ServiceUnreachable(ImagineError):
    """Nothing answered for as long as the run's patience, or the service does not let us in: the run ends."""


class JobLost(ImagineError):
    """The service does not know the job or the picture (any more)."""


class Refused(ImagineError):
    """The service refuses this request for good.

    Args:
        message: The service's own.
        code: For programs.
        field: The request's field at fault.
        status: HTTP status.
    """

    def __init__(self, message: str, code: str, field: str | None, status: int) -> None:
        super().__init__(message)
        self.code, self.field, self.status = code, field, status


class JobsClient:
    """``/api/jobs`` of one service. All calls share one pause: what the service tells one of them holds for all.

    Args:
        client: With the service's address as its ``base_url``.
        patience_s: Seconds without any answer but refusals after which the run ends.
        api_key: Sent as a bearer token.
    """

    def __init__(
        self, client: httpx.AsyncClient, *, patience_s: float = 900.0, api_key: str | None = None
    ) -> None:
        self._client = client
        self._headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._patience_s = patience_s
        self._go_on_at = 0.0
        self._last_answer: float | None = None  # or the first call

    async def submit(self, request: Mapping[str, Any], idempotency_key: str) -> dict[str, Any]:
        """Hands in a job; the same key is the same job.

        Raises:
            Refused: For good, with the field at fault.
            ServiceUnreachable: The run's patience is over.
        """
        headers = {"Idempotency-Key": idempotency_key}
        answer = await self._call("POST", "api/jobs", json=dict(request), headers=headers)
        return _json_object(answer)

    async def job(self, job_id: str) -> dict[str, Any]:
        """A job as it stands.

        Raises:
            JobLost: The service does not know it.
            ServiceUnreachable: The run's patience is over.
        """
        return _json_object(await self._call("GET", f"api/jobs/{job_id}"))

    async def picture(self, url: str) -> bytes:
        """A picture, fetched where the service is reached from here, whatever host its address names.

        Raises:
            JobLost: It is not kept any more.
            ServiceUnreachable: The run's patience is over.
        """
        parts = urlsplit(url)
        path = "images/" + parts.path.rpartition("/images/")[2]
        answer = await self._call("GET", f"{path}?{parts.query}" if parts.query else path)
        return answer.content

    async def _call(self, method: str, path: str, **options: Any) -> httpx.Response:
        """One call, repeated while what is in its way may pass."""
        headers = {**self._headers, **options.pop("headers", {})}
        pause_s = FIRST_PAUSE_S
        faults = 0
        while True:
            await self._wait()
            if self._last_answer is None:
                self._last_answer = time.monotonic()
            asked_s: float | None = None
            try:
                answer = await self._client.request(method, path, headers=headers, **options)
            except httpx.TransportError as error:
                trouble = f"{type(error).__name__}: {error}".rstrip(": ")
            else:
                faults += answer.status_code == 500
                if answer.status_code not in _PASSING or faults == MAX_FAULTS:
                    self._last_answer = time.monotonic()
                    return _checked(answer, method)
                trouble = f"answers {answer.status_code}: {_error_of(answer)[0]}"
                asked_s = _retry_after_s(answer.headers.get("retry-after", ""))
            if time.monotonic() - self._last_answer > self._patience_s:
                raise ServiceUnreachable(
                    f"{self._client.base_url} has not taken a request for {self._patience_s:g} s ({trouble})"
                )
            # Some more than asked, so that all who were refused do not come back in one moment.
            wait_s = pause_s if asked_s is None else max(FIRST_PAUSE_S, min(asked_s, MAX_RETRY_AFTER_S))
            self._go_on_at = max(self._go_on_at, time.monotonic() + wait_s * random.uniform(1.0, 1.25))
            pause_s = min(2 * pause_s, MAX_PAUSE_S)

    async def _wait(self) -> None:
        # The time may move away meanwhile: another call has been told a longer pause.
        while (left_s := self._go_on_at - time.monotonic()) > 0:  # noqa: ASYNC110
            await asyncio.sleep(left_s)


def _checked(answer: httpx.Response, method: str) -> httpx.Response:
    if answer.is_success:
        return answer
    message, code, field = _error_of(answer)
    if answer.status_code in (401, 403):
        raise ServiceUnreachable(f"the service does not let us in ({answer.status_code}: {message})")
    if answer.status_code in (404, 410) and method == "GET":
        raise JobLost(message)
    if answer.status_code in (404, 405) or answer.is_redirect:
        raise ServiceUnreachable(
            f"{answer.request.url} is no service of ours ({answer.status_code}); check --url"
        )
    raise Refused(message, code, field, answer.status_code)


def _error_of(answer: httpx.Response) -> tuple[str, str, str | None]:
    """(message, code, field) of the service's error body, or of whatever stands before it."""
    try:
        error = answer.json()["error"]
        return str(error["message"]), str(error["code"]), error.get("field")
    except (ValueError, KeyError, TypeError, AttributeError):
        return answer.reason_phrase or f"status {answer.status_code}", "http_error", None


def _json_object(answer: httpx.Response) -> dict[str, Any]:
    try:
        value = answer.json()
    except ValueError:
        value = None
    if not isinstance(value, dict) or "state" not in value:
        raise ServiceUnreachable(f"{answer.request.url} answers no job; check --url")
    return value


def _retry_after_s(header: str) -> float | None:
    """Seconds of a ``Retry-After`` header, which holds seconds or a date; None where it holds neither."""
    try:
        return max(0.0, float(header))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(header).timestamp() - time.time())
    except ValueError:
        return None
