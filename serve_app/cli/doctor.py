"""``imagine doctor``: is a running service well, and if not, what is wrong?"""

from __future__ import annotations

import asyncio
import json
from dataclasses import asdict
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from serve_app.cli.options import AsJson, fail, key_of, service_address
from serve_app.errors import ConfigurationError

_SIGNS = {
    "ok": "[green]ok[/]",
    "warning": "[yellow]warning[/]",
    "wrong": "[bold red]wrong[/]",
    "skipped": "skipped",
}


def doctor(
    url: Annotated[
        str,
        typer.Argument(
            envvar="IMAGINE_URL", help="The service's address as clients use it, prefix included."
        ),
    ] = "http://127.0.0.1:8000",
    timeout_s: Annotated[
        float,
        typer.Option(
            "--timeout", min=1.0, help="Seconds to wait for a picture; more where pools start from zero."
        ),
    ] = 300.0,
    api_key: Annotated[
        str | None, typer.Option(envvar="IMAGINE_API_KEY", help="Sent as a bearer token.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Check a running service from outside: address, pools, pictures, urls, errors, jobs and events through gateways.

    Exit status 1 when something is wrong, 2 when the address or the key is none.
    """
    import httpx

    from serve_app.doctor import Finding, State, examine

    try:
        base_url = service_address(url)
        api_key = key_of(api_key)
    except ConfigurationError as error:
        fail(error, as_json=as_json, status=2)
    headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
    out = Console()

    async def examined() -> list[Finding]:
        found = []
        async with httpx.AsyncClient(base_url=base_url, headers=headers) as client:
            async for finding in examine(client, timeout_s=timeout_s):
                found.append(finding)
                if not as_json:
                    _tell(out, finding)
        return found

    try:
        found = asyncio.run(examined())
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
    if as_json:
        print(json.dumps([asdict(finding) for finding in found]))
    raise typer.Exit(1 if any(finding.state is State.WRONG for finding in found) else 0)


def _tell(out: Console, finding: object) -> None:
    from serve_app.doctor import Finding

    assert isinstance(finding, Finding)
    line = f"{_SIGNS[finding.state.value]}  {finding.check}: {escape(finding.found)}"
    out.print(line, highlight=False, soft_wrap=True)
    if finding.remedy:
        out.print(f"    {escape(finding.remedy)}", style="dim", highlight=False, soft_wrap=True)
