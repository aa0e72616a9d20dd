"""``imagine batch``: a file of prompts, drawn through a running service."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from serve_app.cli.generate import parsed_size
from serve_app.cli.options import (
    AsJson,
    fail,
    key_of,
    leave,
    progress_console,
    service_address,
    tell_error,
)
from serve_app.errors import ConfigurationError, ImagineError, InvalidRequest

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from serve_app.batch import LineRecord, Summary

BAD_INPUT = 2
PLAIN_LINES_EVERY_S = 5.0
"""Where no terminal shows a bar, a line at most this often, and one for each failure."""


def batch(
    prompts: Annotated[
        str,
        typer.Argument(
            help="Text with a prompt per line, or JSON lines with the fields of POST /api/jobs and an `id` of "
            "your own; - for standard input."
        ),
    ],
    output: Annotated[
        str,
        typer.Option(
            "-o", "--output", help="Folder, or url such as s3://bucket/prefix, for pictures and manifest."
        ),
    ],
    url: Annotated[
        str,
        typer.Option(envvar="IMAGINE_URL", help="The service's address, with its path prefix if it has one."),
    ] = "http://127.0.0.1:8000",
    negative_prompt: Annotated[
        str | None, typer.Option("--negative-prompt", "-n", help="What to avoid.")
    ] = None,
    steps: Annotated[int | None, typer.Option("--steps", help="num_inference_steps.")] = None,
    guidance: Annotated[float | None, typer.Option("--guidance", help="guidance_scale.")] = None,
    size: Annotated[str | None, typer.Option("--size", help="WIDTHxHEIGHT in pixels.")] = None,
    number: Annotated[int | None, typer.Option("--number", help="Pictures of each line.")] = None,
    image_format: Annotated[str | None, typer.Option("--format", help="png, webp or jpeg.")] = None,
    scheduler: Annotated[str | None, typer.Option("--scheduler", help="Noise scheduler.")] = None,
    model: Annotated[str | None, typer.Option("--model", help="Model that must draw.")] = None,
    pool: Annotated[str | None, typer.Option("--pool", help="Pool that must draw.")] = None,
    priority: Annotated[
        str, typer.Option("--priority", help="batch goes after everybody's interactive requests.")
    ] = "batch",
    concurrency: Annotated[int, typer.Option(min=1, max=1000, help="Lines handed in at a time.")] = 16,
    attempts: Annotated[
        int, typer.Option(min=1, help="Tries at a line whose drawing failed by no fault of its own.")
    ] = 3,
    patience_s: Annotated[
        float,
        typer.Option("--patience", min=0.0, help="Seconds without a service to wait before the run ends."),
    ] = 900.0,
    api_key: Annotated[
        str | None, typer.Option(envvar="IMAGINE_API_KEY", help="Sent as a bearer token.", show_envvar=True)
    ] = None,
    store_option: Annotated[
        list[str] | None,
        typer.Option(help="NAME=VALUE for the object store, such as endpoint=http://minio:9000; repeatable."),
    ] = None,
    jsonl: Annotated[
        bool | None,
        typer.Option("--jsonl/--text", help="Format of the file; told by its first line when absent."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Draw a file of prompts through a running service, into a folder or an object store.

    Run it again to draw what is missing: lines that are drawn are not drawn again, edited ones are. Options such as
    --steps hold for lines that do not say otherwise. Exit status: 0 all lines are drawn, 1 some are not, 2 the file or
    an option is wrong, 130 or 143 stopped by a signal.
    """
    import httpx

    from serve_app.batch import (
        BatchOutput,
        BatchRun,
        JobsClient,
        PromptsInvalid,
        ServiceUnreachable,
        read_prompts,
    )

    try:
        width, height = parsed_size(size)
        fields = {
            "negative_prompt": negative_prompt,
            "num_inference_steps": steps,
            "guidance_scale": guidance,
            "width": width,
            "height": height,
            "num_images": number,
            "format": image_format,
            "scheduler": scheduler,
            "model": model,
            "pool": pool,
            "priority": priority,
        }
        defaults = {name: value for name, value in fields.items() if value is not None}
        lines = read_prompts(_text(prompts), jsonl=jsonl, defaults=defaults)
        kept = BatchOutput(output, _pairs(store_option or []))
        base_url = service_address(url)
        api_key = key_of(api_key)
    except (PromptsInvalid, InvalidRequest, ConfigurationError) as error:
        fail(error, as_json=as_json, status=BAD_INPUT)
    observer = _BarObserver() if progress_console.is_terminal else _LineObserver()

    async def run() -> Summary:
        limits = httpx.Limits(max_connections=concurrency, max_keepalive_connections=concurrency)
        async with httpx.AsyncClient(base_url=base_url, timeout=_timeouts(), limits=limits) as http:
            client = JobsClient(http, patience_s=patience_s, api_key=api_key)
            running = BatchRun(
                lines, client, kept, concurrency=concurrency, max_attempts=attempts, observer=observer
            )
            task = asyncio.ensure_future(running.run())
            stopped = _stopped_by(task)
            try:
                return await task
            except (ServiceUnreachable, asyncio.CancelledError) as error:
                # What was drawn is kept and told; the status says that it is not all.
                observer.close()
                if isinstance(error, ServiceUnreachable):
                    progress_console.print(f"[bold red]imagine:[/] {error}", soft_wrap=True, highlight=False)
                else:
                    status.append(128 + stopped[0] if stopped else 1)
                return running.summary

    status: list[int] = []
    try:
        summary = asyncio.run(run())
    except ImagineError as error:
        observer.close()
        tell_error(error, as_json=as_json)
        leave(1)
    observer.close()
    _tell(summary, output, as_json=as_json)
    leave(status[0] if status else 0 if summary.complete else 1)


