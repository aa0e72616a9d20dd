"""Counting HTTP requests by route, contract and status."""

from __future__ import annotations

import time
from typing import Protocol

from starlette._utils import get_route_path
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve_app.api.errors import CLIENT_CLOSED_REQUEST

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class HttpObserver(Protocol):
    """Hears of every HTTP request, on the event loop. `NoHttpObserver` is the one that does not care."""

    def began(self) -> None:
        """A request has come."""
        ...

    def ended(self, *, route: str, contract: str, method: str, status: int, seconds: float) -> None:
        """It was answered.

        Args:
            route: Path template of its route; ``none`` where no route fits.
            contract: Wire format of the route.
            method: HTTP method; ``other`` for those that no route knows.
            status: Of the answer; 499 where the client left before it.
            seconds: To the end of the answer.
        """
        ...


class NoHttpObserver:
    """Hears nothing."""

    def began(self) -> None:
        """Nothing."""

    def ended(self, *, route: str, contract: str, method: str, status: int, seconds: float) -> None:
        """Nothing."""


class ObservingMiddleware:
    """Tells an observer of every request. It stands next to the router, where the route is found.

    Args:
        app: The application inside.
        observer: Told.
    """

    def __init__(self, app: ASGIApp, observer: HttpObserver) -> None:
        self._app, self._observer = app, observer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Runs one ASGI connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        # What is left when nothing was answered: the client has gone, and with it this task.
        status = CLIENT_CLOSED_REQUEST

        async def send_and_note(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        began = time.monotonic()
        self._observer.began()
        try:
            await self._app(scope, receive, send_and_note)
        except Exception:
            status = 500  # answered outside of here
            raise
        finally:
            self._observer.ended(
                route=_route_of(scope),
                contract=_contract_of(scope),
                method=scope["method"] if scope["method"] in _METHODS else "other",
                status=status,
                seconds=time.monotonic() - began,
            )


def _route_of(scope: Scope) -> str:
    """The full path template: a route inside a router with a prefix knows only its own part."""
    own: str | None = getattr(scope.get("route"), "path_format", None)
    if own is None:
        return "none"
    path, end = str(get_route_path(scope)), own.format(**scope.get("path_params", {}))
    return path.removesuffix(end) + own if path.endswith(end) else own


def _contract_of(scope: Scope) -> str:
    """The file or folder of ``serve_app/api`` that the route is from."""
    module: str = getattr(scope.get("endpoint"), "__module__", "")
    return module.removeprefix("serve_app.api.").partition(".")[0] if "serve_app.api." in module else "none"
