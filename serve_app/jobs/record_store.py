"""Job records in the store, beside the pictures: ``jobs/open``, ``jobs/done`` and ``jobs/keys``.

``open/{id}.json`` says that something is left to do for a job; ``done/{id}.json`` is its end. The end is written
before the other is removed, so at any moment a job has at least one of them, and where it has both, ``done`` is
true. ``keys/{hash}.json`` leads from an idempotency key to its job.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import re
import time
from collections.abc import Collection
from pathlib import Path

import obstore
from pydantic import ValidationError

from serve_app.errors import NotFound
from serve_app.jobs.records import JobRecord
from serve_app.object_store import delete_objects, domain_errors, local_folder, open_store
from serve_app.settings import JobsSettings, StoreSettings

log = logging.getLogger(__name__)

_JOB_ID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_READS_AT_ONCE = 16
_LEFTOVER_S = 3600.0
"""A half-written file of the local folder that is older belongs to a dead process."""


class JobRecordStore:
    """The records of all jobs.

    Args:
        store: Where.
        jobs: For how long.

    Raises:
        ConfigurationError: The store cannot be opened.
    """

    def __init__(self, store: StoreSettings, jobs: JobsSettings) -> None:
        self._store = open_store(store)
        self._folder = local_folder(store.url)
        self._retention_s = jobs.retention_s
        # A key is written before its job and must outlive it.
        self._key_retention_s = jobs.retention_s + jobs.max_age_s

    async def put_open(self, record: JobRecord) -> None:
        """Writes that something is left to do for a job.

        Raises:
            StoreUnavailable: It is not written.
        """
        await self._put(f"jobs/open/{record.id}.json", record.model_dump_json())

    async def put_done(self, record: JobRecord) -> None:
        """Writes a job's end.

        Raises:
            StoreUnavailable: It is not written.
        """
        await self._put(f"jobs/done/{record.id}.json", record.model_dump_json())

    async def remove_open(self, job_id: str) -> None:
        """Nothing is left to do for a job.

        Raises:
            StoreUnavailable: The store does not answer.
        """
        await delete_objects(self._store, [f"jobs/open/{job_id}.json"], "job")

    async def get(self, job_id: str) -> JobRecord:
        """A job's end, or else its record as it was accepted.

        Raises:
            NotFound: There is none, or its time is over.
            StoreUnavailable: The store does not answer.
        """
        record = await self._stored(job_id)
        if record.ended_at is not None and record.ended_at < time.time() - self._retention_s:
            raise NotFound("This job is no longer kept")
        return record

    async def open_jobs(self, known: Collection[str] = ()) -> list[JobRecord]:
        """The jobs for which something is left to do, oldest first.

        Args:
            known: Ids to leave out.

        Raises:
            StoreUnavailable: The store does not answer.
        """
        reads = asyncio.Semaphore(_READS_AT_ONCE)

        async def read(job_id: str) -> JobRecord | None:
            async with reads:
                try:
                    # However long ago it ended: an end that counted no more would have it drawn again.
                    return await self._stored(job_id)
                except NotFound:
                    return None

        ids = [_id_of(path) for path, _ in await self._list("jobs/open")]
        found = await asyncio.gather(*(read(job_id) for job_id in ids if job_id not in known))
        return sorted((record for record in found if record), key=lambda record: record.created_at)

    async def put_key(self, key_hash: str, fingerprint: str, job_id: str) -> None:
        """Remembers what an idempotency key stands for.

        Raises:
            StoreUnavailable: It is not written.
        """
        await self._put(
            f"jobs/keys/{key_hash}.json", json.dumps({"fingerprint": fingerprint, "job_id": job_id})
        )

    async def get_key(self, key_hash: str) -> tuple[str, str] | None:
        """What an idempotency key stands for: (fingerprint, job id), or None.

        Raises:
            StoreUnavailable: The store does not answer.
        """
        path = f"jobs/keys/{key_hash}.json"
        try:
            stored = json.loads(await self._bytes(path))
            return str(stored["fingerprint"]), str(stored["job_id"])
        except NotFound:
            return None
        except (ValueError, TypeError, KeyError) as error:
            # Cut off when a machine lost its power, for one: it leads nowhere, and its client is not refused for ever.
            log.error("The idempotency key %s cannot be read: %s", path, error)
            return None

    async def sweep(self) -> int:
        """Removes ended jobs and keys whose time is over. A job's end stays for as long as something is left to do.

        Returns:
            How many jobs were removed.

        Raises:
            StoreUnavailable: The store does not answer.
        """
        now = time.time()
        left = {_id_of(path) for path, _ in await self._list("jobs/open")}
        jobs = [
            path
            for path, time_s in await self._list("jobs/done")
            if time_s < now - self._retention_s and _id_of(path) not in left
        ]
        keys = [
            path for path, time_s in await self._list("jobs/keys") if time_s < now - self._key_retention_s
        ]
        await delete_objects(self._store, jobs + keys, "job")
        if self._folder is not None:
            await asyncio.to_thread(_remove_leftovers, self._folder / "jobs", now - _LEFTOVER_S)
        return len(jobs)

    async def _put(self, path: str, text: str) -> None:
        with domain_errors(path, "job"):
            await obstore.put_async(self._store, path, text.encode())

    async def _bytes(self, path: str) -> bytes:
        with domain_errors(path, "job"):
            result = await obstore.get_async(self._store, path)
            return bytes(await result.bytes_async())

    async def _stored(self, job_id: str) -> JobRecord:
        """A job's end, whenever it was, or else its record as it was accepted."""
        if _JOB_ID.fullmatch(job_id) is None:
            raise NotFound("There is no such job")
        with contextlib.suppress(NotFound):
            return await self._read(f"jobs/done/{job_id}.json")
        return await self._read(f"jobs/open/{job_id}.json")

    async def _read(self, path: str) -> JobRecord:
        try:
            return JobRecord.model_validate_json(await self._bytes(path))
        except ValidationError as error:
            # Written by another version, or by hand: it stays where it is, and the other jobs go on.
            log.error("The job record %s cannot be read: %s", path, error)
            raise NotFound("The record of this job cannot be read") from error

    async def _list(self, folder: str) -> list[tuple[str, float]]:
        """(path, Unix time of writing) of every object of a folder."""
        found: list[tuple[str, float]] = []
        with contextlib.suppress(NotFound), domain_errors(folder, "job"):
            async for chunk in obstore.list(self._store, folder, chunk_size=1000):
                found.extend(
                    (meta["path"], meta["last_modified"].timestamp())
                    for meta in chunk
                    if meta["path"].endswith(".json")
                )
        return found


def _id_of(path: str) -> str:
    return path.rpartition("/")[2].removesuffix(".json")


def _remove_leftovers(folder: Path, older_than: float) -> None:
    """Removes half-written files of dead processes. Blocks."""
    for file in folder.glob("*/*.json#*"):
        with contextlib.suppress(OSError):
            if file.stat().st_mtime < older_than:
                file.unlink()
