"""Addresses of stored pictures, signed and with an end where the settings say so."""

from __future__ import annotations

import base64
import hashlib
import hmac
import time
from collections.abc import Callable, Mapping

from serve_app.settings import AccessSettings


class PictureUrls:
    """Makes the addresses that answers tell, and knows its own again.

    Args:
        settings: The secret, and how long an address lives; without a secret addresses are plain and live as long as
            the picture.
        clock: Unix time in seconds.
    """

    def __init__(self, settings: AccessSettings, clock: Callable[[], float] = time.time) -> None:
        secret = settings.image_url_secret
        self._secret = None if secret is None else secret.get_secret_value().encode()
        self._max_age_s = settings.image_url_max_age_s
        self._clock = clock

    @property
    def signed(self) -> bool:
        """Whether addresses are signed."""
        return self._secret is not None

    def url(self, base_url: str, picture_id: str, name: str) -> str:
        """The address of a picture.

        Args:
            base_url: Of the service's root, without a slash at the end.
            picture_id: Folder of the picture.
            name: Its file name.
        """
        path = f"/images/{picture_id}/{name}"
        if self._secret is None:
            return base_url + path
        expires = str(int(self._clock() + self._max_age_s))
        return f"{base_url}{path}?expires={expires}&signature={_signature(self._secret, path, expires)}"

    def is_valid(self, path: str, query: Mapping[str, str]) -> bool:
        """Whether an address is one of `url`'s and its time is not over.

        Args:
            path: From the service's root on, with a slash at its beginning.
            query: Its query.
        """
        if self._secret is None:
            return True
        expires = query.get("expires", "")
        if not (expires.isascii() and expires.isdecimal() and len(expires) <= 15):
            return False
        expected = _signature(self._secret, path, expires)
        genuine = hmac.compare_digest(expected.encode(), query.get("signature", "").encode())
        return genuine and int(expires) >= self._clock()


def _signature(secret: bytes, path: str, expires: str) -> str:
    digest = hmac.new(secret, f"{path}\n{expires}".encode(), hashlib.sha256).digest()
    return base64.urlsafe_b64encode(digest).decode().rstrip("=")
