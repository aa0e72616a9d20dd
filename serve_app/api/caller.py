"""Who sent a request: the owner of its API key, or as far as callers can be told apart without keys."""

from __future__ import annotations

import base64
import binascii
import hashlib
import ipaddress
import re
from contextvars import ContextVar

from fastapi import Request
from starlette.datastructures import Headers

from serve_app.settings import Settings

KEYED = "key:"
"""What the names of callers with a key begin with."""

caller_here: ContextVar[str] = ContextVar("caller", default="")
"""Whose HTTP request is being answered, as `caller_of` says."""

_WITH_PORT = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([0-9.]+))(?::[0-9]{1,5})?")
_NOBODY = base64.b64encode(b":").decode()


def caller_of(request: Request, settings: Settings) -> str:
    """An opaque name of the caller: the same for the same key, else for the same address.

    Where API keys are checked (`serve_app.api.access`), the name is that of the key's owner. Elsewhere the key is
    whatever ``Authorization`` or ``X-Api-Key`` holds, also of clients that send an arbitrary one. The address is that
    of the connection, or, where forwarded headers are trusted, the last public one in ``X-Forwarded-For``: those
    before it are the client's own words, those behind it our proxies.

    Args:
        request: The request.
        settings: The application's settings.
    """
    owner = request.scope.get("state", {}).get("caller")
    if owner is not None:
        return str(owner)
    key = (
        _credentials(request.headers.get("authorization", "")) or request.headers.get("x-api-key", "").strip()
    )
    if key:
        return KEYED + hashlib.sha256(key.encode()).hexdigest()
    address = request.client.host if request.client else ""
    if settings.trust_forwarded_headers:
        # A proxy may write a line of its own below the client's, as HAProxy does: together they are one list.
        address = _forwarded_address(",".join(request.headers.getlist("x-forwarded-for"))) or address
    return f"address:{address}"


def may_see(caller: str, owner: str) -> bool:
    """Whether a caller who knows the id of a task may see and stop it.

    Owners with a key keep theirs to themselves; the address of others may change between two requests.
    """
    return caller == owner or not (caller.startswith(KEYED) or owner.startswith(KEYED))


def presented_key(headers: Headers) -> str:
    """The API key of a request, or "": a bearer token, the password of HTTP Basic, or ``X-Api-Key``."""
    scheme, _, secret = headers.get("authorization", "").strip().partition(" ")
    secret = secret.strip()
    if scheme.lower() == "bearer" and secret:
        return secret
    if scheme.lower() == "basic" and secret:
        try:
            password = base64.b64decode(secret, validate=True).decode().partition(":")[2]
        except (binascii.Error, UnicodeDecodeError):
            password = ""
        if password:
            return password
    return headers.get("x-api-key", "").strip()


def _credentials(authorization: str) -> str:
    """The header, or nothing where it holds no secret: some clients send a user and password that are empty."""
    scheme, _, secret = authorization.strip().partition(" ")
    if not secret.strip() or (scheme.lower() == "basic" and secret.strip() == _NOBODY):
        return ""
    return authorization.strip()


def _forwarded_address(header: str) -> str:
    addresses = []
    for part in header.split(",")[-20:]:
        # Some gateways, Azure's among them, write the port of the connection behind it.
        match = _WITH_PORT.fullmatch(part.strip())
        try:
            addresses.append(ipaddress.ip_address((match[1] or match[2]) if match else part.strip()))
        except ValueError:
            continue
    public = [address for address in addresses if address.is_global]
    chosen = public[-1:] or addresses[:1]
    return str(chosen[0]) if chosen else ""
