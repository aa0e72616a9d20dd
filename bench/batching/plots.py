"""The pictures: one PNG per workload."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")  # before pyplot: no display is needed

from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from bench.batching.long_among_short import ALLOWED_RATIO
from bench.batching.results import Results, SweepResult
from bench.batching.search import carried

COLOURS = {"serial": "#7f7f7f", "greedy": "#e69f00", "windowed": "#0072b2", "engine": "#d62728"}
MARKERS = {"serial": "s", "greedy": "^", "windowed": "v", "engine": "o"}
_DPI = 130
_NOTE: dict[str, Any] = {"ha": "right", "fontsize": 8, "color": "#555555"}


def draw(results: Results, folder: Path) -> list[Path]:
    """Writes the plots of all there is and gives their paths."""
    written = []
    device = f"{results.description['device']}, {results.description['dtype'].removeprefix('torch.')}"
    for name, sweep in results.sweeps.items():
        if sweep.points:
            written.append(_draw_sweep(sweep, f"{sweep.title} ({device})", folder / f"{name}.png"))
    if results.fairness:
        written.append(_draw_fairness(results, device, folder / "long-among-short.png"))
    return written


def _draw_sweep(sweep: SweepResult, title: str, file: Path) -> Path:
    figure = pyplot.figure(figsize=(14, 4.8))
    grid = figure.add_gridspec(1, 3, width_ratios=(1, 1, 0.75))
    means = figure.add_subplot(grid[0])
    p99s = figure.add_subplot(grid[1], sharex=means, sharey=means)
    for server in COLOURS:
        points = sweep.of(server)
        if not points:
            continue
        style = {"color": COLOURS[server], "marker": MARKERS[server], "markersize": 5, "label": server}
        loads = [point.load for point in points]
        for axes, values in (
            (means, [point.mean_s for point in points]),
            (p99s, [point.p99_s for point in points]),
        ):
            axes.plot(loads, values, **style)
            for point, value in zip(points, values, strict=True):
                if point.given_up:
                    axes.annotate(
                        "",
                        (point.load, value),
                        xytext=(0, 14),
                        textcoords="offset points",
                        arrowprops={"arrowstyle": "<-", "color": COLOURS[server]},
                    )
    p99s.axhline(sweep.target_s, color="black", linewidth=1, linestyle="--")
    p99s.annotate(
        f"target {sweep.target_s:.2f} s",
        (0.01, sweep.target_s),
        xytext=(0, 3),
        xycoords=("axes fraction", "data"),
        textcoords="offset points",
    )
    means.set_title("mean latency, s")
    p99s.set_title("99th percentile of latency, s")
    for axes in (means, p99s):
        _log_scale(axes)
        axes.margins(y=0.12)
        axes.set_xlabel(f"load (1 = {sweep.capacity_per_s:.3g} requests/s, all that serial can draw)")
    means.legend(frameon=False)
    _draw_rates(figure.add_subplot(grid[2]), sweep)
    figure.suptitle(title)
    figure.text(
        0.99, 0.005, f"{sweep.requests} requests a point; an arrow: given up there, still rising", **_NOTE
    )
    figure.tight_layout(rect=(0, 0.03, 1, 1))
    figure.savefig(file, dpi=_DPI)
    pyplot.close(figure)
    return file


def _draw_rates(axes: Axes, sweep: SweepResult) -> None:
    names = [name for name in COLOURS if sweep.of(name)]
    found = {name: carried(sweep.of(name), sweep.target_s) for name in names}
    rates = [found[name].load * sweep.capacity_per_s for name in names]
    bars = axes.barh(names, rates, color=[COLOURS[name] for name in names], height=0.6)
    axes.bar_label(
        bars,
        [f"{rate:.3g}{'+' if found[name].at_least else ''}" for name, rate in zip(names, rates, strict=True)],
        padding=3,
    )
    axes.invert_yaxis()
    axes.margins(x=0.18)
    axes.set_title("requests/s within the target")
    axes.spines[["top", "right"]].set_visible(False)


def _log_scale(axes: Axes) -> None:
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_axisbelow(True)
    axes.grid(True, which="major", color="#e5e5e5", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)


def _draw_fairness(results: Results, device: str, file: Path) -> Path:
    figure, axes = pyplot.subplots(figsize=(8, 4.2))
    names = list(results.fairness)
    for place, name in enumerate(names):
        figures = results.fairness[name]
        ratios = [latency / figures.solo_s for latency in figures.short_s]
        spread = [place + 0.24 * (index / max(1, len(ratios) - 1) - 0.5) for index in range(len(ratios))]
        axes.scatter(spread, ratios, color=COLOURS[name], s=18, alpha=0.8)
        axes.hlines(statistics.median(ratios), place - 0.22, place + 0.22, color=COLOURS[name], linewidth=2)
        bound = figures.bound_s / figures.solo_s
        axes.hlines(bound, place - 0.32, place + 0.32, color="black", linewidth=1, linestyle="--")
    axes.set_xticks(range(len(names)), names)
    axes.set_ylabel("latency over the time alone")
    _log_scale(axes)
    axes.set_title(f"A short request while a long one is drawn ({device})")
    figure.text(
        0.99,
        0.005,
        f"a dot: one request; a bar: the median; dashed: {ALLOWED_RATIO} times alone plus one step of the long one",
        **_NOTE,
    )
    figure.tight_layout(rect=(0, 0.02, 1, 1))
    figure.savefig(file, dpi=_DPI)
    pyplot.close(figure)
    return file
