"""Who sent a request, as far as a service without accounts can tell callers apart."""

from __future__ import annotations

import base64
import hashlib
import ipaddress

from fastapi import Request

from serve_app.settings import Settings

_KEYED = "key:"
_NOBODY = base64.b64encode(b":").decode()


def caller_of(request: Request, settings: Settings) -> str:
    """An opaque name of the caller: the same for the same key, else for the same address.

    The key is whatever ``Authorization`` or ``X-Api-Key`` holds, also of clients that send an arbitrary one. The
    address is that of the connection, or, where forwarded headers are trusted, the last public one in
    ``X-Forwarded-For``: those before it are the client's own words, those behind it our proxies.

    Args:
        request: The request.
        settings: The application's settings.
    """
    key = (
        _credentials(request.headers.get("authorization", "")) or request.headers.get("x-api-key", "").strip()
    )
    if key:
        return _KEYED + hashlib.sha256(key.encode()).hexdigest()
    address = request.client.host if request.client else ""
    if settings.trust_forwarded_headers:
        address = _forwarded_address(request.headers.get("x-forwarded-for", "")) or address
    return f"address:{address}"


def may_see(caller: str, owner: str) -> bool:
    """Whether a caller who knows the id of a task may see and stop it.

    Owners with a key keep theirs to themselves; the address of others may change between two requests.
    """
    return caller == owner or not (caller.startswith(_KEYED) or owner.startswith(_KEYED))


def _credentials(authorization: str) -> str:
    """The header, or nothing where it holds no secret: some clients send a user and password that are empty."""
    scheme, _, secret = authorization.strip().partition(" ")
    if not secret.strip() or (scheme.lower() == "basic" and secret.strip() == _NOBODY):
        return ""
    return authorization.strip()


def _forwarded_address(header: str) -> str:
    addresses = []
    for part in header.split(",")[-20:]:
        try:
            addresses.append(ipaddress.ip_address(part.strip()))
        except ValueError:
            continue
    public = [address for address in addresses if address.is_global]
    chosen = public[-1:] or addresses[:1]
    return str(chosen[0]) if chosen else ""
