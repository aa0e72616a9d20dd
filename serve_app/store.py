"""`PictureStore`: the pictures that are answered by url, with their retention.

Names are ``{picture id}/{number}_{batch}.png`` and ``{picture id}/image_grid.png``. The id is a uuid4, so it
cannot be guessed; anything else is refused before it reaches the storage, so no path leaves the store.
Objects in the same folder or bucket with other names are never listed, served or removed.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import obstore

from serve_app.errors import NotFound, StoreUnavailable
from serve_app.object_store import delete_objects, domain_errors, local_folder, open_store
from serve_app.request import ImageFormat
from serve_app.settings import StoreSettings

log = logging.getLogger(__name__)

GRID_NAME = "image_grid.png"

_ID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_NAME = re.compile(r"(?:[0-9]{1,4}_[0-9]{1,4}|image_grid)\.(png|webp|jpeg)")


@dataclass(frozen=True, slots=True)
class PictureInfo:
    """What the store knows of a picture without reading it.

    Attributes:
        path: ``{picture id}/{name}``.
        size: Bytes.
        modified: Unix time in seconds.
        etag: Changes whenever the content does, without quotes.
        media_type: MIME type.
    """

    path: str
    size: int
    modified: float
    etag: str
    media_type: str


class StoreObserver(Protocol):
    """Hears of what a store does, on the event loop. `NoStoreObserver` is the one that does not care."""

    def on_put(self, size: int, seconds: float, *, stored: bool) -> None:
        """A picture of `size` bytes was stored, or could not be."""
        ...

    def on_sweep(self, pictures: int, size: int) -> None:
        """A clean-up left this many pictures, of `size` bytes together."""
        ...


class NoStoreObserver:
    """Hears nothing."""

    def on_put(self, size: int, seconds: float, *, stored: bool) -> None:
        """Nothing."""

    def on_sweep(self, pictures: int, size: int) -> None:
        """Nothing."""


def picture_name(number: int, batch: int, image_format: ImageFormat = ImageFormat.PNG) -> str:
    """File name of picture `batch` of round `number`, both counted from 0."""
    return f"{number}_{batch}.{image_format.value}"


class PictureStore:
    """Pictures answered by url, in a local folder or an object store.

    Args:
        settings: Where, and for how long.
        observer: Told of what it does.

    Raises:
        ConfigurationError: The url or an option is not understood, or the folder cannot be made.
    """

    def __init__(self, settings: StoreSettings, observer: StoreObserver | None = None) -> None:
        self._settings = settings
        self._observer: StoreObserver = observer or NoStoreObserver()
        self._sweeper: asyncio.Task[None] | None = None
        self._folder = local_folder(settings.url)
        self._store = open_store(settings)

    async def put(self, picture_id: str, name: str, data: bytes) -> None:
        """Stores a picture; it appears whole or not at all.

        Raises:
            NotFound: The id or the name is not one of ours.
            StoreUnavailable: The storage refused or did not answer.
        """
        path = _path(picture_id, name)
        # The local folder cannot keep attributes; there the name decides the media type.
        attributes = {"Content-Type": _media_type(name)} if self._folder is None else None
        began = time.monotonic()
        try:
            with domain_errors(path):
                await self._refuse_links(path)
                await obstore.put_async(self._store, path, data, attributes=attributes)
        except (NotFound, StoreUnavailable):  # a caller who leaves meanwhile says nothing about the store
            self._observer.on_put(len(data), time.monotonic() - began, stored=False)
            raise
        self._observer.on_put(len(data), time.monotonic() - began, stored=True)

    async def get(self, picture_id: str, name: str) -> tuple[PictureInfo, bytes]:
        """A stored picture.

        Raises:
            NotFound: There is none, or its time is over.
            StoreUnavailable: The storage refused or did not answer.
        """
        path = _path(picture_id, name)
        with domain_errors(path):
            await self._refuse_links(path)
            result = await obstore.get_async(self._store, path)
            info = _info(result.meta)
            self._refuse_expired(info)
            return info, bytes(await result.bytes_async())

    async def head(self, picture_id: str, name: str) -> PictureInfo:
        """What is known of a stored picture, without reading it.

        Raises:
            NotFound: There is none, or its time is over.
            StoreUnavailable: The storage refused or did not answer.
        """
        path = _path(picture_id, name)
        with domain_errors(path):
            await self._refuse_links(path)
            info = _info(await obstore.head_async(self._store, path))
        self._refuse_expired(info)
        return info

    async def holds(self, picture_id: str) -> bool:
        """Whether any picture is stored under this id.

        Raises:
            NotFound: The id is not one of ours.
            StoreUnavailable: The storage refused or did not answer.
        """
        _path(picture_id, GRID_NAME)
        try:
            with domain_errors(picture_id):
                async for chunk in obstore.list(self._store, picture_id, chunk_size=1):
                    if chunk:
                        return True
        except NotFound:
            log.debug("A folder vanished while it was looked into")
        return False

    async def list(self) -> list[PictureInfo]:
        """Every picture of the store, in no order; objects that are none of ours are left out.

        Raises:
            StoreUnavailable: The storage refused or did not answer.
        """
        found: list[PictureInfo] = []
        try:
            with domain_errors("the list of pictures"):
                for prefix in await self._prefixes():
                    async for chunk in obstore.list(self._store, prefix, chunk_size=1000):
                        found.extend(_info(meta) for meta in chunk if _is_ours(meta["path"]))
        except NotFound:
            # Another replica removed a folder while it was being listed; the next sweep sees the rest.
            log.debug("A folder vanished while the store was listed")
        return found

    async def _prefixes(self) -> Sequence[str | None]:
        """Where to look for pictures: of a local folder only our own ones, since others may be closed to us
        (``lost+found`` of a volume); of an object store everything in one go."""
        if self._folder is None:
            return [None]
        there = await obstore.list_with_delimiter_async(self._store)
        return [prefix for prefix in there["common_prefixes"] if _ID.fullmatch(prefix)]

    async def delete(self, paths: Sequence[str]) -> None:
        """Removes pictures; one that is gone already is no error.

        Args:
            paths: ``{picture id}/{name}`` each.

        Raises:
            NotFound: A path is not one of ours.
            StoreUnavailable: The storage refused or did not answer.
        """
        for path in paths:
            _path(*path.split("/", 1))
        await delete_objects(self._store, paths, "picture")

    async def sweep(self) -> int:
        """Removes pictures older than ``max_age_s``, then the oldest until all are within ``max_bytes``.

        Several processes may sweep the same store at once.

        Returns:
            How many pictures were removed.

        Raises:
            StoreUnavailable: The storage refused or did not answer.
        """
        oldest_allowed = time.time() - self._settings.max_age_s
        pictures = sorted(await self.list(), key=lambda picture: (picture.modified, picture.path))
        total = sum(picture.size for picture in pictures)
        doomed: list[str] = []
        for picture in pictures:
            if picture.modified >= oldest_allowed and total <= self._settings.max_bytes:
                break
            doomed.append(picture.path)
            total -= picture.size
        await self.delete(doomed)
        self._observer.on_sweep(len(pictures) - len(doomed), total)
        if self._folder is not None:
            with domain_errors("leftovers"):
                await asyncio.to_thread(_remove_leftovers, self._folder, oldest_allowed)
        if doomed:
            log.info("Removed %d pictures from the store", len(doomed))
        return len(doomed)

    def start(self) -> None:
        """Starts sweeping in the background, every ``sweep_interval_s``; needs a running event loop."""
        if self._sweeper is None or self._sweeper.done():
            self._sweeper = asyncio.get_running_loop().create_task(self._sweep_forever())

    async def close(self, timeout_s: float = 5.0) -> None:
        """Stops the background sweep, waiting at most `timeout_s` seconds for it."""
        sweeper, self._sweeper = self._sweeper, None
        if sweeper is not None:
            sweeper.cancel()
            await asyncio.wait({sweeper}, timeout=timeout_s)

    async def _sweep_forever(self) -> None:
        while True:
            try:
                await self.sweep()
            except StoreUnavailable as error:
                # Pictures are kept too long meanwhile; the next round tries again.
                log.warning("The picture store could not be swept: %s", error)
            await asyncio.sleep(self._settings.sweep_interval_s)

    def _refuse_expired(self, info: PictureInfo) -> None:
        if info.modified < time.time() - self._settings.max_age_s:
            raise NotFound("This picture is no longer kept")

    async def _refuse_links(self, path: str) -> None:
        """A symbolic link that someone put into the local folder must not lead out of it."""
        if self._folder is not None and await asyncio.to_thread(_is_link, self._folder, path):
            raise NotFound("There is no such picture")


def _path(picture_id: str, name: str) -> str:
    if _ID.fullmatch(picture_id) is None or _NAME.fullmatch(name) is None:
        raise NotFound("There is no such picture")
    return f"{picture_id}/{name}"


def _is_ours(path: str) -> bool:
    picture_id, _, name = path.partition("/")
    return _ID.fullmatch(picture_id) is not None and _NAME.fullmatch(name) is not None


def _media_type(name: str) -> str:
    return ImageFormat(name.rpartition(".")[2]).media_type


def _info(meta: Any) -> PictureInfo:
    path, size, modified = meta["path"], meta["size"], meta["last_modified"].timestamp()
    etag = (meta.get("e_tag") or f"{size:x}-{modified:.6f}").strip('"')
    return PictureInfo(path=path, size=size, modified=modified, etag=etag, media_type=_media_type(path))


def _is_link(folder: Path, path: str) -> bool:
    file = folder / path
    return file.parent.is_symlink() or file.is_symlink()


def _remove_leftovers(folder: Path, oldest_allowed: float) -> None:
    """Removes half-written files of dead processes, and empty picture folders. Blocks."""
    with contextlib.suppress(FileNotFoundError), os.scandir(folder) as entries:
        for entry in entries:
            if _ID.fullmatch(entry.name) is None or not entry.is_dir(follow_symlinks=False):
                continue
            # Another replica may remove the folder meanwhile, and one that is in use is not empty: both are
            # well.
            with contextlib.suppress(OSError):
                for file in Path(entry.path).iterdir():
                    staged = _NAME.fullmatch(file.name.partition("#")[0]) is not None and "#" in file.name
                    if staged and file.stat().st_mtime < oldest_allowed:
                        file.unlink()
                os.rmdir(entry.path)
