"""The HTTP application over a fake service, without a socket or, for real clients, on a free port of loopback."""

from __future__ import annotations

import functools
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import pytest
import uvicorn
from fastapi import FastAPI

from serve_app.api import build_app
from serve_app.api.deps import get_service
from serve_app.fake_service import FakeImageService
from serve_app.settings import Settings, StoreSettings

ClientFor = Callable[[FakeImageService], httpx.AsyncClient]
ServedAt = Callable[[FakeImageService], str]


@functools.cache
def _app(max_body_bytes: int, trust_forwarded_headers: bool) -> FastAPI:
    # Building it takes longer than most tests, and it keeps nothing of a request.
    return build_app(Settings(max_body_bytes=max_body_bytes, trust_forwarded_headers=trust_forwarded_headers))


def own_app(service: FakeImageService) -> FastAPI:
    """An application of all of the service's settings, for those that `client_for` does not tell apart."""
    app = build_app(service.settings)
    app.dependency_overrides[get_service] = lambda: service
    return app


def client_of(app: FastAPI) -> httpx.AsyncClient:
    """A client without a socket."""
    # As a real server does: an error of ours becomes a 500, it is not raised into the client.
    transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:5000")


@contextmanager
def served(service: FakeImageService) -> Iterator[str]:
    """Serves `service` by a real HTTP server in a thread of its own.

    Yields:
        Its address, without a slash at the end.
    """
    app = own_app(service)
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="error", lifespan="off"))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
        thread.start()
        deadline = time.monotonic() + 10
        while not server.started and time.monotonic() < deadline:
            time.sleep(0.01)
        assert server.started
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(10)


def client_for(service: FakeImageService) -> httpx.AsyncClient:
    app = _app(service.settings.max_body_bytes, service.settings.trust_forwarded_headers)
    app.dependency_overrides[get_service] = lambda: service
    return client_of(app)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(store=StoreSettings(url=str(tmp_path / "pictures")))


@pytest.fixture
def service(settings: Settings) -> FakeImageService:
    return FakeImageService(settings)


@pytest.fixture
async def client(service: FakeImageService) -> AsyncIterator[httpx.AsyncClient]:
    async with client_for(service) as client:
        yield client


@pytest.fixture
def make_client() -> ClientFor:
    return client_for


@pytest.fixture
def served_at() -> Iterator[ServedAt]:
    """Serves a fake service until the end of the test, and gives its address."""
    with ExitStack() as stack:
        yield lambda service: stack.enter_context(served(service))
