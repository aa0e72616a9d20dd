"""The command line: what to measure, in which order; see the package's docstring."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from bench.cuda import tables
from bench.cuda.plan import ABLATIONS, SECTIONS, TINY, Scale, Subject, Task, as_json, plan
from bench.cuda.results import Results

BATCHING = "batching"
_SUBJECT_S = 3600.0  # a process that takes longer has hung; compiling for many row counts takes many minutes
_GRACE_S = 120.0  # beyond the budget, for the task that was begun before it ended


def main(
    device: Annotated[
        str, typer.Option(help="cuda, or cpu to see with --tiny that all of it works.")
    ] = "cuda",
    section: Annotated[
        list[str] | None,
        typer.Option(help=f"{', '.join((*SECTIONS, BATCHING))}; several times; default: all in this order."),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="A model's folder; default: a full-size SDXL of random weights, written to OUT once (7 GB)."
        ),
    ] = None,
    tiny: Annotated[
        bool, typer.Option("--tiny", help="A tiny model, tiny pictures and few repeats.")
    ] = False,
    compiled: Annotated[
        bool, typer.Option(help="Also what starts a compiler: minutes for each shape.")
    ] = True,
    ablation: Annotated[
        list[str] | None, typer.Option(help="Only these of the options' subjects; several times.")
    ] = None,
    rows: Annotated[
        str | None, typer.Option(help="Row counts of the sweep, such as 2,8,32; even ones.")
    ] = None,
    budget_s: Annotated[
        float | None, typer.Option(help="Begin nothing after so many seconds; run again to go on.", min=0.0)
    ] = None,
    retry: Annotated[bool, typer.Option("--retry", help="Measure again what failed.")] = False,
    report: Annotated[bool, typer.Option("--report", help="Only print what is there.")] = False,
    out: Annotated[Path, typer.Option(help="Folder of the results.")] = Path("out/bench-cuda"),
) -> None:
    """Correctness, times, throughput and memory of SDXL on a CUDA device, each option apart, against diffusers."""
    console = Console()
    sections = tuple(section or (*SECTIONS, BATCHING))
    if unknown := set(sections) - {*SECTIONS, BATCHING}:
        raise typer.BadParameter(
            f"{', '.join(unknown)}: known are {', '.join(SECTIONS)}", param_hint="--section"
        )
    if device not in ("cuda", "cpu"):
        raise typer.BadParameter(f"{device} is neither cuda nor cpu", param_hint="--device")
    scale = _scale(tiny, rows)
    ablations = _ablations(ablation)
    import torch

    if device == "cuda" and not torch.cuda.is_available() and not report:
        console.print(
            "There is no CUDA device here: nothing was measured. --device cpu --tiny tries the code itself."
        )
        return
    options = {
        "device": device,
        "model": model or ("tiny" if tiny else "full-size SDXL, random weights"),
        "tiny": tiny,
    }
    try:
        results = Results(out / device, options)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--out") from None
    ended = True
    if not report:
        if retry:
            results.forget_failures()
        deadline = time.time() + budget_s if budget_s is not None else float("inf")
        weights = model or str(_make_model(out, tiny))
        results.describe(_description(device, weights))
        work = list(
            plan([one for one in sections if one != BATCHING], scale, compiled=compiled, ablations=ablations)
        )
        ended = _measure(work, results, out / device, options, scale, weights, device, deadline, console)
        if BATCHING in sections and ended:
            ended = _batching(device, weights, out / "batching", tiny, deadline, console)
    well = tables.show(results, scale, console, ablations)
    if device == "cuda" and not tiny:
        tables.show_aims(results, scale, console)
    console.print(f"results: {out / device / 'results.json'}")
    if not ended:
        console.print("[yellow]the budget is over: run the same line again to go on[/yellow]")
    if not well:
        raise typer.Exit(1)


def _scale(tiny: bool, rows: str | None) -> Scale:
    scale = TINY if tiny else Scale()
    if rows is None:
        return scale
    try:
        counts = tuple(sorted({int(count) for count in rows.split(",")}))
    except ValueError:
        counts = ()
    if not counts or any(count < 2 or count % 2 for count in counts):
        raise typer.BadParameter(f"{rows} is not like 2,8,32", param_hint="--rows")
    return Scale(**{**vars(scale), "rows": counts})


def _ablations(names: list[str] | None) -> Sequence[Subject]:
    if names is None:
        return ABLATIONS
    known = {subject.name: subject for subject in ABLATIONS}
    if unknown := set(names) - set(known):
        raise typer.BadParameter(
            f"{', '.join(unknown)}: known are {', '.join(known)}", param_hint="--ablation"
        )
    return [known[name] for name in names]


def _make_model(out: Path, tiny: bool) -> Path:
    """Written once."""
    from bench.batching.rig import make_full_size_model
    from tools.make_sdxl import make_sdxl

    if not tiny:
        return make_full_size_model(out / "sdxl-full")
    folder = out / "sdxl-tiny"
    return folder if (folder / "model_index.json").is_file() else make_sdxl(folder)


def _description(device: str, model: str) -> dict[str, Any]:
    import diffusers
    import torch

    return {
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
        "model": model,
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "diffusers": diffusers.__version__,
    }


def _measure(
    work: list[tuple[Subject, list[Task]]],
    results: Results,
    folder: Path,
    options: dict[str, Any],
    scale: Scale,
    model: str,
    device: str,
    deadline: float,
    console: Console,
) -> bool:
    """Starts one process for each subject that has something left to do; whether all is done."""
    for subject, tasks in work:
        left = [task for task in tasks if results.get(subject.name, task.key) is None]
        if not left:
            continue
        if time.time() >= deadline:
            return False
        console.print(f"[bold]{subject.name}[/bold]: {len(left)} measurements")
        order = as_json(subject, left) | {
            "folder": str(folder),
            "options": options,
            "model": model,
            "device": device,
            "deadline": min(deadline, time.time() + _SUBJECT_S),
            "repeats": scale.repeats,
        }
        failure = _in_a_process(order, deadline)
        results.read()
        for task in left:  # as they come: a run that is cut off has told them
            if figures := results.get(subject.name, task.key):
                told = ", ".join(f"{name} {value}" for name, value in figures.items())
                console.print(f"  {task.key}: {told}", soft_wrap=True)
        open_ones = [task for task in left if results.get(subject.name, task.key) is None]
        if failure is not None:
            for task in open_ones:
                results.put(subject.name, task.key, {"error": failure})
        elif open_ones:
            return False
    return True


def _in_a_process(order: dict[str, Any], deadline: float) -> str | None:
    """Why the process ended badly, or None; also None when the budget ended it."""
    with tempfile.TemporaryDirectory() as place:
        file = Path(place) / "order.json"
        file.write_text(json.dumps(order), encoding="utf-8")
        allowed_s = min(_SUBJECT_S, deadline - time.time()) + _GRACE_S
        try:
            done = subprocess.run(
                [sys.executable, "-m", "bench.cuda.measuring", str(file)], timeout=allowed_s, check=False
            )
        except subprocess.TimeoutExpired:
            return None if time.time() >= deadline else f"it took more than {allowed_s:.0f} s"
        return None if done.returncode == 0 else f"its process ended with {done.returncode}"


def _batching(device: str, model: str, out: Path, tiny: bool, deadline: float, console: Console) -> bool:
    """``bench.batching`` on the same model; it goes on by itself where it was. Whether it came to its end."""
    left_s = deadline - time.time()
    if left_s <= 0:
        return False
    line = [sys.executable, "-m", "bench.batching", "--device", device, "--model", model, "--out", str(out)]
    if tiny:
        line += [
            "--side",
            "128",
            "--workload",
            "few-steps",
            "--requests",
            "5",
            "--loads",
            "0.5",
            "--refinements",
            "0",
        ]
    console.print("[bold]batching[/bold]: see python -m bench.batching --help")
    try:
        return (
            subprocess.run(line, timeout=None if deadline == float("inf") else left_s, check=False).returncode
            == 0
        )
    except subprocess.TimeoutExpired:
        return False


if __name__ == "__main__":
    typer.run(main)
