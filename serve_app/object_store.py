"""Opening a folder or an object store, and its errors as ours: what pictures, records and batch runs are kept in."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import obstore
from obstore.exceptions import BaseError
from obstore.store import LocalStore, ObjectStore, from_url

from serve_app.errors import ConfigurationError, NotFound, StoreUnavailable
from serve_app.settings import StoreSettings

log = logging.getLogger(__name__)

# A store that does not answer must be an error while the client still waits, not after minutes of retries.
_RETRY: dict[str, Any] = {"max_retries": 3, "retry_timeout": timedelta(seconds=15)}
_TIMEOUTS: dict[str, Any] = {"connect_timeout": "5s", "timeout": "30s"}
# Of the options, those that concern the HTTP client rather than the kind of store.
_CLIENT_OPTIONS = frozenset(
    {
        "allow_http",
        "allow_invalid_certificates",
        "connect_timeout",
        "proxy_url",
        "proxy_ca_certificate",
        "timeout",
    }
)
_DELETE_CHUNK = 500


def open_store(settings: StoreSettings) -> ObjectStore:
    """The folder or object store that `settings` name.

    Raises:
        ConfigurationError: The url or an option is not understood, or the folder cannot be made.
    """
    try:
        folder = local_folder(settings.url)
        if folder is not None:
            return LocalStore(folder, mkdir=True, automatic_cleanup=True)
        client: dict[str, Any] = dict(_TIMEOUTS)
        config: dict[str, Any] = {}
        for name, value in settings.options.items():
            (client if name in _CLIENT_OPTIONS else config)[name] = value
        if str(config.get("endpoint", "")).startswith("http://"):
            client["allow_http"] = "true"
        options: dict[str, Any] = {"config": config, "client_options": client, "retry_config": _RETRY}
        return from_url(settings.url, **options)
    except (BaseError, OSError, ValueError, TypeError) as error:
        raise ConfigurationError(
            f"store.url={settings.url!r} cannot be used ({_first_line(error)}); give a writable folder "
            "or a url such as s3://bucket/prefix, with its options in store.options"
        ) from error


async def delete_objects(store: ObjectStore, paths: Sequence[str], kind: str) -> None:
    """Removes objects; one that is gone already is no error.

    Args:
        store: Where.
        paths: Which.
        kind: What they are, for errors.

    Raises:
        StoreUnavailable: The storage refused or did not answer.
    """
    for start in range(0, len(paths), _DELETE_CHUNK):
        chunk = list(paths[start : start + _DELETE_CHUNK])
        with domain_errors(f"{kind}s to remove", kind):
            try:
                await obstore.delete_async(store, chunk)
            except FileNotFoundError:
                # Another replica was faster with some of them; the rest are tried one by one.
                for path in chunk:
                    with contextlib.suppress(FileNotFoundError):
                        await obstore.delete_async(store, path)


def local_folder(url: str) -> Path | None:
    """The folder that `url` means, absolute and without links, or None for an object store."""
    if url.startswith("file://"):
        return Path(unquote(urlsplit(url).path)).resolve()
    if "://" in url:
        return None
    return Path(url).expanduser().resolve()


@contextlib.contextmanager
def domain_errors(what: str, kind: str = "picture") -> Iterator[None]:
    """Turns the storage's errors into ours.

    Args:
        what: For the log.
        kind: What the client asked for.

    Raises:
        NotFound: There is none.
        StoreUnavailable: The storage refused or did not answer.
    """
    try:
        yield
    except FileNotFoundError as error:
        raise NotFound(f"There is no such {kind}") from error
    except (BaseError, OSError, ValueError) as error:
        log.warning("The store failed on %s: %s", what, _first_line(error))
        raise StoreUnavailable(f"The {kind} store does not answer; try again later") from error


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
