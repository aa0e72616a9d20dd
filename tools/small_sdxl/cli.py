"""Command line: render, train, export, evaluate, grid."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Iterator
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from PIL import Image
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from tools.small_sdxl.architecture import new_text_encoders, new_unet, new_vae
from tools.small_sdxl.captions import describe
from tools.small_sdxl.checkpoint import load_checkpoint, save_checkpoint
from tools.small_sdxl.denoising import LastStep
from tools.small_sdxl.drawing import render as render_scene
from tools.small_sdxl.evaluation import GRID_PROMPTS, draw, evaluate, grid
from tools.small_sdxl.export import export, load_pipeline
from tools.small_sdxl.latents import fit_basis
from tools.small_sdxl.recipe import POLISH, TEXT_STEPS, UNET_STAGES, VAE_STAGES
from tools.small_sdxl.scenes import Mix, random_scene
from tools.small_sdxl.text_training import warm_up
from tools.small_sdxl.unet_training import UnetTrainer
from tools.small_sdxl.vae_training import VaeTrainer
from tools.small_sdxl.vocabulary import save_tokenizer, train_tokenizer
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


class Part(StrEnum):
    """What ``train`` can train, in the order in which it has to happen."""

    TOKENIZER = "tokenizer"
    BASIS = "basis"
    TEXT = "text"
    VAE = "vae"
    UNET = "unet"
    POLISH = "polish"


def _progress() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
        console=console,
    )


def _follow(name: str, total: int, notes: Iterable[tuple[int, str]]) -> None:
    """Run through a training loop under a progress bar; without a terminal, print a line now and then."""
    with _progress() as progress:
        task = progress.add_task(name, total=total, note="")
        for step, note in notes:
            progress.update(task, completed=step, note=note)
            if not console.is_terminal and step % 50 == 0:
                console.print(f"{name} {step}/{total} {note}")


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


def _train_text(workspace: Workspace) -> None:
    torch.manual_seed(1)
    one, two = new_text_encoders()

    def notes() -> Iterator[tuple[int, str]]:
        for step, (loss, accuracy) in enumerate(warm_up(one, two, workspace.tokenizer(), TEXT_STEPS), 1):
            yield step, f"loss {loss:.3f}, labels {accuracy:.1%}"

    _follow("text encoders", TEXT_STEPS, notes())
    save_checkpoint({"one": one.state_dict(), "two": two.state_dict()}, workspace.text_file)


def _train_vae_stage(workspace: Workspace, trainer: VaeTrainer, before: Path | None) -> Path:
    """Train one stage, starting from the weights of the one before; a finished stage is left as it is."""
    stage = trainer.settings.stage
    path = workspace.vae_file(stage)
    if before is not None and not path.exists():
        trainer.restore_weights(load_checkpoint(before) or {})

    def notes() -> Iterator[tuple[int, str]]:
        for step, loss, decibels in trainer.run(path):
            yield step, f"loss {loss:.4f}, {decibels:.1f} dB"

    _follow(f"VAE, {stage}", trainer.settings.steps, notes())
    trainer.finish(path)
    return path


def _train_vae(workspace: Workspace) -> None:
    torch.manual_seed(5)
    vae, before = new_vae(), None
    for settings in VAE_STAGES.values():
        before = _train_vae_stage(workspace, VaeTrainer(vae, workspace.basis(), settings), before)


def _polish(workspace: Workspace) -> None:
    last_step = LastStep(workspace.unet(), workspace.text_encoders(), workspace.tokenizer())
    trainer = VaeTrainer(new_vae(), workspace.basis(), POLISH, last_step=last_step)
    _train_vae_stage(workspace, trainer, workspace.vae_file("encoder"))


def _train_unet(workspace: Workspace, compiled: bool, steps: int) -> None:
    torch.manual_seed(3)
    unet = new_unet().to(memory_format=torch.channels_last)
    text, tokenizer, basis = workspace.text_encoders(), workspace.tokenizer(), workspace.basis()
    for name, planned in UNET_STAGES.items():
        end = min(steps or planned.steps, planned.until or planned.steps)
        settings = replace(planned, compile=compiled, until=end)
        trainer = UnetTrainer(unet, text, tokenizer, basis, settings)

        def notes(trainer: UnetTrainer = trainer) -> Iterator[tuple[int, str]]:
            for at in trainer.run(workspace.unet_file):
                bands = " ".join(f"t<{edge}:{loss:.3f}" for edge, loss in at.bands.items())
                yield at.step, f"loss {at.loss:.3f} {bands} {at.pictures_per_second:.0f}/s"

        _follow(f"UNet, {name}", end, notes())


@app.command()
def train(
    parts: Annotated[
        list[Part] | None, typer.Argument(help="What to train; everything when left out.")
    ] = None,
    run: RunFolder = DEFAULT_RUN,
    threads: Threads = 0,
    compiled: Annotated[
        bool, typer.Option("--compile", help="Compile the UNet: slow to start, faster after.")
    ] = False,
    steps: Annotated[int, typer.Option(help="Stop the UNet at this step; 0 follows the recipe.")] = 0,
) -> None:
    """Train from nothing, or go on from the checkpoints in the run's folder."""
    _set_threads(threads)
    workspace = Workspace(run)
    run.mkdir(parents=True, exist_ok=True)
    wanted = set(parts or Part)
    if Part.TOKENIZER in wanted and not workspace.tokenizer_folder.exists():
        save_tokenizer(train_tokenizer(), workspace.tokenizer_folder)
    if Part.BASIS in wanted and not workspace.basis_file.exists():
        fit_basis().save(workspace.basis_file)
    if Part.TEXT in wanted and not workspace.text_file.exists():
        _train_text(workspace)
    if Part.VAE in wanted:
        _train_vae(workspace)
    if Part.UNET in wanted:
        _train_unet(workspace, compiled, steps)
    if Part.POLISH in wanted:
        _polish(workspace)


@app.command("export")
def export_model(run: RunFolder = DEFAULT_RUN, model: ModelFolder = BUNDLED) -> None:
    """Write the run's weights as a pipeline folder."""
    size = export(Workspace(run), model)
    console.print(f"{model}: {size / 1e6:.2f} MB")


@app.command("evaluate")
def evaluate_model(
    model: ModelFolder = BUNDLED,
    output: Annotated[Path, typer.Option("-o", "--output", help="Where the numbers go.")] = Path(
        "tools/small_sdxl/results.json"
    ),
    count: Annotated[int, typer.Option(min=8, help="Held-out combinations per measurement.")] = 120,
    threads: Threads = 0,
) -> None:
    """Measure an exported model and write the numbers as JSON."""
    _set_threads(threads)
    results: dict[str, Any] = {"held_out_combinations": count}
    basis = fit_basis()
    for name, values in evaluate(load_pipeline(model), basis, count):
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
) -> None:
    """Draw prompts with the stock pipeline and put them on one sheet."""
    _set_threads(threads)
    lines = prompts.read_text().splitlines() if prompts else list(GRID_PROMPTS)
    pictures = list(draw(load_pipeline(model), lines, steps, guidance, seed=seed, side=side))
    sheet: Image.Image = grid(pictures, columns)
    sheet.save(output)
