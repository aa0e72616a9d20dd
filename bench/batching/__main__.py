"""The command line: what to measure, in which order; see the package's docstring."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from bench.batching import plots, tables
from bench.batching.results import Results, read_results
from bench.batching.workloads import sweeps
from serve_app.settings import BUNDLED_MODEL, PoolSettings

LONG_AMONG_SHORT = "long-among-short"
LOADS = "0.45,0.65,0.9,1.2,1.6,2.1"
SIDES = {"cpu": 256, "cuda": 512}


def main(
    workload: Annotated[
        list[str] | None,
        typer.Option(
            help=f"few-steps, guided, mixed-shapes or {LONG_AMONG_SHORT}; several times; default: all."
        ),
    ] = None,
    device: Annotated[
        list[str] | None,
        typer.Option(
            help="cpu or cuda; several times; default: cpu, and cuda where there is one. cpu draws with the "
            "bundled model, cuda with a full-size SDXL of random weights (written to OUT once, 7 GB)."
        ),
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Another model, on all devices, as for `imagine serve`.")
    ] = None,
    side: Annotated[
        int | None,
        typer.Option(help="Pixels of a picture's side; default: 256 on cpu, 512 on cuda.", min=128),
    ] = None,
    point_s: Annotated[
        float,
        typer.Option(
            help="Seconds that the serial server would need for one point's requests; sets their number."
        ),
    ] = 16.0,
    requests: Annotated[
        int | None, typer.Option(help="Requests of each point, instead of --point-s.", min=5)
    ] = None,
    loads: Annotated[
        str, typer.Option(help="Arrivals over what the serial server can do; rising until a miss.")
    ] = LOADS,
    refinements: Annotated[int, typer.Option(help="Points between the last hit and the first miss.")] = 2,
    target: Annotated[
        float, typer.Option(help="The p99 to keep, in times of the longest request alone on plain diffusers.")
    ] = 3.0,
    max_rows: Annotated[int, typer.Option(help="Most rows of a step of the engine.", min=2)] = 8,
    num_threads: Annotated[int | None, typer.Option(help="CPU threads; default: the cores.", min=1)] = None,
    seed: Annotated[int, typer.Option(help="Of the arrivals.")] = 0,
    out: Annotated[Path, typer.Option(help="Folder of results.json and the plots.")] = Path(
        "out/bench-batching"
    ),
    replot: Annotated[bool, typer.Option(help="Only print and plot what is there.")] = False,
) -> None:
    """Serial, greedy, windowed and step-level batching under the same Poisson arrivals.

    With the defaults about half an hour per device on two quiet cores; a stopped run goes on with the same options.
    """
    console = Console()
    if replot:
        _report(out, console)
        return
    import torch

    from bench.batching.measure import Measurement
    from bench.batching.rig import Rig, make_full_size_model

    for name in device or (["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]):
        if name not in SIDES:
            raise typer.BadParameter(f"{name} is neither cpu nor cuda", param_hint="--device")
        pixels = side or SIDES[name]
        if pixels % 64:
            raise typer.BadParameter(f"{pixels} is not a multiple of 64", param_hint="--side")
        known = [*(entry.name for entry in sweeps(pixels)), LONG_AMONG_SHORT]
        chosen = workload or known
        if unknown := set(chosen) - set(known):
            raise typer.BadParameter(
                f"{', '.join(unknown)} is none of {', '.join(known)}", param_hint="--workload"
            )
        options = {
            "model": model or (BUNDLED_MODEL if name == "cpu" else "full-size SDXL, random weights"),
            "side": pixels,
            "point_s": point_s,
            "requests": requests,
            "loads": _loads(loads),
            "refinements": refinements,
            "target": target,
            "max_rows": max_rows,
            "num_threads": num_threads,
            "seed": seed,
        }
        folder = out / name
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / "results.json"
        results = read_results(file) if file.is_file() else Results(options)
        if results.options != options:
            raise typer.BadParameter(
                f"{file} was measured with other options: {results.options}", param_hint="--out"
            )
        weights = model
        if weights is None:
            weights = BUNDLED_MODEL if name == "cpu" else str(make_full_size_model(out / "sdxl-full"))
        pool = PoolSettings.model_validate(
            {"model": weights, "max_rows": max_rows, "num_threads": num_threads}
        )
        console.print(f"[bold]{name}[/bold]: loading {weights} twice")
        rig = Rig(name, pool)
        results.description = rig.description
        measurement = Measurement(rig, results, file, console)
        measurement.overhead()
        for entry in sweeps(pixels):
            if entry.name in chosen:
                measurement.sweep(entry)
        if LONG_AMONG_SHORT in chosen:
            measurement.long_among_short()
    _report(out, console)


def _loads(text: str) -> list[float]:
    try:
        loads = [float(load) for load in text.split(",")]
    except ValueError:
        loads = []
    if not loads or not all(0 < load < 100 for load in loads):
        raise typer.BadParameter(f"{text} is not like {LOADS}", param_hint="--loads")
    return loads


def _report(out: Path, console: Console) -> None:
    files = sorted(out.glob("*/results.json"))
    if not files:
        console.print(f"there are no results in {out}")
        sys.exit(1)
    for file in files:
        results = read_results(file)
        tables.show(results, console)
        for picture in plots.draw(results, file.parent):
            console.print(f"wrote {picture}")


if __name__ == "__main__":
    typer.run(main)
