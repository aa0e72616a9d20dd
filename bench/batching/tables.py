"""The console's tables."""

from __future__ import annotations

import statistics

from rich.console import Console
from rich.table import Table

from bench.batching.latency import bootstrap_interval
from bench.batching.long_among_short import ALLOWED_RATIO
from bench.batching.results import Results, SweepResult
from bench.batching.search import crossing


def show(results: Results, console: Console) -> None:
    """Prints everything there is."""
    console.print(results.description)
    for name, sweep in results.sweeps.items():
        _show_sweep(name, sweep, console)
    if results.fairness:
        _show_fairness(results, console)
    if results.overhead:
        overhead = results.overhead
        engine = results.fairness.get("engine")
        share = ""
        if engine and engine.step_s:
            share = f"; {overhead.tick_us / 1e6 / engine.step_s:.2%} of a step here ({engine.step_s:.3f} s)"
        console.print(
            f"\n[bold]The engine's own time[/bold]: {overhead.tick_us:.0f} us a tick "
            f"({overhead.pictures} pictures in flight, {overhead.max_rows} rows a step){share}"
        )


def rates(sweep: SweepResult) -> dict[str, float | None]:
    """Requests per second at the p99 target, by server; None where no load kept it."""
    found = {}
    for server in sweep.settings:
        load = crossing(sweep.of(server), sweep.target_s)
        found[server] = None if load is None else load * sweep.capacity_per_s
    return found


def _show_sweep(name: str, sweep: SweepResult, console: Console) -> None:
    console.print(
        f"\n[bold]{name}[/bold]: {sweep.title}; {sweep.requests} requests a point; "
        f"p99 target {sweep.target_s:.2f} s; load 1 is {sweep.capacity_per_s:.3g}/s"
    )
    found = rates(sweep)
    best_other = max((rate for server, rate in found.items() if rate and server != "engine"), default=None)
    table = Table("server", "setting", "requests/s at p99 target", "load", "over serial", box=None)
    for server in ("serial", "greedy", "windowed", "engine"):
        rate = found[server]
        serial = found["serial"]
        table.add_row(
            server,
            sweep.settings[server],
            f"{rate:.2f}" if rate else "none",
            f"{rate / sweep.capacity_per_s:.2f}" if rate else "",
            f"{rate / serial:.2f}" if rate and serial else "",
        )
    console.print(table)
    engine = found["engine"]
    if engine and best_other:
        console.print(f"engine over the best of the others: [bold]{engine / best_other:.2f}[/bold]")
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
        "\n[bold]long-among-short[/bold]: 4 steps unguided, arriving while 50 steps guided are drawn"
    )
    table = Table(
        "server",
        "short alone s",
        f"bound s ({ALLOWED_RATIO} x + a step)",
        "median s",
        "worst s",
        "median / alone",
        "worst / alone",
        "long s (alone)",
        "all drawn after s",
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
