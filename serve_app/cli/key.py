"""``imagine key``: makes an API key."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from serve_app.cli.options import AsJson, fail, progress_console
from serve_app.errors import ConfigurationError


def key(
    name: Annotated[str, typer.Argument(help="Whose key it is; in the log and in limits.")],
    append_to: Annotated[
        Path | None, typer.Option("--append-to", help="File of access.keys_file to add the line to.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Make an API key, and the line with its hash that lets it in (access.keys_file).

    The key is shown this once and kept nowhere.
    """
    from serve_app.api_keys import key_line, new_key

    made = new_key()
    try:
        line = key_line(name, made)
        if append_to is not None:
            _append(append_to, line)
    except ConfigurationError as error:
        fail(error, as_json=as_json, status=2)
    if as_json:
        print(json.dumps({"name": name, "key": made, "line": line}))
        return
    progress_console.print("The key, for whoever asks for pictures; it is shown this once:", highlight=False)
    print(made)
    added = f"Its line is in {append_to}:" if append_to else "Its line, for the file of access.keys_file:"
    progress_console.print(added, highlight=False, soft_wrap=True)
    print(line)


def _append(file: Path, line: str) -> None:
    """Adds a line to a file whose last line may lack its end.

    Raises:
        ConfigurationError: It cannot be written.
    """
    try:
        before = file.read_bytes() if file.exists() else b""
        with file.open("ab") as opened:
            opened.write((b"\n" if before and not before.endswith(b"\n") else b"") + line.encode() + b"\n")
    except OSError as error:
        raise ConfigurationError(f"cannot write {file} ({error.strerror})") from None
