"""``imagine`` on the command line. Commands import what they need when they run, so ``--help`` is instant."""

from __future__ import annotations

from typing import Annotated

import typer

from serve_app.cli.batch import batch
from serve_app.cli.bench import bench
from serve_app.cli.compile import compile_model
from serve_app.cli.doctor import doctor
from serve_app.cli.generate import generate
from serve_app.cli.key import key
from serve_app.cli.models import models
from serve_app.cli.serve import serve

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Draw pictures with Stable Diffusion XL, as a service or right here.",
)
app.command()(serve)
app.command()(generate)
app.command()(batch)
app.command()(bench)
app.command()(doctor)
app.command()(models)
app.command()(key)
app.command("compile")(compile_model)


@app.callback(invoke_without_command=True)
def version(
    show: Annotated[bool, typer.Option("--version", help="Print the version and leave.")] = False,
) -> None:
    if show:
        from serve_app import __version__

        print(__version__)
        raise typer.Exit
