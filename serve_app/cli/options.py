"""Options that several commands share, the console for progress, and how a command fails."""

from __future__ import annotations

import json
from typing import Annotated, NoReturn

import typer
from rich.console import Console
from rich.markup import escape

from serve_app.errors import ImagineError

progress_console = Console(stderr=True)

Accelerator = Annotated[
    str,
    typer.Option(
        envvar=["IMAGINE_ACCELERATOR", "ACCELERATOR"], help="auto, or one of serve_app/accelerators."
    ),
]
Model = Annotated[
    str,
    typer.Option(
        envvar=["IMAGINE_MODEL", "MODEL"],
        help="The bundled model's name, a folder in diffusers layout, or a hub id.",
    ),
]
Revision = Annotated[
    str | None, typer.Option(envvar=["IMAGINE_REVISION", "REVISION"], help="Hub revision to pin.")
]
Dtype = Annotated[
    str,
    typer.Option(envvar=["IMAGINE_DTYPE", "DTYPE"], help="auto, float32, bfloat16 or float16."),
]
Threads = Annotated[
    int | None,
    typer.Option(envvar=["IMAGINE_NUM_THREADS", "NUM_THREADS"], min=1, help="CPU threads of a replica."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object for machines.")]


def fail(error: ImagineError, *, as_json: bool = False) -> NoReturn:
    """One clear sentence, exit status 1."""
    if as_json:
        print(json.dumps({"error": str(error)}))
    progress_console.print(f"[bold red]imagine:[/] {escape(str(error))}", soft_wrap=True, highlight=False)
    raise typer.Exit(1)
