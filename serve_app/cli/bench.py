"""``imagine bench``: load on a running service, and how it bore it."""

from __future__ import annotations

import asyncio
import json
import math
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from serve_app.cli.generate import parsed_size
from serve_app.cli.options import AsJson, fail, key_of, progress_console, service_address
from serve_app.errors import ConfigurationError, ImagineError


def bench(
    url: Annotated[
        str, typer.Argument(envvar="IMAGINE_URL", help="The service's address, with its path prefix.")
    ] = "http://127.0.0.1:8000",
    rate: Annotated[float, typer.Option("--rate", help="Requests per second, on average.")] = 1.0,
    duration_s: Annotated[float, typer.Option("--duration", help="Seconds of arrivals.")] = 30.0,
    steps: Annotated[int | None, typer.Option("--steps", help="num_inference_steps.")] = None,
    guidance: Annotated[float | None, typer.Option("--guidance", help="guidance_scale.")] = None,
    size: Annotated[str | None, typer.Option("--size", help="WIDTHxHEIGHT in pixels.")] = None,
    model: Annotated[str | None, typer.Option("--model", help="Model that must draw.")] = None,
    pool: Annotated[str | None, typer.Option("--pool", help="Pool that must draw.")] = None,
    prompts: Annotated[
        Path | None, typer.Option("--prompts", help="Text file with a prompt per line, taken in turn.")
    ] = None,
    timeout_s: Annotated[float, typer.Option("--timeout", help="Seconds to wait for one answer.")] = 600.0,
    seed: Annotated[int, typer.Option("--seed", help="The same seed is the same load.")] = 0,
    api_key: Annotated[
        str | None, typer.Option(envvar="IMAGINE_API_KEY", help="Sent as a bearer token.")
    ] = None,
    plot: Annotated[
        Path | None, typer.Option("--plot", help="SVG file with every request's latency over time.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Put load on a running service: pictures asked for at random moments (a Poisson process), whoever still waits.

    Latency counts from when a request was due. Exit status 0 when every request was answered or refused politely
    (429, 503), else 1.
    """
    import httpx

    from serve_app.load_test import PROMPTS, Load, run, summary

    try:
        if not (0 < rate < math.inf and 0 < duration_s < math.inf):
            raise ConfigurationError("--rate and --duration must be above 0 and finite")
        if plot is not None and not plot.parent.is_dir():
            raise ConfigurationError(f"--plot: there is no folder {plot.parent}")
        width, height = parsed_size(size)
        fields: dict[str, str | int | float | None] = {
            "num_inference_steps": steps,
            "guidance_scale": guidance,
            "width": width,
            "height": height,
            "model": model,
            "pool": pool,
        }
        query = {name: value for name, value in fields.items() if value is not None}
        load = Load(rate, duration_s, query, _prompts(prompts) or PROMPTS, timeout_s, seed)
        base_url = service_address(url)
        api_key = key_of(api_key)
    except ImagineError as error:
        fail(error, as_json=as_json, status=2)
    headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}

    async def measured() -> list[Any]:
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
        async with httpx.AsyncClient(
            base_url=base_url, limits=limits, headers=headers, timeout=None
        ) as client:
            return await run(load, client)

    try:
        with progress_console.status(f"{rate:g} requests per second for {duration_s:g} s ..."):
            samples = asyncio.run(measured())
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
    figures = summary(load, samples)
    if as_json:
        print(json.dumps(figures))
    else:
        _tell(figures)
    if plot is not None:
        from serve_app.load_plot import plot as drawn

        try:
            plot.write_text(drawn(samples, f"{base_url} at {rate:g} requests/s"))
        except OSError as error:
            fail(ConfigurationError(f"cannot write {plot} ({error.strerror})"))
        progress_console.print(f"plot: {plot}", markup=False, highlight=False, soft_wrap=True)
    raise typer.Exit(1 if figures["failed"] else 0)


def _prompts(file: Path | None) -> list[str]:
    """Lines of the file.

    Raises:
        ConfigurationError: It cannot be read or is empty.
    """
    if file is None:
        return []
    try:
        # As of `imagine batch`: other characters that str.splitlines takes for an end of line may stand in a prompt.
        lines = [line.strip() for line in file.read_text(encoding="utf-8").split("\n") if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"cannot read {file} ({error})") from None
    if not lines:
        raise ConfigurationError(f"{file} is empty; write one prompt per line")
    return lines


def _tell(figures: dict[str, Any]) -> None:
    from rich.table import Table

    out = Console()
    out.print(
        f"{figures['requests']} requests: {figures['answered']} answered "
        f"({figures['answered_per_s']:g} per second), {figures['refused']} refused, {figures['failed']} failed"
    )
    if figures["failed"]:
        out.print(
            f"outcomes: {', '.join(f'{name} x {count}' for name, count in figures['outcomes'].items())}"
        )
    table = Table("seconds", "mean", "p50", "p90", "p95", "p99", "max", box=None)
    rows = (
        ("answered", "latency_s"),
        ("refused", "refusal_s"),
        ("Retry-After", "retry_after_s"),
        ("sent late", "sent_late_s"),
    )
    for title, key in rows:
        if figures[key]:
            table.add_row(title, *(f"{value:.3f}" for value in figures[key].values()))
    out.print(table)
    if figures["stage_mean_s"]:
        stages = ", ".join(f"{name} {seconds:.3f}" for name, seconds in figures["stage_mean_s"].items())
        out.print(f"mean seconds by stage: {stages}", soft_wrap=True)
    if figures["pools"]:
        out.print(f"pools: {', '.join(f'{name} {count}' for name, count in figures['pools'].items())}")
    if figures["cost"]:
        out.print(f"cost: {figures['cost']:.6f}")
    if figures["sent_late_s"] and figures["sent_late_s"]["p99"] > 0.1:
        out.print("[yellow]This machine sent requests late; it may be the bottleneck.[/]")
