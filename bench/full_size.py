"""A full-size SDXL on this machine's CPU: memory, and a step and a decode against plain diffusers.

Run ``python -m bench.full_size --help``. The model has SDXL base's exact shapes and random weights in bfloat16; it is
made when its folder is missing (7 GB). Each side has a process of its own, and they work in turns, so that whatever
else the machine does meets both alike. The baseline is stock `StableDiffusionXLPipeline` in the same dtype and with as
many threads; of its VAE's decode also laid out channels_last.
"""

from __future__ import annotations

import itertools
import json
import multiprocessing
import os
import statistics
import sys
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

PROMPT = "an astronaut is dancing on green grass, sunlit"
STEPS = 4
PEAK_BYTES = 9e9
"""What a replica in bfloat16 may take at its peak: the weights are 7 GB."""

_ANSWER_S = 1800.0


def main(
    folder: Annotated[Path, typer.Option(help="Of the model; made when missing.")] = Path(
        "/tmp/sdxl-full-bf16"
    ),
    layers: Annotated[str, typer.Option(help="As the setting `cpu.layers`.")] = "auto",
    dtype: Annotated[str, typer.Option(help="bfloat16 or float32.")] = "bfloat16",
    side: Annotated[int, typer.Option(help="Of the picture, in pixels.")] = 512,
    num_threads: Annotated[int | None, typer.Option(min=1, help="Of each side; all physical cores.")] = None,
    repeats: Annotated[int, typer.Option(min=1, help="Pictures of 4 steps, and decodes, of each side.")] = 2,
    cpu_time: Annotated[
        bool,
        typer.Option("--cpu-time", help="CPU seconds of one thread each, where other programs are running."),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Measure, print, and fail where memory, a step or a decode is worse than it should be."""
    from serve_app.cpu_topology import physical_cores

    _make(folder)
    threads = 1 if cpu_time else num_threads or len(physical_cores())
    pool = {"model": str(folder), "dtype": dtype, "num_threads": threads, "cpu": {"layers": layers}}
    ours, stock = _Side(_ours, pool, side, cpu_time), _Side(_stock, pool, side, cpu_time)
    try:
        load_s = ours.ask("load")
        # The first of each also warms up; of the others the least counts, so it does no harm.
        first_picture_s = ours.ask("picture")
        peak = ours.ask("peak")
        stock.ask("load")
        rows = [
            _compare("a step", "steps", ours, stock, repeats + 1),
            _compare("a decode", "decode", ours, stock, repeats + 1),
        ]
        stock.ask("channels_last")
        rows.append(_compare("a decode, diffusers channels_last", "decode", ours, stock, repeats))
        picture_s = ours.ask("picture")
    finally:
        ours.stop()
        stock.stop()
    result = {
        "layers": layers,
        "dtype": dtype,
        "threads": threads,
        "seconds": "of a thread's CPU time" if cpu_time else "of wall time",
        "load_s": round(load_s, 1),
        "first_picture_s": round(first_picture_s, 2),
        "picture_s": round(picture_s, 2),
        "peak_gb": round(peak / 1e9, 2),
    }
    if as_json:
        print(json.dumps(result | {"rows": rows}))
    else:
        console = Console()
        console.print(result)
        table = Table("what", "ours s", "diffusers s", "ours / diffusers", box=None)
        for row in rows:
            table.add_row(*(str(row[name]) for name in ("what", "ours_s", "diffusers_s", "ratio")))
        console.print(table)
    missed = [f"{row['what']}: {row['ratio']} of diffusers" for row in rows if row["ratio"] > 1.0]
    if dtype == "bfloat16" and peak > PEAK_BYTES:
        missed.append(f"peak of {peak / 1e9:.2f} GB")
    if missed:
        raise SystemExit(f"worse than it should be: {'; '.join(missed)}")


def _make(folder: Path) -> None:
    if (folder / "model_index.json").is_file():
        return
    import torch

    from tools.make_sdxl import make_sdxl

    make_sdxl(folder, size="full", dtype=torch.bfloat16, timestep_spacing="trailing")


def _compare(what: str, command: str, ours: _Side, stock: _Side, repeats: int) -> dict[str, Any]:
    """Turns of both sides; the least of each, since whatever disturbs only adds."""
    mine, theirs = [], []
    for _ in range(repeats):
        mine.append(ours.ask(command))
        theirs.append(stock.ask(command))
        print(f"{what}: {mine[-1]:.3f} s, diffusers {theirs[-1]:.3f} s", file=sys.stderr)
    return {
        "what": what,
        "ours_s": round(min(mine), 3),
        "diffusers_s": round(min(theirs), 3),
        "ratio": round(min(mine) / min(theirs), 3),
    }


class _Side:
    """One side in a process of its own, which does what it is asked and answers seconds or bytes.

    Args:
        make: Makes the commands, in that process.
        pool: `PoolSettings` as a mapping.
        side: Of the picture, in pixels.
        cpu_time: Measure CPU seconds.
    """

    def __init__(
        self, make: Callable[..., dict[str, Callable[[], Any]]], pool: Any, side: int, cpu_time: bool
    ) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, far = context.Pipe()
        self._process = context.Process(target=_serve, args=(far, make, pool, side, cpu_time), daemon=True)
        self._process.start()
        far.close()

    def ask(self, command: str) -> float:
        """Seconds or bytes."""
        self._pipe.send(command)
        if not self._pipe.poll(_ANSWER_S):
            raise TimeoutError(f"{command} took longer than {_ANSWER_S:.0f} s")
        return float(self._pipe.recv())

    def stop(self) -> None:
        """Ends the process."""
        self._process.terminate()
        self._process.join(10.0)


def _serve(
    pipe: Connection,
    make: Callable[..., dict[str, Callable[[], Any]]],
    pool: Any,
    side: int,
    cpu_time: bool,
) -> None:
    commands: dict[str, Callable[[], Any]] = {}
    while True:
        command = pipe.recv()
        if command == "load":
            began = time.perf_counter()
            commands = make(pool, side, time.process_time if cpu_time else time.perf_counter)
            pipe.send(time.perf_counter() - began)
        elif command == "peak":
            pipe.send(_peak_bytes())
        else:
            pipe.send(commands[command]())


def _peak_bytes() -> int:
    """Most resident memory this process ever had."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM:")))


