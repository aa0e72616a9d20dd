"""`BatchRun`: draws the lines that are missing, some at a time."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from serve_app.batch.client import JobLost, JobsClient, Refused
from serve_app.batch.output import BatchOutput, LineError, LineImage, LineRecord
from serve_app.batch.prompts import PromptLine

MIN_POLL_S, MAX_POLL_S = 0.1, 2.0
"""Bounds of the pause between two looks at a job; between them a quarter of what the service says is left."""

_DRAWN = ("pool", "model", "accelerator", "num_inference_steps", "guidance_scale", "total_s", "cost")
# A job that failed by these may succeed when it is drawn once more; all others say something of the line.
_PASSING = frozenset({"generation_failed", "internal", "lost"})


class Observer(Protocol):
    """Hears how the run goes, on the event loop. `NoObserver` is the one that does not care."""

    def on_start(self, lines: int, already: int) -> None:
        """Begins: `lines` in the file, `already` of them drawn before."""
        ...

    def on_line(self, record: LineRecord) -> None:
        """A line has ended, and its record is written."""
        ...


class NoObserver:
    """Hears nothing."""

    def on_start(self, lines: int, already: int) -> None:
        """Nothing."""

    def on_line(self, record: LineRecord) -> None:
        """Nothing."""


@dataclass(frozen=True, slots=True)
class Summary:
    """How a run ended.

    Attributes:
        lines: In the file.
        already: Drawn by earlier runs.
        drawn: Drawn by this one.
        failed: Failed in this one.
        missing: Not drawn and not failed: the run ended before.
        images: Pictures that this run wrote.
        cost: What this run's pictures cost, in the currency of the pools' ``price_per_hour``.
    """

    lines: int
    already: int
    drawn: int
    failed: int
    missing: int
    images: int
    cost: float

    @property
    def complete(self) -> bool:
        """Whether every line of the file is drawn."""
        return self.failed == self.missing == 0


class BatchRun:
    """One run over a prompts file.

    Args:
        lines: The file.
        client: Draws.
        output: Keeps.
        concurrency: Most lines at a time.
        max_attempts: Most jobs for one line in this run.
        observer: Hears how it goes.
    """

    def __init__(
        self,
        lines: Sequence[PromptLine],
        client: JobsClient,
        output: BatchOutput,
        *,
        concurrency: int = 16,
        max_attempts: int = 3,
        observer: Observer | None = None,
    ) -> None:
        self._lines = lines
        self._client, self._output = client, output
        self._concurrency, self._max_attempts = concurrency, max_attempts
        self._observer: Observer = observer or NoObserver()
        self._before: dict[str, LineRecord] = {}
        self._ended: dict[str, LineRecord] = {}

    @property
    def summary(self) -> Summary:
        """How far it is."""
        own = list(self._ended.values())
        already = sum(self._is_drawn(line) for line in self._lines)
        drawn = sum(record.state == "finished" for record in own)
        return Summary(
            lines=len(self._lines),
            already=already,
            drawn=drawn,
            failed=len(own) - drawn,
            missing=len(self._lines) - already - len(own),
            images=sum(len(record.images) for record in own),
            cost=sum(float(record.drawn.get("cost", 0.0)) for record in own),
        )

    async def run(self) -> Summary:
        """Draws what is missing, then writes the manifest; writes it too when it is cancelled or the service is gone.

        Raises:
            ServiceUnreachable: The client's patience is over; what was drawn is kept.
            StoreUnavailable: The output refused or did not answer.
        """
        self._before = await self._output.load()
        todo = [line for line in self._lines if not self._is_drawn(line)]
        self._observer.on_start(len(self._lines), len(self._lines) - len(todo))
        queue = iter(todo)
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(min(self._concurrency, len(todo))):
                    group.create_task(self._work(queue))
        except BaseExceptionGroup as errors:
            raise errors.exceptions[0] from None
        finally:
            await self._output.close(self._lines, list(self._ended.values()))
        return self.summary

    def _is_drawn(self, line: PromptLine) -> bool:
        before = self._before.get(line.key)
        return before is not None and before.state == "finished"

    async def _work(self, queue: Iterator[PromptLine]) -> None:
        for line in queue:
            record = await self._draw(line)
            await self._output.put_record(record)
            self._ended[line.key] = record
            self._observer.on_line(record)

    async def _draw(self, line: PromptLine) -> LineRecord:
        """Draws one line and writes its pictures; how it ended is the caller's to write."""
        before = self._before.get(line.key)
        # A failed job would be answered for its key again, so each attempt has a key of its own.
        first = (before.attempts if before is not None else 0) + 1
        attempt = first
        job_id: str | None = None
        images: tuple[LineImage, ...] = ()
        drawn: dict[str, Any] = {}
        error: LineError | None = None
        for attempt in range(first, first + self._max_attempts):
            try:
                job = await self._ended_job(line, attempt)
                job_id = str(job["id"])
                error = _error_of(job)
                if error is None:
                    images = await self._fetch(line, job["result"]["images"])
                    drawn = {name: job["result"][name] for name in _DRAWN}
            except Refused as refusal:
                message = refusal.message.removeprefix(f"{refusal.field}: ")
                error = LineError(
                    code=refusal.code, message=message, field=refusal.field, status=refusal.status
                )
            except JobLost as lost:
                error = LineError(code="lost", message=f"the service lost it: {lost}")
            if error is None or error.code not in _PASSING:
                break
        return LineRecord(
            line=line.number,
            id=line.id,
            key=line.key,
            state="finished" if error is None else "failed",
            attempts=attempt,
            request=line.request,
            job=job_id,
            images=images,
            drawn=drawn,
            error=error,
        )

    async def _ended_job(self, line: PromptLine, attempt: int) -> dict[str, Any]:
        job = await self._client.submit(line.request, line.idempotency_key(attempt))
        while job["state"] not in ("finished", "failed", "cancelled"):
            left_s = job.get("eta_s")
            pause_s = MAX_POLL_S / 4 if left_s is None else left_s / 4
            await asyncio.sleep(min(max(pause_s, MIN_POLL_S), MAX_POLL_S))
            job = await self._client.job(job["id"])
        return job

    async def _fetch(self, line: PromptLine, images: Sequence[dict[str, Any]]) -> tuple[LineImage, ...]:
        media_type = f"image/{line.request.get('format', 'png')}"
        written = []
        for index, image in enumerate(images):
            data, name = await self._client.picture(image["url"]), line.picture_name(index)
            await self._output.put_picture(name, data, media_type)
            written.append(
                LineImage(
                    file=name,
                    seed=image["seed"],
                    width=image["width"],
                    height=image["height"],
                    bytes=len(data),
                    sha256=hashlib.sha256(data).hexdigest(),
                )
            )
        return tuple(written)


def _error_of(job: dict[str, Any]) -> LineError | None:
    """Why a job that has ended gave no picture; None where it did."""
    if job["state"] == "finished":
        return None
    if job["state"] == "cancelled":
        return LineError(code="cancelled", message="somebody cancelled the job")
    error = job.get("error") or {"code": "internal", "message": "the job failed"}
    field = error.get("field")
    return LineError(
        code=error["code"], message=str(error["message"]).removeprefix(f"{field}: "), field=field
    )
