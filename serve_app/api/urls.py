"""Absolute urls that are right behind proxies and path prefixes."""

from __future__ import annotations

import re

from fastapi import Request
from starlette.datastructures import Headers

from serve_app.settings import Settings

# Anything else (spaces, slashes, @, quotes, control characters) could smuggle another address into an answer.
_HOST = re.compile(r"(?:[A-Za-z0-9](?:[A-Za-z0-9._-]{0,252})|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{1,5})?")
_PREFIX = re.compile(r"(?:/[A-Za-z0-9._~-]{1,64}){1,8}")


def base_url(request: Request, settings: Settings) -> str:
    """The address under which the client reaches the application's root, without a slash at the end.

    ``public_url`` wins. Else, where trusted: ``X-Forwarded-Proto``, ``-Host`` and ``-Prefix`` (of lists the
    first value: the proxy nearest to the client), then RFC 7239's ``Forwarded``. Else the ``Host`` header.
    Values that are no plain host or scheme are ignored. The path is ASGI's ``root_path``, which already holds
    the proxy's prefix.

    Args:
        request: The request being answered.
        settings: The application's settings.
    """
    if settings.public_url:
        return settings.public_url.rstrip("/")
    scheme, host = request.url.scheme, _valid_host(request.headers.get("host"))
    if settings.trust_forwarded_headers:
        standard = _forwarded(request.headers)
        offered_scheme = (_first(request.headers, "x-forwarded-proto") or standard.get("proto", "")).lower()
        if offered_scheme in ("http", "https"):
            scheme = offered_scheme
        host = (
            _valid_host(_first(request.headers, "x-forwarded-host"))
            or _valid_host(standard.get("host"))
            or host
        )
    if host is None:
        address, port = request.scope.get("server") or ("localhost", None)
        host = f"{address}:{port}" if port else str(address)
    return f"{scheme}://{host}{str(request.scope.get('root_path', '')).rstrip('/')}"


def forwarded_prefix(headers: Headers) -> str:
    """The path prefix that a proxy cut off, as ``/a/b``; ``""`` when there is none or it is no plain path."""
    prefix = _first(headers, "x-forwarded-prefix").rstrip("/")
    if _PREFIX.fullmatch(prefix) is None or any(part in (".", "..") for part in prefix.split("/")):
        return ""
    return prefix


def _first(headers: Headers, name: str) -> str:
    return headers.get(name, "").split(",", 1)[0].strip()


def _valid_host(host: str | None) -> str | None:
    return host if host and _HOST.fullmatch(host) else None


def _forwarded(headers: Headers) -> dict[str, str]:
    """The first element of RFC 7239's ``Forwarded``, as its parameters in lower case."""
    pairs = (part.partition("=") for part in _first(headers, "forwarded").split(";"))
    return {name.strip().lower(): value.strip().strip('"') for name, _, value in pairs}
