"""``imagine``: serve, generate and models on the command line. Imports are lazy, so ``--help`` is instant."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.markup import escape

from serve_app.errors import ConfigurationError, ImagineError, InvalidRequest

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Draw pictures with Stable Diffusion XL, as a service or right here.",
)
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


def _fail(error: ImagineError, *, as_json: bool = False) -> NoReturn:
    """One clear sentence, exit status 1."""
    if as_json:
        print(json.dumps({"error": str(error)}))
    progress_console.print(f"[bold red]imagine:[/] {escape(str(error))}", soft_wrap=True, highlight=False)
    raise typer.Exit(1)


@app.command()
def serve(
    host: Annotated[
        str, typer.Option(envvar=["IMAGINE_HOST", "HOST"], help="Address to listen on; 0.0.0.0 for all.")
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(envvar=["IMAGINE_PORT", "PORT"], min=1, max=65535, help="Port to listen on.")
    ] = 8000,
    model: Model = "small-sdxl",
    accelerator: Accelerator = "auto",
    revision: Revision = None,
    dtype: Dtype = "auto",
    num_threads: Threads = None,
    replicas: Annotated[
        int, typer.Option(envvar=["IMAGINE_REPLICAS", "REPLICAS"], min=1, help="Replicas of the model.")
    ] = 1,
    pictures: Annotated[
        str,
        typer.Option(
            envvar=["IMAGINE_PICTURES", "PICTURES"],
            help="Folder, or url such as s3://bucket/prefix, for pictures that are answered by url.",
        ),
    ] = "pictures",
    config: Annotated[
        Path | None,
        typer.Option(
            envvar="IMAGINE_CONFIG",
            help="YAML or JSON file with settings (as serveConfigV2's args); options on the command line "
            "that choose the model are ignored then.",
        ),
    ] = None,
    dashboard: Annotated[
        bool, typer.Option(envvar=["IMAGINE_DASHBOARD", "DASHBOARD"], help="Start the Ray dashboard.")
    ] = True,
    dashboard_port: Annotated[
        int,
        typer.Option(
            envvar=["IMAGINE_DASHBOARD_PORT", "DASHBOARD_PORT"],
            min=1,
            max=65535,
            help="Its port, on loopback.",
        ),
    ] = 8265,
    as_json: AsJson = False,
) -> None:
    """Start the service on this machine, print how to use it, and stop all of it on Ctrl-C."""
    from serve_app.local_service import LocalService
    from serve_app.preflight import check_port

    started = time.monotonic()
    service: LocalService | None = None
    interrupted = threading.Event()

    def on_signal(number: int, _: FrameType | None) -> None:
        interrupted.set()
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, on_signal)
    try:
        settings = _serve_settings(
            config,
            pool={
                "model": model,
                "accelerator": accelerator,
                "revision": revision,
                "dtype": dtype,
                "num_threads": num_threads or _share_of_cores(replicas),
                "min_replicas": replicas,
                "max_replicas": replicas,
            },
            pictures=pictures,
        )
        check_port(host, port)
        _check_models(settings)
        service = LocalService(
            settings, host=host, port=port, dashboard_port=dashboard_port if dashboard else None
        )
        with progress_console.status("Starting Ray and loading the model ..."):
            service.start()
            # Ray installs its own SIGTERM handler, which would skip our clean stop.
            signal.signal(signal.SIGTERM, on_signal)
        base_url = f"http://{_reachable(host)}:{port}"
        with progress_console.status("Drawing a test picture through the service ..."):
            from serve_app.first_picture import draw_first_picture

            first = draw_first_picture(base_url)
        _announce(base_url, settings, service, first, time.monotonic() - started, as_json=as_json)
        while True:
            signal.pause()
    except KeyboardInterrupt:
        progress_console.print("Stopping ...")
    except ImagineError as error:
        if service is not None:
            service.stop(keep_logs=True)
            service = None
        _fail(error, as_json=as_json)
    finally:
        if service is not None:
            # A second Ctrl-C must not leave half of the processes behind.
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            service.stop()
            progress_console.print("Stopped.")


def _serve_settings(config: Path | None, *, pool: dict[str, Any], pictures: str) -> Any:
    """Settings from the file where one is given, else from the options."""
    from pydantic import ValidationError

    from serve_app.settings import Settings, read_settings_file

    try:
        if config is not None:
            settings = read_settings_file(config)
        else:
            settings = Settings.model_validate({"pools": [pool], "store": {"url": pictures}})
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ConfigurationError(f"setting {where}: {first['msg']}") from None
    if "://" not in settings.store.url:
        settings.store.url = str(Path(settings.store.url).expanduser().resolve())
    return settings


def _check_models(settings: Any) -> None:
    """Memory, disk and model checks for every pool, before anything is started."""
    import tempfile

    from serve_app import accelerators
    from serve_app.model_source import host_bytes, locate_model
    from serve_app.preflight import check_disk, check_memory

    total = 0
    for pool in settings.pools:
        accelerator = accelerators.choose(pool.accelerator)
        source = locate_model(pool)
        total += host_bytes(source, pool, accelerator.host_bytes_per_weight(pool)) * pool.min_replicas
    check_memory(total)
    folders = [Path(tempfile.gettempdir())]
    if "://" not in settings.store.url:
        folders.append(Path(settings.store.url))
    check_disk(*folders)


def _share_of_cores(replicas: int) -> int | None:
    """Threads of one of several replicas on this machine; None leaves the choice for a single one."""
    return None if replicas == 1 else max(1, (os.cpu_count() or 1) // replicas)


def _reachable(host: str) -> str:
    """What a person on this machine types for `host`."""
    if host in ("0.0.0.0", "::", ""):
        return "127.0.0.1"
    return f"[{host}]" if ":" in host else host


def _announce(
    base_url: str, settings: Any, service: Any, first: Any, seconds: float, *, as_json: bool
) -> None:
    facts = {
        "url": base_url,
        "docs": f"{base_url}/docs",
        "dashboard": service.dashboard_url,
        "pictures": settings.store.url,
        "ready_s": round(seconds, 1),
        "test_picture_s": round(first.seconds, 2),
        "pid": os.getpid(),
    }
    if as_json:
        print(json.dumps(facts), flush=True)
        return
    out = Console()
    out.print(
        f"\n[bold green]Ready[/] after {seconds:.0f} s: a test picture passed in {first.seconds:.1f} s."
    )
    out.print(f"  API        {base_url}")
    out.print(f"  API docs   {base_url}/docs")
    out.print(f"  Browser    {base_url}/imagine?prompt=a red star on a blue background", soft_wrap=True)
    command = (
        f"curl -G {base_url}/imagine --data-urlencode 'prompt=a red star on a blue background' -o star.png"
    )
    out.print(f"  Try        {command}", soft_wrap=True, highlight=False)
    out.print(f"  Pictures   {settings.store.url} (those answered by url; /imagine answers the file itself)")
    if service.dashboard_url:
        out.print(f"  Dashboard  {service.dashboard_url}")
        if os.environ.get("RAY_AUTH_MODE") == "token" and "RAY_AUTH_TOKEN" in os.environ:
            out.print(f"             token {os.environ['RAY_AUTH_TOKEN']}", soft_wrap=True, highlight=False)
    out.print("  Stop       Ctrl-C\n")
    sys.stdout.flush()


@app.command()
def generate(
    prompt: Annotated[str, typer.Argument(help="What to draw.")],
    output: Annotated[
        Path, typer.Option("-o", "--output", help="File to write; .png, .webp or .jpg.")
    ] = Path("out.png"),
    negative_prompt: Annotated[str, typer.Option("--negative-prompt", "-n", help="What to avoid.")] = "",
    steps: Annotated[int | None, typer.Option("--steps", help="num_inference_steps.")] = None,
    guidance: Annotated[float | None, typer.Option("--guidance", help="guidance_scale.")] = None,
    size: Annotated[str | None, typer.Option("--size", help="WIDTHxHEIGHT in pixels.")] = None,
    seed: Annotated[int | None, typer.Option("--seed", help="Random when absent; always reported.")] = None,
    number: Annotated[int, typer.Option("--number", min=1, help="Pictures; each with its own seed.")] = 1,
    scheduler: Annotated[
        str | None, typer.Option("--scheduler", help="Noise scheduler, e.g. euler_a.")
    ] = None,
    model: Model = "small-sdxl",
    accelerator: Accelerator = "auto",
    revision: Revision = None,
    dtype: Dtype = "auto",
    num_threads: Threads = None,
    as_json: AsJson = False,
) -> None:
    """Draw without a server: the same model, engine and step maths in this process."""
    from serve_app.local_drawing import draw_locally
    from serve_app.request import RequestDraft, random_seed
    from serve_app.settings import PoolSettings

    try:
        width, height = _size(size)
        draft = RequestDraft(
            prompt=prompt,
            negative_prompt=negative_prompt,
            width=width,
            height=height,
            num_inference_steps=steps,
            guidance_scale=guidance,
            seed=random_seed() if seed is None else seed,
            num_images=number,
            scheduler_name=scheduler,
        )
        pool = PoolSettings.model_validate(
            {
                "model": model,
                "accelerator": accelerator,
                "revision": revision,
                "dtype": dtype,
                "num_threads": num_threads,
            }
        )
        drawn = draw_locally(draft, pool, output, console=progress_console)
    except ImagineError as error:
        _fail(error, as_json=as_json)
    except KeyboardInterrupt:
        progress_console.print("Stopped.")
        raise typer.Exit(130) from None
    if as_json:
        print(json.dumps(drawn))
    else:
        for picture in drawn["images"]:
            print(f"{picture['path']}  seed {picture['seed']}  {picture['seconds']:.2f} s")


def _size(text: str | None) -> tuple[int | None, int | None]:
    """(width, height) of ``WxH``.

    Raises:
        InvalidRequest: Not of that form.
    """
    if text is None:
        return None, None
    width, x, height = text.lower().partition("x")
    if not (x and width.isdigit() and height.isdigit()):
        raise InvalidRequest("size", f"{text!r} is not WIDTHxHEIGHT, such as 512x512")
    return int(width), int(height)


@app.command()
def models(as_json: AsJson = False) -> None:
    """List the models that can be served without a download: the bundled one and those in the hub's cache."""
    from rich.table import Table

    from serve_app.model_source import local_models

    found = local_models()
    if as_json:
        print(json.dumps(found))
        return
    table = Table("model", "from", "weights", "size", "steps", "guidance", box=None)
    for entry in found:
        table.add_row(
            entry["model"],
            entry["source"],
            f"{entry['weights'] / 1e6:.1f} M",
            f"{entry['width']}x{entry['height']}",
            str(entry["num_inference_steps"]),
            f"{entry['guidance_scale']:g}",
        )
    Console().print(table)


@app.callback(invoke_without_command=True)
def version(
    show: Annotated[bool, typer.Option("--version", help="Print the version and leave.")] = False,
) -> None:
    if show:
        from serve_app import __version__

        print(__version__)
        raise typer.Exit


if __name__ == "__main__":
    app()
