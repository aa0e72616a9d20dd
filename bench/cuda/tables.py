"""The console's tables, what they conclude, and the aims."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from rich.console import Console
from rich.table import Table

from bench.cuda.measuring import LOADING
from bench.cuda.plan import (
    COMPILED,
    FASTEST,
    OURS,
    PLAIN,
    REFERENCE,
    SECTIONS,
    TUNED,
    Scale,
    Subject,
    Task,
    compiled_rows,
    plan,
)
from bench.cuda.results import Results

MARGIN = 1.5
"""Our error may be this many times diffusers' own in the same type: with random weights and few pictures, chance."""

LEAST_ERROR = 1e-3
"""Relative errors below are as good as none, whoever's is larger."""

MOST_ERROR = 0.1
"""Where diffusers' own error is larger it is no measure: it drew another picture."""


def correct(results: Results, scale: Scale) -> list[tuple[str, float, float, bool]]:
    """For every task of the section ``correctness`` that all three did: (task, our error, stock's, whether it is well).

    Errors are of the last latents, relative to the float32 reference's (L2).
    """
    rows = []
    for task in _tasks(OURS, ("correctness",), scale):
        kept = [results.latents(name, task.key) for name in (OURS, PLAIN, REFERENCE)]
        if any(one is None for one in kept):
            continue
        ours, plain, right = (one[0] for one in kept if one is not None)
        errors = [float(np.linalg.norm(one - right) / np.linalg.norm(right)) for one in (ours, plain)]
        # Not "<=" turned round, which NaN would pass.
        rows.append(
            (
                task.key,
                errors[0],
                errors[1],
                errors[0] <= max(LEAST_ERROR, MARGIN * min(errors[1], MOST_ERROR)),
            )
        )
    return rows


def show(results: Results, scale: Scale, console: Console, ablations: Sequence[Subject]) -> bool:
    """Prints everything there is.

    Returns:
        Whether nothing failed and nothing was wrong.
    """
    console.print(results.description)
    well = True
    rows = correct(results, scale)
    if rows:
        table = Table("correctness", "our error", "diffusers' error", "", box=None)
        for key, ours, plain, right in rows:
            table.add_row(
                key.removeprefix("latents "), f"{ours:.2e}", f"{plain:.2e}", "" if right else "WORSE"
            )
            well = well and right
        console.print(table)
    _show_pictures(results, scale, console)
    _show_rows(results, scale, console)
    _show_ablation(results, scale, console, ablations)
    failed = False
    for name in results.subjects():
        told = set()
        for key in _keys(scale, name, ablations):
            figures = results.get(name, key) or {}
            if "error" in figures:
                failed = True
                console.print(f"[red]{name}, {key}: {figures['error']}[/red]", soft_wrap=True)
            elif "skipped" in figures and figures["skipped"] not in told:
                told.add(figures["skipped"])
                console.print(f"[yellow]{name} was left out: {figures['skipped']}[/yellow]", soft_wrap=True)
    return well and not failed


def _tasks(name: str, sections: Sequence[str], scale: Scale, ablations: Sequence[Subject] = ()) -> list[Task]:
    return [
        task
        for subject, tasks in plan(sections, scale, compiled=True, ablations=ablations)
        if subject.name == name
        for task in tasks
    ]


def _keys(scale: Scale, name: str, ablations: Sequence[Subject]) -> Iterable[str]:
    return [task.key for task in _tasks(name, SECTIONS, scale, ablations)]


def _figure(results: Results, name: str, task: Task, figure: str) -> float | None:
    figures = results.get(name, task.key) or {}
    value = figures.get(figure)
    return float(value) if isinstance(value, (int, float)) else None


