"""Pure ASGI layers around the application: the request's id, the body's bounds, the proxy's path prefix, clean paths,
redirects to where the client is.

They wrap ``receive`` and ``send`` and start no task, so a client that leaves cancels the endpoint.
"""

from __future__ import annotations

import asyncio
import re
import sys
import uuid
from collections.abc import Mapping
from urllib.parse import urlsplit

from fastapi import Request
from starlette._utils import get_route_path
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve_app.api.urls import base_url, forwarded_prefix
from serve_app.request import traceparent_here
from serve_app.settings import Settings

_SAFE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}")
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")
_SLASHES = re.compile("//+")
REQUEST_ID_HEADER = "X-Request-Id"


class RequestIdMiddleware:
    """Gives every request an id: the client's ``X-Request-Id`` where it is harmless, else a fresh one.

    It names the request in logs and answers only; stored pictures have ids that nobody can choose.

    Args:
        app: The application inside.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Runs one ASGI connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        offered = Headers(scope=scope).get(REQUEST_ID_HEADER, "")
        request_id = offered if _SAFE_ID.fullmatch(offered) else str(uuid.uuid4())
        state = scope.setdefault("state", {})
        state["request_id"] = request_id
        # Ray Serve's proxy gives an id to each request that has none, and adds the header to every answer.
        state["proxy_adds_request_id"] = offered == request_id and _in_ray_replica()

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(request_id_header(scope))
            await send(message)

        traceparent = Headers(scope=scope).get("traceparent", "")
        token = traceparent_here.set(traceparent if _TRACEPARENT.fullmatch(traceparent) else None)
        try:
            await self._app(scope, receive, send_with_id)
        finally:
            traceparent_here.reset(token)


def request_id_header(scope: Scope) -> dict[str, str]:
    """The header that names the request in its answer; empty where Ray Serve's proxy adds it."""
    state = scope.get("state", {})
    if "request_id" not in state or state.get("proxy_adds_request_id"):
        return {}
    return {REQUEST_ID_HEADER: state["request_id"]}


SAFE_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    # An answer's address may be a picture's, which is a secret.
    "Referrer-Policy": "no-referrer",
    "Content-Security-Policy": "frame-ancestors 'none'",
}
"""Of every answer: browsers guess no other type, tell no other site the address, and frame no page of ours."""


class SafeHeadersMiddleware:
    """Adds `SAFE_HEADERS` to answers that do not have them.

    Args:
        app: The application inside.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Runs one ASGI connection."""

        async def send_safely(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in SAFE_HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        await self._app(scope, receive, send_safely if scope["type"] == "http" else send)


class BodyLimitMiddleware:
    """Refuses a body that is too large, by its announced length or while it arrives, and one that arrives too slowly.

    The refusal is raised where a route reads the body, so it is answered in that route's own shape.

    Args:
        app: The application inside.
        max_bytes: Largest body.
        uploads: Paths that take more, with their own limits in bytes.
        timeout_s: Longest time from asking for the body to its end.
    """

    def __init__(self, app: ASGIApp, max_bytes: int, uploads: Mapping[str, int], timeout_s: float) -> None:
        self._app = app
        self._max_bytes = max_bytes
        self._uploads = uploads
        self._timeout_s = timeout_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Runs one ASGI connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        max_bytes = self._uploads.get(get_route_path(scope), self._max_bytes)
        announced = Headers(scope=scope).get("content-length", "")
        too_large = announced.isdecimal() and int(announced[:20]) > max_bytes
        received, whole = 0, False
        ends_at: float | None = None

        async def receive_within_limit() -> Message:
            nonlocal received, whole, ends_at
            if whole:  # what comes now is that the client leaves, whenever that is
                return await receive()
            if not too_large:
                if ends_at is None:
                    ends_at = asyncio.get_running_loop().time() + self._timeout_s
                try:
                    async with asyncio.timeout_at(ends_at):
                        event = await receive()
                except TimeoutError:
                    raise HTTPException(
                        408, f"The body did not arrive within {self._timeout_s:g} s"
                    ) from None
                received += len(event.get("body", b""))
                whole = not event.get("more_body", False)
                if received <= max_bytes:
                    return event
            raise HTTPException(413, f"The body is larger than {max_bytes} bytes")

        await self._app(scope, receive_within_limit, send)


class ForwardedPrefixMiddleware:
    """Mounts the application under the path prefix that a proxy cut off and names in ``X-Forwarded-Prefix``.

    Args:
        app: The application inside.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Runs one ASGI connection."""
        if scope["type"] == "http" and (prefix := forwarded_prefix(Headers(scope=scope))):
            # By ASGI's rules `path` holds `root_path`; both grow, so routing stays as it was.
            scope = {
                **scope,
                "root_path": prefix + str(scope.get("root_path", "")),
                "path": prefix + str(scope["path"]),
            }
        await self._app(scope, receive, send)


class RedirectMiddleware:
    """Sends who wrote a slash too many to the address that all urls in answers have (`serve_app.api.urls.base_url`).

    The router itself takes the connection's scheme and host, which behind a proxy are not the client's.

    Args:
        app: The application inside.
        settings: The application's settings.
    """

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app = app
        self._settings = settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Runs one ASGI connection."""

        async def send_to_base(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] == 307:
                headers = MutableHeaders(scope=message)
                target = urlsplit(headers["location"])
                path = target.path.removeprefix(str(scope.get("root_path", "")).rstrip("/"))
                query = f"?{target.query}" if target.query else ""
                headers["location"] = base_url(Request(scope), self._settings) + path + query
            await send(message)

        await self._app(scope, receive, send_to_base if scope["type"] == "http" else send)


class MergeSlashesMiddleware:
    """Reads several slashes in a row as one, as nginx does (``merge_slashes``).

    Clients put a route behind a base url that somebody typed with a slash at its end.

    Args:
        app: The application inside.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Runs one ASGI connection."""
        if scope["type"] == "http" and "//" in scope["path"]:
            scope = {**scope, "path": _SLASHES.sub("/", scope["path"])}
        await self._app(scope, receive, send)


def _in_ray_replica() -> bool:
    """Whether this process runs as a replica of Ray Serve, found out without importing Ray."""
    context = sys.modules.get("ray.serve.context")
    return context is not None and context._get_internal_replica_context() is not None
