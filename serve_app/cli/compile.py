"""``imagine compile``: a model for an accelerator that runs only compiled ones."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from serve_app.cli.options import AsJson, Model, Revision, fail, progress_console
from serve_app.errors import ConfigurationError, ImagineError


def compile_model(
    output: Annotated[Path, typer.Argument(help="Folder to make; then MODEL of a pool.")],
    accelerator: Annotated[str, typer.Option(help="What to compile for; only neuron needs it.")] = "neuron",
    model: Model = "small-sdxl",
    revision: Revision = None,
    width: Annotated[int | None, typer.Option(min=64, help="Pixels; the model's usual when absent.")] = None,
    height: Annotated[int | None, typer.Option(min=64, help="Pixels; the model's usual when absent.")] = None,
    batch_size: Annotated[
        int,
        typer.Option(
            "--batch-size",
            min=1,
            help="Rows of a step on each of a replica's two cores: so many guided pictures are drawn at a time.",
        ),
    ] = 1,
    dynamic_batch_size: Annotated[
        bool,
        typer.Option("--dynamic-batch-size", help="Allow multiples of these rows, at some cost in speed."),
    ] = False,
    instance_type: Annotated[str, typer.Option(help="inf2, trn1, trn1n or trn2.")] = "inf2",
    auto_cast: Annotated[
        str, typer.Option(help="What is computed in the type of --auto-cast-type: none, matmul or all.")
    ] = "matmul",
    auto_cast_type: Annotated[str, typer.Option(help="bf16, fp16 or tf32.")] = "bf16",
    as_json: AsJson = False,
) -> None:
    """Compile a model for AWS Neuron, for one size. Takes about an hour for SDXL at 1024x1024 and needs no device."""
    from serve_app.neuron_compile import CompileOptions, compile_for_neuron
    from serve_app.settings import PoolSettings

    started = time.monotonic()
    try:
        if accelerator != "neuron":
            raise ConfigurationError(
                f"accelerator {accelerator!r} runs models as they are: only neuron needs compiled ones"
            )
        compiled = compile_for_neuron(
            PoolSettings(model=model, revision=revision),
            CompileOptions(
                width=width,
                height=height,
                batch_size=batch_size,
                instance_type=instance_type,
                auto_cast=auto_cast,
                auto_cast_type=auto_cast_type,
                dynamic_batch_size=dynamic_batch_size,
            ),
            output,
            on_line=lambda line: progress_console.print(
                f"[dim]{escape(line)}[/]", soft_wrap=True, highlight=False
            ),
        )
    except ImagineError as error:
        fail(error, as_json=as_json)
    except KeyboardInterrupt:
        progress_console.print("Stopped.")
        raise typer.Exit(130) from None
    seconds = time.monotonic() - started
    if as_json:
        facts = {
            "model": str(output),
            "width": compiled.width,
            "height": compiled.height,
            "rows": compiled.rows,
            "compiler_version": compiled.compiler_version,
            "seconds": round(seconds, 1),
        }
        print(json.dumps(facts))
    else:
        print(
            f"{output}: {compiled.width}x{compiled.height}, {compiled.rows} rows a step, after {seconds:.0f} s; "
            f"serve it with MODEL={output} ACCELERATOR=neuron"
        )
