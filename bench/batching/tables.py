"""The console's tables."""

from __future__ import annotations

import statistics

from rich.console import Console
from rich.table import Table

from bench.batching.latency import bootstrap_interval
from bench.batching.long_among_short import ALLOWED_RATIO
from bench.batching.results import SERVERS, Results, SweepResult
from bench.batching.search import carried

_SERIAL_AT_MOST = 1.3  # above 1 only because a short trace ends before the queue is long


def show(results: Results, console: Console) -> None:
    """Prints everything there is."""
    console.print(results.description)
    for name, sweep in results.sweeps.items():
        _show_sweep(name, sweep, console)
    if results.fairness:
        _show_fairness(results, console)
    if results.overhead:
        own_us = results.overhead["listened_median_us"] - results.overhead["pipeline_median_us"]
        engine = results.fairness.get("engine")
        share = ""
        if engine and engine.step_s:
            share = f"; {own_us / 1e6 / engine.step_s:.2%} of a step here ({engine.step_s:.3f} s)"
        console.print(
            f"\n[bold]The engine's own time[/bold]: {own_us:.0f} us a tick "
            f"({results.overhead['pictures']} pictures in flight, all in every step){share}"
        )


def _show_sweep(name: str, sweep: SweepResult, console: Console) -> None:
    console.print(
        f"\n[bold]{name}[/bold]: {sweep.title}; {sweep.requests} requests a point; "
        f"p99 target {sweep.target_s:.2f} s; load 1 is {sweep.capacity_per_s:.3g}/s"
    )
    found = {name: carried(points, sweep.target_s) for name in SERVERS if (points := sweep.of(name))}
    serial = found["serial"].load if "serial" in found else 0.0
    table = Table("server", "requests/s at p99 target", "load", "over serial", "setting", box=None)
    for server in found:
        load, at_least = found[server].load, found[server].at_least
        table.add_row(
            server,
            f"{'at least ' if at_least else ''}{load * sweep.capacity_per_s:.3g}" if load else "none",
            f"{load:.2f}",
            f"{load / serial:.2f}" if serial else "",
            sweep.settings[server],
        )
    console.print(table)
    others = {server: what.load for server, what in found.items() if server != "engine" and what.load}
    if others and "engine" in found:
        best = max(others, key=lambda server: others[server])
        ratio = found["engine"].load / others[best]
        console.print(f"engine over the best of the others ({best}): [bold]{ratio:.2f}[/bold]")
    if serial > _SERIAL_AT_MOST:
        console.print(
            "[yellow]serial drew more than it could when it was timed: the machine was not quiet, "
            "or --requests is too small[/yellow]"
        )
    latencies = Table(
        "load", "server", "mean s", "p99 s", "90 % interval of p99", "requests/s drawn", box=None
    )
    for point in sorted(sweep.points, key=lambda point: point.load):
        low, high = bootstrap_interval(point.latencies_s)
        latencies.add_row(
            f"{point.load:.2f}",
            point.server,
            f"{point.mean_s:.2f}",
            f"{'> ' if point.given_up else ''}{point.p99_s:.2f}",
            "given up" if point.given_up else f"{low:.2f} .. {high:.2f}",
            "" if point.given_up else f"{len(point.latencies_s) / point.elapsed_s:.2f}",
        )
    console.print(latencies)


def _show_fairness(results: Results, console: Console) -> None:
    console.print(
        "\n[bold]long-among-short[/bold]: 4 steps unguided, arriving while 50 steps guided are drawn; "
        f"seconds; bound: {ALLOWED_RATIO} x alone + one step of the long one"
    )
    table = Table(
        "server",
        "alone",
        "bound",
        "median",
        "worst",
        "median/alone",
        "worst/alone",
        "long (alone)",
        "all drawn",
        box=None,
    )
    for server, figures in results.fairness.items():
        median, worst = statistics.median(figures.short_s), max(figures.short_s)
        table.add_row(
            server,
            f"{figures.solo_s:.3f}",
            f"{figures.bound_s:.3f}",
            f"{median:.3f}",
            f"{worst:.3f}",
            f"{median / figures.solo_s:.2f}",
            f"{worst / figures.solo_s:.2f}",
            f"{statistics.median(figures.long_s):.2f} ({figures.long_solo_s:.2f})",
            f"{statistics.median(figures.busy_s):.2f}",
        )
    console.print(table)
