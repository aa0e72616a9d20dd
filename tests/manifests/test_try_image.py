"""What docker/try-image.sh runs inside an image: it notices what is wrong, and gets through where all is well."""

from __future__ import annotations

import importlib
import json
import os
import struct
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import StreamingResponse

from tests.manifests.rendering import ROOT
from tests.running_service import free_port


@pytest.fixture
def parts(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Gives its modules by their names, as ``python docker/try_image`` imports them."""
    monkeypatch.syspath_prepend(str(ROOT / "docker" / "try_image"))
    yield importlib.import_module
    for name in ("container", "gateway", "page"):
        sys.modules.pop(name, None)


@pytest.fixture
def serving() -> Iterator[Any]:
    """Serves ASGI applications of this process; gives the address of each."""
    servers = []

    def serve(app: FastAPI) -> str:
        port = free_port()
        server = uvicorn.Server(uvicorn.Config(app, port=port, log_level="warning"))
        thread = threading.Thread(target=server.run, daemon=True)
        thread.start()
        deadline = time.monotonic() + 60
        while not server.started:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        servers.append((server, thread))
        return f"http://127.0.0.1:{port}"

    yield serve
    for server, thread in servers:
        server.should_exit = True
        thread.join(30)


def configuration(tmp_path: Path, **config: Any) -> Path:
    file = tmp_path / "image.json"
    file.write_text(json.dumps({"Docker": {"config": config}}))
    return file


CHECK = {"Interval": 15e9, "Timeout": 5e9, "StartPeriod": 60e9, "Retries": 4}


def test_it_reads_what_the_image_says(parts: Any, tmp_path: Path) -> None:
    image = parts("container").Image.read(
        configuration(
            tmp_path,
            User="1000:1000",
            Entrypoint=["tini", "--"],
            Cmd=["imagine", "serve"],
            ExposedPorts={"8000/tcp": {}},
            Healthcheck={"Test": ["CMD-SHELL", "exit 0"], **CHECK},
        )
    )
    assert image.command == ("tini", "--", "imagine", "serve")
    assert image.ports == {8000}
    assert image.healthy_within_s == 60 + 4 * (15 + 5)
    assert parts("container").is_healthy(image)


def test_an_image_without_a_health_check_is_refused(parts: Any, tmp_path: Path) -> None:
    with pytest.raises(parts("container").Fault, match="HEALTHCHECK"):
        parts("container").Image.read(configuration(tmp_path, User="1000:1000"))


def test_a_command_that_ends_is_noticed(parts: Any, tmp_path: Path) -> None:
    container = parts("container")
    image = container.Image.read(
        configuration(tmp_path, Cmd=["false"], Healthcheck={"Test": ["CMD", "false"], **CHECK})
    )
    process = subprocess.Popen(image.command)
    with pytest.raises(container.Fault, match="ended with status 1"):
        container.wait_until_healthy(image, process)


def test_what_was_written_is_found(parts: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    container = parts("container")
    began_s = time.time() - 1
    (tmp_path / "file").write_text("x")
    monkeypatch.setattr(container, "ROOT", str(tmp_path))
    monkeypatch.setattr(container, "WRITABLE", ())
    assert container.written_since(began_s) == [str(tmp_path / "file")]
    assert container.written_since(time.time() + 60) == []
    monkeypatch.setattr(container, "WRITABLE", (str(tmp_path / "volume"),))
    (tmp_path / "volume").mkdir()
    (tmp_path / "volume" / "more").write_text("x")
    assert container.written_since(began_s) == [str(tmp_path / "file")]


def test_own_processes_are_those_of_the_same_file_system_but_ours(parts: Any) -> None:
    child = subprocess.Popen(["sleep", "60"])
    try:
        found = parts("container").own_processes()
        assert found[child.pid] == "sleep 60"
        assert os.getpid() not in found
    finally:
        child.kill()
        child.wait()
    assert child.pid not in parts("container").own_processes()


def test_no_png_is_no_picture(parts: Any) -> None:
    container = parts("container")
    png = b"\x89PNG\r\n\x1a\n" + struct.pack(">I4sII", 13, b"IHDR", 640, 480)
    assert container.png_size(png) == (640, 480)
    with pytest.raises(container.Fault, match="no PNG"):
        container.png_size(b'{"error": "no"}')


def test_the_gateway_cuts_its_prefix_off_and_passes_streams_on(parts: Any, serving: Any) -> None:
    app, released = FastAPI(), threading.Event()

    @app.post("/echo")
    async def echo(request: Request) -> Any:
        said = {"path": request.url.path, "query": request.url.query, "body": (await request.body()).decode()}
        return {**said, "prefix": request.headers["x-forwarded-prefix"]}

    @app.get("/stream")
    def stream() -> StreamingResponse:
        def parts_of_it() -> Iterator[str]:
            yield "first\n"
            released.wait(30)
            yield "second\n"

        return StreamingResponse(parts_of_it())

    with parts("gateway").gateway(serving(app), "/serve") as (address, asked):
        request = urllib.request.Request(f"{address}/serve/echo?a=1", b"hello", method="POST")
        assert json.load(urllib.request.urlopen(request, timeout=30)) == {
            "path": "/echo",
            "query": "a=1",
            "body": "hello",
            "prefix": "/serve",
        }
        with urllib.request.urlopen(f"{address}/serve/stream", timeout=30) as answer:
            assert answer.readline() == b"first\n"  # before the second one is there
            released.set()
            assert answer.readline() == b"second\n"
        assert parts("container").get(f"{address}/echo")[0] == 404
        assert asked == ["/serve/echo?a=1", "/serve/stream", "/echo"]


def test_it_draws_through_the_page_as_it_is(parts: Any, serving: Any) -> None:
    pytest.importorskip("gradio")
    from gradio_ui.app import build
    from gradio_ui.client import ServiceError
    from gradio_ui.fake_client import FakeService
    from gradio_ui.settings import UiSettings

    service = FakeService()
    address = serving(build(UiSettings(), service))
    page = parts("page")
    assert page.draw(address).startswith("a image/png of 512x512 on fake")
    assert service.orders[0]["prompt"] == page.PROMPT
    assert (service.orders[0]["seed"], service.orders[0]["num_inference_steps"]) == (int(page.SEED), 4)
    service.refusal = ServiceError("too much to do", status=503)
    with pytest.raises(parts("container").Fault, match="refused"):
        page.draw(address)
