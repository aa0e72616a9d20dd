"""Webhooks: the final JSON of a job, signed, to an address that cannot be turned against the own network.

Headers and signature follow the Standard Webhooks specification, so its libraries verify them: ``webhook-id``,
``webhook-timestamp`` and ``webhook-signature: v1,<base64 of HMAC-SHA256 over "id.timestamp.body">``.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import hmac
import logging
import re
import ssl
import time

import httpx
import stamina

from serve_app.errors import ConfigurationError, InvalidRequest
from serve_app.jobs.addresses import Resolve, is_public, resolve
from serve_app.settings import JobsSettings

log = logging.getLogger(__name__)

RESOLVE_TIMEOUT_S = 5.0
ATTEMPT_TIMEOUT_S = 15.0
_FIRST_WAIT_S, _MAX_WAIT_S = 1.0, 120.0
_WORTH_ANOTHER = frozenset({408, 425, 429})
"""Beside every 5xx: gateways have their own for a receiver that is away, such as Cloudflare's 520 to 530."""


_POSTS_AT_ONCE = 16
_HOST = re.compile(r"[a-z0-9._-]{1,253}|[0-9a-f:.]{2,45}")


class _TryAgain(Exception):
    """An attempt that failed in a way that may pass."""


class Webhooks:
    """Checks webhook addresses and delivers to them.

    Args:
        settings: Secret, allowed hosts and attempts.
        resolver: From host and port to addresses.
        wait_s: Seconds before the second attempt; doubles from then on.
        tls: Certificates to trust; None for the public authorities.

    Raises:
        ConfigurationError: The secret is no valid one.
    """

    def __init__(
        self,
        settings: JobsSettings,
        *,
        resolver: Resolve = resolve,
        wait_s: float = _FIRST_WAIT_S,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._secret = _secret_bytes(settings)
        self._allowed = frozenset(host.lower() for host in settings.webhook_allowed_hosts)
        self._attempts = settings.webhook_attempts
        self._resolve = resolver
        self._wait_s = wait_s
        self._tls = tls
        self._posting = asyncio.Semaphore(_POSTS_AT_ONCE)

    async def check(self, url: str) -> None:
        """Refuses an address at acceptance, so that the client hears of it.

        Raises:
            InvalidRequest: It may not be told, for the reason given.
        """
        if self._secret is None:
            raise InvalidRequest(
                "webhook_url", "this service sends no webhooks: its setting jobs.webhook_secret is not set"
            )
        await self._addresses(_parsed(url))

    async def deliver(self, url: str, message_id: str, body: bytes) -> bool:
        """Posts `body` until it is taken, the address turns out to be refused, or the attempts are used up.

        Args:
            url: Checked before, and again with every attempt: its addresses may have changed.
            message_id: The same for every attempt, so that a receiver can tell repetitions.
            body: JSON.

        Returns:
            Whether it was taken (any 2xx).
        """
        attempt_number = 0
        try:
            async for attempt in stamina.retry_context(
                on=_TryAgain,
                attempts=self._attempts,
                timeout=None,
                wait_initial=self._wait_s,
                wait_max=_MAX_WAIT_S,
                wait_jitter=self._wait_s,
            ):
                with attempt:
                    attempt_number += 1
                    async with self._posting:
                        return await self._post(url, message_id, body, attempt_number)
        except _TryAgain as error:
            log.warning(
                "The webhook of job %s was given up after %d attempts: %s", message_id, attempt_number, error
            )
        except InvalidRequest as error:
            log.warning("The webhook of job %s was given up: %s", message_id, error.message)
        return False

    async def _post(self, url: str, message_id: str, body: bytes, attempt_number: int) -> bool:
        """One attempt. Returns False for an answer that will not change."""
        if self._secret is None:
            raise InvalidRequest("webhook_url", "the setting jobs.webhook_secret is not set any more")
        parsed = _parsed(url)
        try:
            addresses = await self._addresses(parsed)
        except _Unresolvable as error:
            raise _TryAgain(error.message) from error
        # To the address that was checked, never to what the name resolves to a moment later; certificate and
        # Host header stay those of the name. Another attempt takes the next address, if there are several.
        address = addresses[(attempt_number - 1) % len(addresses)]
        timestamp = str(int(time.time()))
        headers = {
            "Host": parsed.netloc.decode("ascii"),
            "Content-Type": "application/json",
            "User-Agent": "imagine-serve",
            "webhook-id": message_id,
            "webhook-timestamp": timestamp,
            "webhook-signature": signature(self._secret, message_id, timestamp, body),
        }
        verify = self._tls if self._tls is not None else True
        try:
            async with (
                asyncio.timeout(ATTEMPT_TIMEOUT_S),
                # The environment's proxies would resolve the name themselves; redirects lead elsewhere.
                httpx.AsyncClient(
                    verify=verify, trust_env=False, follow_redirects=False, timeout=10.0
                ) as client,
                client.stream(
                    "POST",
                    parsed.copy_with(host=address),
                    content=body,
                    headers=headers,
                    extensions={"sni_hostname": _host(parsed)},
                ) as response,
            ):
                status = response.status_code
        except (httpx.HTTPError, TimeoutError, OSError) as error:
            raise _TryAgain(f"{type(error).__name__}: {error}") from error
        if status in _WORTH_ANOTHER or status >= 500:
            raise _TryAgain(f"it answered {status}")
        if not 200 <= status < 300:
            log.warning("The webhook of job %s was given up: it answered %d", message_id, status)
        return 200 <= status < 300

    async def _addresses(self, url: httpx.URL) -> list[str]:
        """Addresses of the url's host, all of them checked.

        Raises:
            InvalidRequest: It may not be told, for the reason given.
        """
        host, allowed = _host(url), _host(url) in self._allowed
        if url.scheme != "https" and not allowed:
            raise InvalidRequest("webhook_url", "it must begin with https://")
        try:
            async with asyncio.timeout(RESOLVE_TIMEOUT_S):
                addresses = list(
                    await self._resolve(host, url.port or (443 if url.scheme == "https" else 80))
                )
        except (OSError, UnicodeError, TimeoutError) as error:
            raise _Unresolvable("webhook_url", f"its host {host!r} cannot be resolved") from error
        if not addresses:
            raise _Unresolvable("webhook_url", f"its host {host!r} has no address")
        if not allowed and not all(is_public(address) for address in addresses):
            raise InvalidRequest("webhook_url", f"its host {host!r} is not on the public internet")
        return addresses


class _Unresolvable(InvalidRequest):
    """The host has no address now; it may have one later."""


def signature(secret: bytes, message_id: str, timestamp: str, body: bytes) -> str:
    """The value of ``webhook-signature``.

    Args:
        secret: The shared secret.
        message_id: ``webhook-id``.
        timestamp: ``webhook-timestamp``, Unix seconds.
        body: The body, byte for byte.
    """
    digest = hmac.new(secret, f"{message_id}.{timestamp}.".encode() + body, hashlib.sha256).digest()
    return "v1," + base64.b64encode(digest).decode("ascii")


def _host(url: httpx.URL) -> str:
    """Host name in ASCII, or an IP address."""
    return url.raw_host.decode("ascii").lower()


def _parsed(url: str) -> httpx.URL:
    try:
        parsed = httpx.URL(url)
    except (httpx.InvalidURL, ValueError) as error:
        raise InvalidRequest("webhook_url", "it is no valid url") from error
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise InvalidRequest("webhook_url", "it must be an absolute https:// url")
    if _HOST.fullmatch(_host(parsed)) is None or parsed.port == 0 or (parsed.port or 443) > 65535:
        raise InvalidRequest("webhook_url", "it is no valid url")
    if parsed.userinfo:
        raise InvalidRequest("webhook_url", "it must not hold a user name or a password")
    return parsed


def _secret_bytes(settings: JobsSettings) -> bytes | None:
    if settings.webhook_secret is None:
        return None
    secret = settings.webhook_secret.get_secret_value()
    try:
        raw = base64.b64decode(secret[6:], validate=True) if secret.startswith("whsec_") else secret.encode()
    except binascii.Error:
        raise ConfigurationError(
            "jobs.webhook_secret begins with whsec_, but what follows is no base64"
        ) from None
    if len(raw) < 16:
        raise ConfigurationError("jobs.webhook_secret is too short; take 24 to 64 random bytes")
    return raw
