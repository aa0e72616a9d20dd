"""One picture at a time: the service's pipeline against plain diffusers, in turns, in one process.

Run ``python -m bench.against_diffusers --help``. The baseline is stock `StableDiffusionXLPipeline` with the same
components, dtype and threads, so the ratio is what our step maths and bookkeeping cost or save.
"""

from __future__ import annotations

import json
import os
import resource
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.table import Table

from serve_app import accelerators
from serve_app.capabilities import PoolFacts
from serve_app.engine import Engine
from serve_app.local_drawing import draw_pictures
from serve_app.model_source import locate_model
from serve_app.request import RequestDraft
from serve_app.settings import BUNDLED_MODEL, PoolSettings

PROMPT = "a yellow star on a blue background"
CASES = ("512x512:4:0", "512x512:25:3", "1024x1024:4:0")


def main(
    model: Annotated[str, typer.Option(help="As for `imagine serve`.")] = BUNDLED_MODEL,
    dtype: Annotated[
        str, typer.Option(help="float32, bfloat16 or float16; the accelerator's own choice: auto.")
    ] = "auto",
    case: Annotated[
        list[str] | None, typer.Option(help="WIDTHxHEIGHT:steps:guidance; several times.")
    ] = None,
    repeats: Annotated[int, typer.Option(min=1, help="Timed pictures of each, after one that is not.")] = 5,
    num_threads: Annotated[int | None, typer.Option(min=1, help="CPU threads.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Time both, in turns, and print the medians and their ratio."""
    pool = PoolSettings.model_validate({"model": model, "dtype": dtype, "num_threads": num_threads})
    accelerator = accelerators.choose("auto")
    began = time.perf_counter()
    pipeline: Any = accelerator.load_pipeline(pool)
    load_s = time.perf_counter() - began
    facts = PoolFacts(pool.name, model, accelerator.name, pipeline.defaults, pipeline.capabilities)
    stock = _stock(pool, pipeline.dtype)
    threads = num_threads or len(os.sched_getaffinity(0))
    rows = []
    for text in case or CASES:
        size, steps, guidance = text.split(":")
        width, height = (int(side) for side in size.split("x"))
        draft = RequestDraft(
            PROMPT,
            width=width,
            height=height,
            num_inference_steps=int(steps),
            guidance_scale=float(guidance),
            seed=0,
        )
        ours, theirs = [], []
        for turn in range(repeats + 1):
            pair = (_seconds_ours(pipeline, draft, facts), _seconds_stock(stock, draft, threads))
            if turn:  # the first of each warms caches up
                ours.append(pair[0])
                theirs.append(pair[1])
        rows.append(
            {
                "case": text,
                "ours_s": round(statistics.median(ours), 3),
                "diffusers_s": round(statistics.median(theirs), 3),
                "ratio": round(statistics.median(o / t for o, t in zip(ours, theirs, strict=True)), 3),
            }
        )
    result = {
        "model": model,
        "accelerator": accelerator.name,
        "dtype": str(pipeline.dtype),
        "threads": threads,
        "load_s": round(load_s, 1),
        "peak_rss_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, 2),
        "cases": rows,
    }
    if as_json:
        print(json.dumps(result))
        return
    table = Table("picture:steps:guidance", "ours s", "diffusers s", "ours / diffusers", box=None)
    for row in rows:
        table.add_row(*(str(row[name]) for name in ("case", "ours_s", "diffusers_s", "ratio")))
    console = Console()
    console.print({name: value for name, value in result.items() if name != "cases"})
    console.print(table)


def _stock(pool: PoolSettings, dtype: torch.dtype) -> Any:
    """Plain diffusers with the same model."""
    from diffusers import StableDiffusionXLPipeline

    source = locate_model(pool)
    stock = StableDiffusionXLPipeline.from_pretrained(
        source.folder or pool.model, torch_dtype=dtype, add_watermarker=False
    )
    stock.set_progress_bar_config(disable=True)
    return stock


def _seconds_ours(pipeline: Any, draft: RequestDraft, facts: PoolFacts) -> float:
    """With an engine of its own, for the same reason as in `_seconds_stock`."""
    engine = Engine(pipeline)
    engine.start()
    try:
        began = time.perf_counter()
        draw_pictures(engine, draft.for_pool(facts), Console(quiet=True))
        return time.perf_counter() - began
    finally:
        engine.stop(600.0)


def _seconds_stock(stock: Any, draft: RequestDraft, threads: int) -> float:
    """On a thread of its own, whose OpenMP threads end with it: else the engine's would wait for each other asleep."""

    def timed() -> float:
        torch.set_num_threads(threads)
        began = time.perf_counter()
        stock(
            prompt=draft.prompt,
            width=draft.width,
            height=draft.height,
            num_inference_steps=draft.num_inference_steps,
            guidance_scale=draft.guidance_scale,
            generator=torch.Generator("cpu").manual_seed(draft.seed),
        )
        return time.perf_counter() - began

    with ThreadPoolExecutor(1) as thread:
        return thread.submit(timed).result()


if __name__ == "__main__":
    typer.run(main)
