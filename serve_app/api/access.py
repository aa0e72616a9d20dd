"""Who may use which route: `Access` is asked before a route reads anything but the headers."""

from __future__ import annotations

from http import HTTPStatus
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from starlette._utils import get_route_path
from starlette.exceptions import HTTPException

from serve_app.api.caller import KEYED, caller_here, caller_of, presented_key
from serve_app.api_keys import ApiKeys
from serve_app.errors import InvalidApiKey
from serve_app.picture_urls import PictureUrls
from serve_app.request import owner_here
from serve_app.settings import Settings

OPEN_PATHS = frozenset({"/", "/health", "/ready", "/live", "/docs", "/openapi.json"})
"""Read without a key: probes, the description of the service, and a front page that says no more."""

OPEN_FOLDERS = ("/docs/assets/", "/images/")
"""The same for what lies below. The address of a picture is a secret of its own: it holds 122 random bits, and where
addresses are signed, a signature that ends."""

STAYS_CONNECTED = ("x-request-disconnect-disabled", "?1")
"""By this header Ray Serve's proxy lets any client turn off that a request ends with its connection: drawings would go
on for nobody. Ray's other headers do no harm: our own time limit is not Ray's, and a named model is not read."""

CHALLENGE = 'Bearer realm="imagine", Basic realm="imagine"'


class Access:
    """Lets requests in, and says whose they are.

    Args:
        settings: The application's settings.

    Raises:
        ConfigurationError: The file of keys cannot be used.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._urls = PictureUrls(settings.access)
        file = settings.access.keys_file
        self._keys = None if file is None else ApiKeys(Path(file))

    @property
    def needs_key(self) -> bool:
        """Whether there are keys at all."""
        return self._keys is not None

    async def admit(self, request: Request) -> None:
        """Returns for a request that may go on.

        Its caller is then in `caller.caller_here`, the key's owner in `serve_app.request.owner_here`.

        Raises:
            InvalidApiKey: It needs a key and has none, or an unknown one.
            HTTPException: It tells Ray's proxy not to notice when its client leaves.
        """
        if self._keys is not None and not self._is_open(request):
            owner = await self._owner(self._keys, request)
            request.scope.setdefault("state", {})["caller"] = KEYED + owner
            owner_here.set(owner)
        name, value = STAYS_CONNECTED
        if request.headers.get(name, "").strip() == value:
            raise HTTPException(400, f"{name} is not for clients; use on_disconnect=finish, or a job")
        caller_here.set(caller_of(request, self._settings))

    async def _owner(self, keys: ApiKeys, request: Request) -> str:
        key = presented_key(request.headers)
        owner = await keys.owner(key) if key else None
        if owner is None:
            raise InvalidApiKey(
                "This API key is not known here"
                if key
                else "An API key is needed: send it as Authorization: Bearer KEY, as the password of HTTP Basic, "
                "or as X-Api-Key. The address of a picture may have expired: ask for a fresh one"
            )
        return owner

    def _is_open(self, request: Request) -> bool:
        path = get_route_path(request.scope)
        if request.method not in ("GET", "HEAD"):
            return False
        if path.startswith("/images/"):
            return self._urls.is_valid(path, request.query_params)
        return path in OPEN_PATHS or path.startswith(OPEN_FOLDERS)


def describe_keys(app: FastAPI) -> None:
    """Lets the OpenAPI document say that routes need a key, so that /docs asks for one."""
    plain = app.openapi

    def described() -> dict[str, Any]:
        document = plain()
        document.setdefault("components", {})["securitySchemes"] = {
            "bearer": {"type": "http", "scheme": "bearer"},
            "basic": {"type": "http", "scheme": "basic", "description": "The key is the password."},
        }
        document["security"] = [{"bearer": []}, {"basic": []}]
        for path, operations in document["paths"].items():
            for operation in operations.values():
                if path in OPEN_PATHS or path.startswith(OPEN_FOLDERS):
                    operation["security"] = []
                else:
                    _describe_refusal(operation["responses"])
        return document

    app.openapi = described  # type: ignore[method-assign]


def _describe_refusal(responses: dict[str, Any]) -> None:
    """Adds 401 in the shape in which the route refuses anything else."""
    shape = responses.get("503") or responses.get("404") or {}
    responses.setdefault("401", {**shape, "description": HTTPStatus.UNAUTHORIZED.phrase})
