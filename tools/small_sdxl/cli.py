"""Command line: render, train, export, evaluate, grid."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from PIL import Image
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from tools.small_sdxl.captions import describe
from tools.small_sdxl.drawing import render as render_scene
from tools.small_sdxl.evaluation import Evaluation
from tools.small_sdxl.export import adopt, export, load_pipeline, pack
from tools.small_sdxl.recipe import PUBLISHED, for_seconds, on_cuda
from tools.small_sdxl.scenes import random_scene
from tools.small_sdxl.sheets import GRID_PROMPTS, draw, grid
from tools.small_sdxl.training import Part, Training
from tools.small_sdxl.workspace import BUNDLED, DEFAULT_RUN, Workspace

app = typer.Typer(
    no_args_is_help=True, add_completion=False, help="Draw, train, export and judge the small SDXL."
)
console = Console()

RunFolder = Annotated[
    Path, typer.Option("--run", help="Folder of the training run (checkpoints; resumable).")
]
ModelFolder = Annotated[Path, typer.Option("--model", help="An exported pipeline folder.")]
Threads = Annotated[int, typer.Option(help="CPU threads for torch; 0 leaves its default.")]


class Bars:
    """A progress bar for each part that reports; without a terminal, a line now and then."""

    def __init__(self) -> None:
        self.progress = Progress(
            TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>5.1f}%"),
            TimeElapsedColumn(), TimeRemainingColumn(), TextColumn("{task.fields[note]}"), console=console,
        )  # fmt: skip
        self.tasks: dict[str, TaskID] = {}
        self.printed: dict[str, float] = {}

    def __call__(self, name: str, done: float, note: str) -> None:
        """Show how far a part is."""
        if not console.is_terminal:
            if done >= 1 or time.monotonic() - self.printed.get(name, -99.0) > 5:
                self.printed[name] = time.monotonic()
                print(f"{name} {done:.1%} {note}", flush=True)
            return
        if name not in self.tasks:
            self.progress.start()
            self.tasks[name] = self.progress.add_task(name, total=1.0, note="")
        self.progress.update(self.tasks[name], completed=done, note=note)


def _set_threads(threads: int) -> None:
    if threads:
        torch.set_num_threads(threads)


@app.command()
def render(
    output: Annotated[Path, typer.Option("-o", "--output", help="The PNG to write.")] = Path("scenes.png"),
    count: Annotated[int, typer.Option(min=1, max=400)] = 48,
    columns: Annotated[int, typer.Option(min=1)] = 8,
    seed: int = 0,
) -> None:
    """Draw a sheet of random scenes as the training sees them, and print their captions."""
    rng = random.Random(seed)
    pictures = []
    for _ in range(count):
        scene = random_scene(rng)
        pictures.append(render_scene(scene, 256, 256))
        console.print(describe(scene, rng), markup=False)
    grid(pictures, columns).save(output)


@app.command()
def train(
    parts: Annotated[
        list[Part] | None, typer.Argument(help="What to train; everything when left out.")
    ] = None,
    run: RunFolder = DEFAULT_RUN,
    threads: Threads = 0,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    workers: Annotated[int, typer.Option(help="Processes that draw; 0 draws in the trainer.")] = 0,
    seconds: Annotated[
        float, typer.Option(help="Time for each of UNet and VAE; 0 takes the steps of the bundled weights.")
    ] = 0,
    init: Annotated[
        Path | None, typer.Option(help="An exported model whose weights a new run starts from.")
    ] = None,
) -> None:
    """Train from nothing, or go on from the checkpoints in the run's folder."""
    _set_threads(threads)
    if init is not None and not Workspace(run).text_file.exists():
        adopt(init, Workspace(run))
    bars, wanted = Bars(), set(parts or Part)
    if device == "cuda":
        recipe = on_cuda(seconds) if seconds else PUBLISHED
        torch.set_float32_matmul_precision("high")
    else:
        recipe = for_seconds(seconds) if seconds else PUBLISHED
    beside: subprocess.Popen[bytes] | None = None
    try:
        if device == "cuda" and Part.VAE in wanted and Part.UNET in wanted:  # the VAE trains beside the UNet
            helpers = workers // 4
            Training(Workspace(run), recipe, torch.device(device), 0, bars).prepare(wanted)
            own = sorted(wanted & {Part.VAE, Part.POLISH})
            line = [
                sys.executable,
                "-m",
                "tools.small_sdxl",
                "train",
                *own,
                "--run",
                str(run),
                "--device",
                device,
            ]
            line += ["--workers", str(helpers), "--seconds", str(seconds * 0.96)]
            beside = subprocess.Popen(line)
            wanted, workers = wanted - {Part.VAE, Part.POLISH}, workers - helpers
        Training(Workspace(run), recipe, torch.device(device), workers, bars).run(wanted)
        if beside is not None and beside.wait():
            raise RuntimeError(f"training of the VAE ended with {beside.returncode}")
    finally:
        bars.progress.stop()
        if beside is not None and beside.poll() is None:
            beside.terminate()


@app.command("export")
def export_model(run: RunFolder = DEFAULT_RUN, model: ModelFolder = BUNDLED) -> None:
    """Write the run's weights as a pipeline folder."""
    size = export(Workspace(run), model)
    console.print(f"{model}: {size / 1e6:.2f} MB")


@app.command("pack")
def pack_model(
    model: ModelFolder = BUNDLED,
    output: Annotated[Path, typer.Option("-o", "--output", help="Where the pieces go.")] = Path("packed"),
    piece: Annotated[int, typer.Option(help="Bytes of a piece at most.")] = 15_000_000,
) -> None:
    """Pack an exported model into pieces that are easy to move: cat small-sdxl.tar.* | tar x."""
    for path in pack(model, output, piece):
        console.print(f"{path}: {path.stat().st_size / 1e6:.2f} MB")


@app.command("evaluate")
def evaluate_model(
    model: ModelFolder = BUNDLED,
    output: Annotated[Path, typer.Option("-o", "--output", help="Where the numbers go.")] = Path(
        "tools/small_sdxl/results.json"
    ),
    each: Annotated[int, typer.Option(min=1, help="Pictures of each subject; other counts follow.")] = 3,
    threads: Threads = 0,
) -> None:
    """Measure an exported model and write the numbers as JSON."""
    _set_threads(threads)
    results: dict[str, Any] = {"pictures of each subject": each}
    for name, values in Evaluation(model, each).run():
        results[name] = {key: round(value, 4) for key, value in values.items()}
        console.print(name, results[name])
        output.write_text(json.dumps(results, indent=2) + "\n")


@app.command("grid")
def draw_grid(
    model: ModelFolder = BUNDLED,
    output: Annotated[Path, typer.Option("-o", "--output", help="The PNG to write.")] = Path("grid.png"),
    prompts: Annotated[
        Path | None, typer.Option(help="A text file, one prompt a line; a fixed set otherwise.")
    ] = None,
    steps: Annotated[int, typer.Option(min=1)] = 4,
    guidance: float = 1.0,
    seed: int = 0,
    side: int = 512,
    columns: int = 6,
    threads: Threads = 0,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
) -> None:
    """Draw prompts with the stock pipeline and put them on one sheet."""
    _set_threads(threads)
    lines = prompts.read_text().splitlines() if prompts else list(GRID_PROMPTS)
    pictures = list(
        draw(load_pipeline(model).to(device), lines, steps, guidance, seed=seed, width=side, height=side)
    )
    sheet: Image.Image = grid(pictures, columns)
    sheet.save(output)