def _timeouts() -> Any:
    from serve_app.batch.client import TIMEOUTS

    return TIMEOUTS


def _stopped_by(task: asyncio.Task[Any]) -> list[int]:
    """Lets the first Ctrl-C or SIGTERM end `task`, so that the manifest is written; the list gets the signal."""
    got: list[int] = []
    loop = asyncio.get_running_loop()

    def stop(number: int) -> None:
        got.append(number)
        progress_console.print("Stopping; what is drawn is kept, and the next run goes on from here.")
        task.cancel()
        for known in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(known)

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop, number)
    return got


def _text(prompts: str) -> str:
    """The prompts file's content.

    Raises:
        ConfigurationError: It cannot be read.
    """
    try:
        data = sys.stdin.buffer.read() if prompts == "-" else Path(prompts).read_bytes()
        return data.decode("utf-8-sig")
    except OSError as error:
        raise ConfigurationError(f"cannot read {prompts} ({error.strerror})") from None
    except UnicodeDecodeError:
        raise ConfigurationError(f"{prompts} is not UTF-8") from None


def _pairs(options: list[str]) -> dict[str, str]:
    """``NAME=VALUE`` each.

    Raises:
        ConfigurationError: One is not of that form.
    """
    for option in options:
        if not option.partition("=")[1]:
            raise ConfigurationError(f"--store-option {option!r} is not NAME=VALUE")
    return {name: value for name, _, value in (option.partition("=") for option in options)}


def _tell(summary: Summary, output: str, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps({**asdict(summary), "output": output}))
        return
    parts = [f"{summary.drawn} drawn"]
    parts += [f"{summary.already} drawn before"] if summary.already else []
    parts += [f"{summary.failed} failed"] if summary.failed else []
    parts += [f"{summary.missing} not drawn yet"] if summary.missing else []
    cost = f", cost {summary.cost:.6f}" if summary.cost else ""
    print(f"{summary.lines} lines: {', '.join(parts)}; {summary.images} pictures{cost}. Manifest in {output}")


def _failure(record: LineRecord) -> str:
    assert record.error is not None
    at = f"{record.error.field}: " if record.error.field else ""
    return f"line {record.line}{f' ({record.id})' if record.id else ''} failed: {at}{record.error.message}"


class _BarObserver:
    """A bar in a terminal."""

    def __init__(self) -> None:
        self._progress: Progress | None = None
        self._task: TaskID | None = None
        self._failed = 0

    def on_start(self, lines: int, already: int) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self._progress = Progress(
            TextColumn("Drawing"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.description}"),
            TimeRemainingColumn(),
            console=progress_console,
            transient=True,
        )
        self._task = self._progress.add_task("", total=lines, completed=already)
        self._progress.start()

    def on_line(self, record: LineRecord) -> None:
        assert self._progress is not None
        assert self._task is not None
        if record.error is not None:
            self._failed += 1
            self._progress.console.print(_failure(record), markup=False, highlight=False, soft_wrap=True)
        description = f"{self._failed} failed" if self._failed else ""
        self._progress.update(self._task, advance=1, description=description)

    def close(self) -> None:
        if self._progress is not None:
            self._progress.stop()


class _LineObserver:
    """Plain lines where nobody watches."""

    def __init__(self) -> None:
        self._lines = self._done = 0
        self._told_at = time.monotonic()

    def on_start(self, lines: int, already: int) -> None:
        self._lines, self._done = lines, already
        print(f"{lines} lines, {already} of them drawn before", file=sys.stderr, flush=True)

    def on_line(self, record: LineRecord) -> None:
        self._done += 1
        if record.error is not None:
            print(_failure(record), file=sys.stderr, flush=True)
        if time.monotonic() - self._told_at >= PLAIN_LINES_EVERY_S:
            self._told_at = time.monotonic()
            print(f"{self._done} of {self._lines} lines done", file=sys.stderr, flush=True)

    def close(self) -> None:
        return
