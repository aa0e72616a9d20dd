"""Where a batch is drawn to: pictures, a record per line, and the manifest, in a folder or an object store."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import obstore
from pydantic import BaseModel, ConfigDict, ValidationError

from serve_app.batch.prompts import PromptLine
from serve_app.errors import NotFound
from serve_app.object_store import delete_objects, domain_errors, local_folder, open_store
from serve_app.settings import StoreSettings

MANIFEST = "manifest.jsonl"

_RECORDS = "manifest.parts"
_CONCURRENT_READS = 32
# What a killed process leaves of a file it was writing: the store's own suffix behind a name of ours.
_LEFTOVER = re.compile(
    r"(?:.+-[0-9a-f]{12}(?:-\d+)?\.(?:png|webp|jpeg)|manifest\.jsonl|[0-9a-f]{32}\.json)#\d+"
)


class _Written(BaseModel):
    # A newer version may have written more.
    model_config = ConfigDict(frozen=True, extra="ignore", protected_namespaces=())


class LineImage(_Written):
    """A picture of a line.

    Attributes:
        file: Its name, relative to the manifest.
        seed: Draws it again, alone.
        width: Pixels.
        height: Pixels.
        bytes: Size of the file.
        sha256: Of the file, in hex.
    """

    file: str
    seed: int
    width: int
    height: int
    bytes: int
    sha256: str


class LineError(_Written):
    """Why a line was not drawn.

    Attributes:
        code: For programs, as the service says it.
        message: For people.
        field: The line's field at fault, or None.
        status: HTTP status of the refusal; None where an accepted job failed later.
    """

    code: str
    message: str
    field: str | None = None
    status: int | None = None


class LineRecord(_Written):
    """A line of the manifest.

    Attributes:
        line: Number in the prompts file as it was last drawn; None once the file has no such line any more.
        id: The line's own id.
        key: Names the line by its content (`PromptLine.key`).
        state: How it ended.
        attempts: Jobs sent for it, in all runs.
        request: What was sent.
        job: The service's id of the last one.
        images: Its pictures.
        drawn: The service's word on how: pool, model, accelerator, steps, guidance, seconds, cost.
        error: Why it failed.
    """

    line: int | None
    id: str | None = None
    key: str
    state: Literal["finished", "failed"]
    attempts: int = 1
    request: dict[str, Any]
    job: str | None = None
    images: tuple[LineImage, ...] = ()
    drawn: dict[str, Any] = {}
    error: LineError | None = None


class BatchOutput:
    """Pictures and records, written whole or not at all.

    Each finished line has a record of its own under ``manifest.parts/`` until the run ends and folds them into
    ``manifest.jsonl``; a run that was killed leaves them for the next one.

    Args:
        url: A folder, or an object store url such as ``s3://bucket/prefix``.
        options: Client options of the object store.

    Raises:
        ConfigurationError: The url or an option is not understood, or the folder cannot be made.
    """

    def __init__(self, url: str, options: dict[str, str] | None = None) -> None:
        self._store = open_store(StoreSettings(url=url, options=options or {}))
        self._folder = local_folder(url)

    async def load(self, known: Iterable[LineRecord] = ()) -> dict[str, LineRecord]:
        """Every record whose pictures are all there, by key.

        Args:
            known: Records that need not be read again.

        Raises:
            StoreUnavailable: The storage refused or did not answer.
        """
        if self._folder is not None:
            await asyncio.to_thread(_remove_leftovers, self._folder)
        sizes = await self._sizes()
        records = {record.key: record for record in await self._manifest(MANIFEST in sizes)}
        records |= {record.key: record for record in known}
        own = {_part(record.key) for record in known}
        parts = [path for path in sizes if path.startswith(f"{_RECORDS}/") and path not in own]
        reads = asyncio.Semaphore(_CONCURRENT_READS)

        async def part(path: str) -> LineRecord | None:
            async with reads:
                return _record(await self._read(path))

        for record in await asyncio.gather(*map(part, parts)):
            if record is not None:
                records[record.key] = record
        return {
            key: record
            for key, record in records.items()
            if all(sizes.get(image.file) == image.bytes for image in record.images)
        }

    async def put_picture(self, name: str, data: bytes, media_type: str) -> None:
        """Writes a picture.

        Raises:
            StoreUnavailable: The storage refused or did not answer.
        """
        await self._put(name, data, media_type)

    async def put_record(self, record: LineRecord) -> None:
        """Writes how a line ended; after this it is not lost, and not drawn again when it was drawn.

        Raises:
            StoreUnavailable: The storage refused or did not answer.
        """
        await self._put(_part(record.key), record.model_dump_json().encode(), "application/json")

    async def close(self, lines: Sequence[PromptLine], known: Iterable[LineRecord]) -> None:
        """Writes the manifest, in the order of `lines`, and removes the single records it now holds.

        Records of lines that the file does not have any more stay at its end.

        Raises:
            StoreUnavailable: The storage refused or did not answer.
        """
        records = await self.load(known)
        ordered = [
            records.pop(line.key).model_copy(update={"line": line.number})
            for line in lines
            if line.key in records
        ]
        ordered += [record.model_copy(update={"line": None}) for record in records.values()]
        content = "".join(record.model_dump_json() + "\n" for record in ordered)
        await self._put(MANIFEST, content.encode(), "application/jsonl")
        await delete_objects(self._store, [_part(record.key) for record in ordered], "record")

    async def _sizes(self) -> dict[str, int]:
        """Bytes of everything of ours by path; other folders are not entered (a volume may have one of root's)."""
        with domain_errors("the list of the output", "output"):
            there = await obstore.list_with_delimiter_async(self._store)
            found = {meta["path"]: meta["size"] for meta in there["objects"]}
            async for chunk in obstore.list(self._store, _RECORDS, chunk_size=1000):
                found.update((meta["path"], meta["size"]) for meta in chunk)
        return found

    async def _manifest(self, there: bool) -> list[LineRecord]:
        if not there:
            return []
        lines = (await self._read(MANIFEST)).splitlines()
        return [record for record in map(_record, lines) if record is not None]

    async def _read(self, path: str) -> bytes:
        try:
            with domain_errors(path, "output"):
                return bytes(await (await obstore.get_async(self._store, path)).bytes_async())
        except NotFound:
            return b""  # another run folded it into the manifest meanwhile

    async def _put(self, path: str, data: bytes, media_type: str) -> None:
        # The local folder cannot keep attributes; there the name decides the media type.
        attributes = {"Content-Type": media_type} if self._folder is None else None
        with domain_errors(path, "output"):
            await obstore.put_async(self._store, path, data, attributes=attributes)


def _part(key: str) -> str:
    return f"{_RECORDS}/{key}.json"


def _record(data: bytes) -> LineRecord | None:
    """None where it is no record: somebody wrote into our file, and the line counts as missing."""
    try:
        return LineRecord.model_validate_json(data)
    except ValidationError:
        return None


def _remove_leftovers(folder: Path) -> None:
    """Removes half-written files of a killed run. Blocks."""
    for place in (folder, folder / _RECORDS):
        if place.is_dir():
            for file in place.iterdir():
                if _LEFTOVER.fullmatch(file.name) and file.is_file():
                    file.unlink(missing_ok=True)