def _ours(pool: Any, side: int, clock: Callable[[], float]) -> dict[str, Callable[[], float]]:
    from serve_app import accelerators
    from serve_app.capabilities import PoolFacts
    from serve_app.engine import Engine
    from serve_app.local_drawing import draw_pictures
    from serve_app.request import RequestDraft
    from serve_app.settings import PoolSettings

    settings = PoolSettings.model_validate(pool | {"default_size": (side, side)})
    pipeline: Any = accelerators.get("cpu").load_pipeline(settings)
    facts = PoolFacts(settings.name, settings.model, "cpu", pipeline.defaults, pipeline.capabilities)
    draft = RequestDraft(
        PROMPT, width=side, height=side, num_inference_steps=STEPS, guidance_scale=0.0, seed=0
    )
    request = draft.for_pool(facts)
    finished: list[Any] = []

    def steps() -> float:
        state = pipeline.prepare(request, 0)
        seconds = []
        while not state.finished:
            began = clock()
            pipeline.denoise_step([state])
            seconds.append(clock() - began)
            state.step += 1
        finished[:] = [state]
        return statistics.median(seconds)

    def decode() -> float:
        began = clock()
        pipeline.decode(finished[0])
        return clock() - began

    def picture() -> float:
        """Wall seconds through the engine, text and all, on its own thread, which ends with it."""
        engine = Engine(pipeline)
        engine.start()
        began = time.perf_counter()
        try:
            draw_pictures(engine, request, Console(quiet=True))
        finally:
            engine.stop(60.0)
        return time.perf_counter() - began

    return {"steps": steps, "decode": decode, "picture": picture}


def _stock(pool: Any, side: int, clock: Callable[[], float]) -> dict[str, Callable[[], float]]:
    import torch
    from diffusers import StableDiffusionXLPipeline

    from serve_app.pipelines.loading import quiet

    quiet()
    torch.set_num_threads(pool["num_threads"])
    stock = StableDiffusionXLPipeline.from_pretrained(
        pool["model"], torch_dtype=getattr(torch, pool["dtype"]), add_watermarker=False
    )
    stock.set_progress_bar_config(disable=True)
    latents: list[Any] = []

    def steps() -> float:
        """The time between the ends of two steps of diffusers' own loop."""
        ends: list[float] = []

        def on_step_end(_: Any, __: int, ___: Any, values: dict[str, Any]) -> dict[str, Any]:
            ends.append(clock())
            return values

        latents[:] = stock(
            PROMPT,
            width=side,
            height=side,
            num_inference_steps=STEPS,
            guidance_scale=0.0,
            generator=torch.Generator("cpu").manual_seed(0),
            output_type="latent",
            callback_on_step_end=on_step_end,
        ).images
        return statistics.median(later - sooner for sooner, later in itertools.pairwise(ends))

    @torch.inference_mode()
    def decode() -> float:
        began = clock()
        scaled = latents[0][None] / stock.vae.config.scaling_factor
        image = stock.vae.decode(scaled.to(stock.vae.dtype), return_dict=False)[0]
        stock.image_processor.postprocess(image, output_type="pil")
        return clock() - began

    def channels_last() -> float:
        stock.vae.to(memory_format=torch.channels_last)
        return 0.0

    return {"steps": steps, "decode": decode, "channels_last": channels_last}


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    typer.run(main)
