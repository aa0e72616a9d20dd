"""API keys: making one, the file with their hashes, and finding whose a presented key is.

A key is 32 bytes of the operating system's randomness, so nobody can try them all: one SHA-256 hides it as well as a
slow password hash would, which would only make refusing strangers expensive. The file holds hashes alone, so who reads
it cannot get in.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
import re
import secrets
import time
from collections.abc import Callable
from pathlib import Path

from serve_app.errors import ConfigurationError

log = logging.getLogger(__name__)

READ_EVERY_S = 2.0
"""Seconds after which the file is read again with the next request: the longest life of a key that was taken out."""

MAX_FILE_BYTES = 1_000_000
MAX_KEYS = 1000
"""Every one is compared with each presented key, which takes less than a millisecond for all of them."""

_PREFIX = "imk_"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_HASH = re.compile(r"sha256:([0-9a-f]{64})")


def new_key() -> str:
    """A fresh key: ``imk_`` and 43 characters that carry 256 random bits."""
    return _PREFIX + secrets.token_urlsafe(32)


def key_line(name: str, key: str) -> str:
    """The line of the file that lets `key` in.

    Args:
        name: Whose key it is; the same name may have several keys, such as an old and a new one.
        key: The key itself, which the line does not give away.

    Raises:
        ConfigurationError: The name has other characters than letters, digits, ``.``, ``_`` and ``-``.
    """
    if _NAME.fullmatch(name) is None:
        raise ConfigurationError(
            f"{name!r} is no name for a key: 1 to 64 letters, digits, '.', '_' and '-', a letter or digit first"
        )
    return f"{name} sha256:{_digest(key).hex()}"


def parse_keys(content: bytes) -> tuple[tuple[str, bytes], ...]:
    """Names and hashes of a file's lines; empty lines and those that begin with ``#`` say nothing.

    Raises:
        ConfigurationError: A line is none of `key_line`'s. Its number is told, never its content.
    """
    found: list[tuple[str, bytes]] = []
    try:
        lines = content.decode().splitlines()
    except UnicodeDecodeError:
        raise ConfigurationError("it is not UTF-8") from None
    for number, line in enumerate(lines, start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        parts = line.split()
        digest = _HASH.fullmatch(parts[1]) if len(parts) == 2 else None
        if digest is None or _NAME.fullmatch(parts[0]) is None:
            raise ConfigurationError(
                f"line {number} is not NAME sha256:HASH; `imagine key NAME` makes such a line"
            )
        found.append((parts[0], bytes.fromhex(digest[1])))
    if len(found) > MAX_KEYS:
        raise ConfigurationError(f"it has more than {MAX_KEYS} keys")
    return tuple(found)


class ApiKeys:
    """The keys of a file, which may change at any time.

    A file that cannot be read or has a wrong line changes nothing: the keys known so far go on holding, and the log
    says so. A file without keys lets nobody in.

    Args:
        file: Lines as `key_line` makes them.
        read_every_s: Seconds between two looks at the file.
        clock: Monotonic seconds.

    Raises:
        ConfigurationError: The file cannot be used at the start.
    """

    def __init__(
        self, file: Path, *, read_every_s: float = READ_EVERY_S, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._file = file
        self._read_every_s = read_every_s
        self._clock = clock
        self._reading = asyncio.Lock()
        self._content = b""
        self._complaint = ""
        try:
            self._content = _read(file)
            self._keys = parse_keys(self._content)
        except (OSError, ConfigurationError) as error:
            raise ConfigurationError(f"access.keys_file={file} cannot be used: {_reason(error)}") from None
        self._read_at = clock()
        log.info("%d API keys are known", len(self._keys))

    async def owner(self, key: str) -> str | None:
        """Name of the one whose key it is, or None for a key that is not in the file.

        Every hash is compared, in a time that does not depend on how much of it fits.
        """
        if self._clock() - self._read_at >= self._read_every_s:
            async with self._reading:
                if self._clock() - self._read_at >= self._read_every_s:
                    await self._read_again()
        presented = _digest(key)
        owner = None
        for name, digest in self._keys:
            if hmac.compare_digest(digest, presented):
                owner = name
        return owner

    async def _read_again(self) -> None:
        try:
            content = await asyncio.to_thread(_read, self._file)
            # Compared whole: a time stamp may stay the same when a Secret is replaced.
            if content != self._content:
                self._keys = parse_keys(content)
                self._content = content
                log.info("The API keys have changed: %d are known", len(self._keys))
            self._complaint = ""
        except (OSError, ConfigurationError) as error:
            complaint = _reason(error)
            if complaint != self._complaint:  # once, not with every request
                log.error(
                    "access.keys_file=%s cannot be used, the keys known so far hold: %s",
                    self._file,
                    complaint,
                )
            self._complaint = complaint
        finally:
            self._read_at = self._clock()


def _read(file: Path) -> bytes:
    with file.open("rb") as opened:
        content = opened.read(MAX_FILE_BYTES + 1)
    if len(content) > MAX_FILE_BYTES:
        raise ConfigurationError(f"it has more than {MAX_FILE_BYTES} bytes")
    return content


def _digest(key: str) -> bytes:
    # Headers are read as Latin-1, so any of their characters must be hashable.
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()


def _reason(error: OSError | ConfigurationError) -> str:
    return (error.strerror or type(error).__name__) if isinstance(error, OSError) else error.message
