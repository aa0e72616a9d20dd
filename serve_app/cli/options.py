"""Options that several commands share, the console for progress, and how a command fails."""

from __future__ import annotations

import json
import os
import re
import sys
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer
from rich.console import Console
from rich.markup import escape

from serve_app.errors import ConfigurationError, ImagineError

if TYPE_CHECKING:
    from pydantic import ValidationError

progress_console = Console(stderr=True)

_NOT_JSON = re.compile(r'error parsing value for field "(\w+)" from source "EnvSettingsSource"')
"""What pydantic-settings says of a variable; who set it never heard of a source of that name."""

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


def service_address(url: str) -> str:
    """A running service's address with a slash at its end, so that relative paths stay behind its prefix.

    Raises:
        ConfigurationError: It is no http address.
    """
    if not url.startswith(("http://", "https://")):
        raise ConfigurationError(f"{url!r} is no address such as http://127.0.0.1:8000")
    return url.rstrip("/") + "/"


def key_of(text: str | None) -> str | None:
    """An API key as it was given, without the end of line that files have; None where there is none.

    Raises:
        ConfigurationError: No key looks like that, and no header could carry it.
    """
    key = (text or "").strip()
    if not (key.isascii() and key.isprintable()):
        raise ConfigurationError("IMAGINE_API_KEY or --api-key holds characters that no key has")
    return key or None


def wrong_setting(error: ValidationError) -> ConfigurationError:
    """The first thing that is wrong with settings, by its name where it is one setting's."""
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    message = first["msg"].removeprefix("Value error, ")
    if not_json := _NOT_JSON.fullmatch(message):
        return ConfigurationError(f"the variable IMAGINE_{not_json[1].upper()} holds no valid JSON")
    return ConfigurationError(f"setting {where}: {message}" if where else message)


def tell_error(error: ImagineError, *, as_json: bool = False) -> None:
    """One clear sentence."""
    if as_json:
        print(json.dumps({"error": str(error)}))
    progress_console.print(f"[bold red]imagine:[/] {escape(str(error))}", soft_wrap=True, highlight=False)


def fail(error: ImagineError, *, as_json: bool = False, status: int = 1) -> NoReturn:
    """One clear sentence, and the exit status."""
    tell_error(error, as_json=as_json)
    raise typer.Exit(status)


def leave(status: int) -> NoReturn:
    """Ends the process without the interpreter's own end.

    For commands that have used obstore: its threads may ask for the interpreter at that moment, which aborts the
    process (https://github.com/PyO3/pyo3-async-runtimes/issues/40), and the exit status would be a lie.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
