"""One subject in a process of its own: ``python -m bench.cuda.measuring FILE``, started by `bench.cuda.__main__`."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import torch

from bench.cuda.plan import OURS, Subject, Task, from_json
from bench.cuda.results import Figures, Results
from bench.cuda.sides import Ours, Side, Stock, median
from serve_app.errors import ConfigurationError

LOADING = "load"
_SEED = 11


def run(order: dict[str, Any]) -> None:
    """Does the tasks of an order that are not done, until its deadline.

    Args:
        order: As `bench.cuda.__main__` writes it.
    """
    subject, tasks = from_json(order)
    results = Results(Path(order["folder"]), order["options"])
    device = torch.device(order["device"])
    began = time.perf_counter()
    try:
        side = _load(subject, tasks, order["model"], device)
    except ConfigurationError as error:
        # An option that this machine cannot have is no fault; that the defaults cannot be had is one.
        for task in tasks:
            results.put(subject.name, task.key, {"skipped" if subject.cuda else "error": str(error)})
        return
    except Exception as error:  # noqa: BLE001 - a subject may fail in any way; the others are measured all the same
        for task in tasks:
            results.put(subject.name, task.key, {"error": f"loading: {_short(error)}"})
        return
    results.put(subject.name, LOADING, {"load_s": round(time.perf_counter() - began, 1), **_memory(device)})
    for task in tasks:
        if time.time() > order["deadline"]:
            return
        if results.get(subject.name, task.key) is not None:
            continue
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        try:
            figures = _measure(side, subject, task, results, order["repeats"], device)
        except Exception as error:  # noqa: BLE001 - as above
            figures = {"error": _short(error)}
        results.put(subject.name, task.key, figures)


def _load(subject: Subject, tasks: list[Task], model: str, device: torch.device) -> Side:
    if subject.kind != OURS:
        return Stock(subject, model, device)
    sides = sorted({task.side for task in tasks})
    rows = sorted({task.rows for task in tasks})
    cuda = {"warm_up_rows": rows, **subject.cuda}
    return Ours(
        Subject(subject.name, subject.kind, cuda, subject.dtype),
        model,
        device,
        max(2, *rows),
        [(side, side) for side in sides],
    )


def _measure(
    side: Side, subject: Subject, task: Task, results: Results, repeats: int, device: torch.device
) -> Figures:
    pictures = task.rows // (2 if task.guided else 1)
    if task.kind in ("step", "decode"):
        if not isinstance(side, Ours):
            raise ValueError(f"{subject.name} has no single {task.kind}: diffusers draws whole pictures only")
        if task.kind == "decode":
            return {"decode_ms": median(side.decode_ms(task, repeats)), **_memory(device)}
        times = side.step_ms(task, repeats)
        return {"step_ms": median(times), "fastest_ms": round(min(times), 3), **_memory(device)}
    if task.kind == "latents":
        latents, picture = side.draw(task, ["a lighthouse in a storm"], _SEED)
        results.put_latents(subject.name, task.key, latents, picture)
        return {"kept": 1}
    seconds = []
    warm_ups = 3 if task.kind == "picture" else 1
    turns = max(2, repeats // 2) if task.kind == "picture" else max(1, repeats // 5)
    for turn in range(warm_ups + turns):
        # Texts never seen before, so that no cache of their embeddings helps.
        prompts = [f"a lighthouse, {task.key}, {turn}, {index}" for index in range(pictures)]
        start = time.perf_counter()
        side.draw(task, prompts, seed=turn)
        seconds.append(time.perf_counter() - start)
    timed = sorted(seconds[warm_ups:])
    middle = timed[len(timed) // 2]
    figures: Figures = {
        "picture_s": round(middle / pictures, 4),
        "first_s": round(seconds[0], 2),
        **_memory(device),
    }
    if task.kind == "throughput":
        figures["pictures_per_s"] = round(pictures / middle, 3)
    return figures


def _memory(device: torch.device) -> Figures:
    if device.type == "cuda":
        # Reserved: what a recorded call uses inside is not counted as allocated.
        return {"peak_gb": round(torch.cuda.max_memory_reserved() / 1e9, 2)}
    return {"rss_gb": round(psutil.Process().memory_info().rss / 1e9, 2)}


def _short(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:300] if lines else ''}"


if __name__ == "__main__":
    run(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