def _text(value: float | None, digits: int = 3) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def _show_pictures(results: Results, scale: Scale, console: Console) -> None:
    table = Table("one picture, seconds", OURS, COMPILED, PLAIN, TUNED, "ours compiled / tuned", box=None)
    for task in [one for one in _tasks(OURS, ("pictures",), scale) if one.kind == "picture"]:
        seconds = {name: _figure(results, name, task, "picture_s") for name in (OURS, COMPILED, PLAIN, TUNED)}
        if any(value is not None for value in seconds.values()):
            ours, tuned = seconds[COMPILED], seconds[TUNED]
            ratio = ours / tuned if ours and tuned else None
            table.add_row(
                task.key.removeprefix("picture "), *(_text(one) for one in seconds.values()), _text(ratio, 2)
            )
    if table.row_count:
        console.print(table)


def _show_rows(results: Results, scale: Scale, console: Console) -> None:
    table = Table("rows together", OURS, COMPILED, PLAIN, FASTEST.name, "peak GB (ours)", box=None)
    for task in _tasks(OURS, ("rows",), scale):
        figure = "pictures_per_s" if task.kind == "throughput" else "step_ms"
        names = (OURS, compiled_rows(task.rows), PLAIN, FASTEST.name)
        values = [_figure(results, name, task, figure) for name in names]
        if any(value is not None for value in values):
            memory = _figure(results, OURS, task, "peak_gb")
            unit = "pictures/s" if task.kind == "throughput" else "ms"
            table.add_row(f"{task.key}, {unit}", *(_text(value) for value in values), _text(memory, 1))
    if table.row_count:
        console.print(table)


def _show_ablation(results: Results, scale: Scale, console: Console, ablations: Sequence[Subject]) -> None:
    tasks = _tasks(OURS, ("ablation",), scale)
    image = next(task for task in tasks if task.kind == "latents")
    shown = [task for task in tasks if task.kind in ("step", "decode", "picture")]
    base = results.latents(OURS, image.key)
    if base is None:
        return
    heads = [f"{task.key}, {'s' if task.kind == 'picture' else 'ms'}" for task in shown]
    table = Table("option", *heads, "load s", "picture: mean, most of 255", box=None)
    for name in [OURS, COMPILED, *(subject.name for subject in ablations)]:
        values = [
            _figure(results, name, task, f"{task.kind}_{'s' if task.kind == 'picture' else 'ms'}")
            for task in shown
        ]
        if all(value is None for value in values):
            continue
        kept = results.latents(name, image.key)
        apart = ""
        if kept is not None:
            difference = np.abs(kept[1] - base[1])
            apart = f"{difference.mean():.2f}, {difference.max()}"
        load_s = (results.get(name, LOADING) or {}).get("load_s", "")
        table.add_row(name, *(_text(value) for value in values), str(load_s), apart)
    console.print(table)


def show_aims(results: Results, scale: Scale, console: Console) -> None:
    """What an H200 should reach with a full-size model, and what was measured: as it is, and with `FASTEST`."""
    guided = Task("picture", scale.large, scale.steps, 2, guided=True)
    few = Task("picture", scale.small, scale.few_steps)
    together = [task for task in _tasks(OURS, ("rows",), scale) if task.kind == "throughput"]
    table = Table("aim on an H200", "at", "same pictures", "", FASTEST.name, "", box=None)
    for title, bound, tasks, figure in (
        ("30 steps guided 1024x1024, s", 0.70, [guided], "picture_s"),
        ("4 steps 512x512, s", 0.025, [few], "picture_s"),
        ("20 steps guided 1024x1024, pictures/s", 2.4, together, "pictures_per_s"),
    ):
        most = figure == "pictures_per_s"
        cells: list[str] = []
        for names in ((OURS, COMPILED), (FASTEST.name,)):
            known = [
                value
                for task in tasks
                for name in (*names, *([compiled_rows(task.rows)] if most and OURS in names else []))
                if (value := _figure(results, name, task, figure)) is not None
            ]
            best = None if not known else max(known) if most else min(known)
            reached = best is not None and (best > bound if most else best <= bound)
            cells += [_text(best), "" if best is None else "reached" if reached else "missed"]
        if any(cells):
            table.add_row(title, f"{'>' if most else '<='} {bound}", *cells)
    if table.row_count:
        console.print(table)
