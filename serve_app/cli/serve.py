"""``imagine serve``: the whole service on this machine, until Ctrl-C."""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

import typer
from rich.console import Console

from serve_app.cli.options import (
    Accelerator,
    AsJson,
    Dtype,
    Model,
    Revision,
    Threads,
    fail,
    key_of,
    progress_console,
    wrong_setting,
)
from serve_app.errors import ConfigurationError, ImagineError

POOL_OPTIONS = ("model", "accelerator", "revision", "dtype", "num_threads", "replicas")
"""Each makes a pool of its own on the command line; without any of them ``IMAGINE_POOLS`` says what the pools are."""


def serve(
    context: typer.Context,
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
        int | None,
        typer.Option(
            envvar=["IMAGINE_DASHBOARD_PORT", "DASHBOARD_PORT"],
            min=1,
            max=65535,
            help="Its port, on loopback; 8265 or the next free one when absent.",
        ),
    ] = None,
    metrics_port: Annotated[
        int | None,
        typer.Option(
            envvar=["IMAGINE_METRICS_PORT", "METRICS_PORT"],
            min=1,
            max=65535,
            help="Port for Prometheus, on all addresses; a free one when absent.",
        ),
    ] = None,
    ui: Annotated[
        bool, typer.Option(envvar=["IMAGINE_UI", "UI"], help="Start the web page too, where it is installed.")
    ] = True,
    ui_port: Annotated[
        int | None,
        typer.Option(
            envvar=["IMAGINE_UI_PORT", "UI_PORT"],
            min=1,
            max=65535,
            help="Its port; 7860 or the next free one when absent.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Start the service and its web page on this machine, print how to use them, and stop all of it on Ctrl-C."""
    from serve_app.local_page import FIRST_PORT, LocalPage, page_is_installed
    from serve_app.local_service import LocalService
    from serve_app.local_watch import keep_up
    from serve_app.preflight import check_port, different_ports, free_port

    started = time.monotonic()
    service: LocalService | None = None
    page: LocalPage | None = None
    page_url: str | None = None

    def on_signal(number: int, _: FrameType | None) -> None:
        raise KeyboardInterrupt

    # Explicitly: a shell that starts us in the background has SIGINT ignored.
    signal.signal(signal.SIGINT, on_signal)
    signal.signal(signal.SIGTERM, on_signal)
    try:
        pool = {
            "model": model,
            "accelerator": accelerator,
            "revision": revision,
            "dtype": dtype,
            "num_threads": num_threads or _share_of_cores(replicas),
            "min_replicas": replicas,
            "max_replicas": replicas,
        }
        settings = _serve_settings(
            config,
            pool=pool if _given(context, *POOL_OPTIONS) else None,
            pictures=pictures if _given(context, "pictures") else None,
        )
        api_key = _own_key(settings)
        with_page = ui and page_is_installed()
        asked = different_ports(
            PORT=port,
            METRICS_PORT=metrics_port,
            DASHBOARD_PORT=dashboard_port if dashboard else None,
            UI_PORT=ui_port if with_page else None,
        )
        check_port(host, port)
        if metrics_port is not None:
            check_port("0.0.0.0", metrics_port, setting="METRICS_PORT")
        base_url = f"http://{_reachable(host)}:{port}"
        dashboard_on = (
            free_port(dashboard_port, 8265, "127.0.0.1", "DASHBOARD_PORT", asked) if dashboard else None
        )
        page_on = free_port(ui_port, FIRST_PORT, host, "UI_PORT", asked) if with_page else None
        _check_models(settings)
        if page_on is not None:
            page = LocalPage(
                host=host,
                port=page_on,
                service_url=base_url,
                dashboard_url=None if dashboard_on is None else f"http://127.0.0.1:{dashboard_on}",
            )
            page_url = f"http://{_reachable(host)}:{page_on}"
            page.start()
        service = LocalService(
            settings, host=host, port=port, dashboard_port=dashboard_on, metrics_port=metrics_port
        )
        with progress_console.status("Starting Ray and loading the model ..."):
            service.start()
            # Ray installs its own SIGTERM handler, which would skip our clean stop.
            signal.signal(signal.SIGTERM, on_signal)
        with progress_console.status("Drawing a test picture through the service ..."):
            from serve_app.first_picture import draw_first_picture

            first = draw_first_picture(base_url, api_key)
            if page is not None and page_url is not None:
                page.wait_until_ready(page_url)
        seconds = time.monotonic() - started
        _announce(base_url, page_url, settings, service, first, seconds, as_json=as_json)
        keep_up(service, page, partial(progress_console.print, soft_wrap=True))
    except KeyboardInterrupt:
        progress_console.print("Stopping ...")
    except ImagineError as error:
        if page is not None:
            page.stop()
            page = None
        if service is not None:
            service.stop(keep_logs=True)
            service = None
        fail(error, as_json=as_json)
    finally:
        # A second Ctrl-C must not leave half of the processes behind.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        if page is not None:
            page.stop()
        if service is not None:
            service.stop()
            progress_console.print("Stopped.")


def _given(context: typer.Context, *names: str) -> bool:
    """Whether one of these options was said, on the line or by its variable: what was not leaves other sources room."""
    sources = [context.get_parameter_source(name) for name in names]
    return any(source is not None and source.name != "DEFAULT" for source in sources)


def _serve_settings(config: Path | None, *, pool: dict[str, Any] | None, pictures: str | None) -> Any:
    """Settings from the file where one is given, else from the options that are; the environment has the rest."""
    from pydantic import ValidationError

    from serve_app.settings import Settings, read_settings_file

    try:
        if config is not None:
            settings = read_settings_file(config)
        else:
            settings = Settings.model_validate(
                ({} if pool is None else {"pools": [pool]})
                | ({} if pictures is None else {"store": {"url": pictures}})
            )
    except ValidationError as error:
        raise wrong_setting(error) from None
    if "://" not in settings.store.url:
        settings.store.url = str(Path(settings.store.url).expanduser().resolve())
    return settings


def _check_models(settings: Any) -> None:
    """Memory, disk and model checks for every pool, before anything is started."""
    from serve_app import accelerators
    from serve_app.model_source import host_bytes, locate_model
    from serve_app.preflight import check_disk, check_memory

    total = 0
    for pool in settings.pools:
        accelerator = accelerators.of_pool(pool)
        if not accelerator.available():
            # Ray would wait for such a machine for ever.
            raise ConfigurationError(
                f"this machine has no device for accelerator {accelerator.name}; set ACCELERATOR=auto or another one"
            )
        source = locate_model(pool)
        total += host_bytes(source, pool, accelerator.host_bytes_per_weight(pool)) * pool.min_replicas
    check_memory(total)
    folders = [Path(tempfile.gettempdir())]
    if "://" not in settings.store.url:
        folders.append(Path(settings.store.url))
    check_disk(*folders)


def _own_key(settings: Any) -> str | None:
    """The key for the test picture, which the web page takes from the environment too; None where none is needed.

    Raises:
        ConfigurationError: One is needed and not given, or the file of keys cannot be used.
    """
    if settings.access.keys_file is None:
        return None
    from serve_app.api_keys import ApiKeys

    ApiKeys(Path(settings.access.keys_file))
    key = key_of(os.environ.get("IMAGINE_API_KEY"))
    if key is None:
        raise ConfigurationError(
            "access.keys_file is set: put one of its keys into IMAGINE_API_KEY, for the test picture and the web page"
        )
    return key


def _share_of_cores(replicas: int) -> int | None:
    """Threads of one of several replicas on this machine; None leaves the choice for a single one."""
    from serve_app.cpu_topology import physical_cores

    return None if replicas == 1 else max(1, len(physical_cores()) // replicas)


def _reachable(host: str) -> str:
    """What a person on this machine types for `host`."""
    if host in ("0.0.0.0", "::", ""):
        return "127.0.0.1"
    return f"[{host}]" if ":" in host else host


def _announce(
    base_url: str,
    page_url: str | None,
    settings: Any,
    service: Any,
    first: Any,
    seconds: float,
    *,
    as_json: bool,
) -> None:
    facts = {
        "url": base_url,
        "page": page_url,
        "docs": f"{base_url}/docs",
        "dashboard": service.dashboard_url,
        "metrics": service.metrics_url,
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
    out.print(
        f"  Web page   {page_url or 'none (it needs the extra ui: pip install -e .[ui])'}", markup=False
    )
    out.print(f"  API        {base_url}")
    out.print(f"  API docs   {base_url}/docs")
    out.print(f"  Browser    {base_url}/imagine?prompt=a red star on a blue background", soft_wrap=True)
    key = ' -H "Authorization: Bearer $IMAGINE_API_KEY"' if settings.access.keys_file else ""
    command = f"curl -G {base_url}/imagine{key} --data-urlencode 'prompt=a red star on a blue background' -o star.png"
    out.print(f"  Try        {command}", soft_wrap=True, highlight=False)
    out.print(f"  Pictures   {settings.store.url} (those answered by url; /imagine answers the file itself)")
    out.print(f"  Metrics    {service.metrics_url} (Prometheus)")
    if service.dashboard_url:
        out.print(f"  Dashboard  {service.dashboard_url}")
        if os.environ.get("RAY_AUTH_MODE") == "token" and "RAY_AUTH_TOKEN" in os.environ:
            out.print(f"             token {os.environ['RAY_AUTH_TOKEN']}", soft_wrap=True, highlight=False)
    out.print("  Stop       Ctrl-C\n")
    sys.stdout.flush()
