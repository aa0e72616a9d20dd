"""A real Chromium, driven by Playwright, that may talk to this machine only; and the web page beside the service."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

from tests.browser.studio import Studio
from tests.running_service import RunningService, free_port
from tests.serve.processes import Running, running

# Without these Chromium itself calls its maker's hosts at every start.
_QUIET = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
# Bounds, not measurements: a machine that does other things too is slow.
expect.set_options(timeout=30_000)
SCREENSHOTS = Path(__file__).parents[2] / "out" / "screenshots"
"""Where tests leave pictures of what they saw, for people to look at."""


@pytest.fixture(scope="session")
def chromium() -> str:
    """Path of the installed Chromium."""
    for name in ("chromium", "chromium-browser", "google-chrome"):
        path = shutil.which(name)
        if path is not None:
            return path
    pytest.skip("no Chromium on this machine (apt-get install chromium)")


@pytest.fixture
def browser(chromium: str) -> Iterator[Browser]:
    """A running Chromium."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=_QUIET)
        try:
            yield browser
        finally:
            browser.close()


@pytest.fixture
def new_context(browser: Browser) -> Iterator[Callable[..., BrowserContext]]:
    """Makes browser contexts, profiles of their own. A request to any other host or a script's error fails the test."""
    strangers: list[str] = []
    errors: list[str] = []

    def make(**options: object) -> BrowserContext:
        context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **options})  # type: ignore[arg-type]
        context.on("request", lambda request: strangers.append(request.url))
        # Gradio tells of an element's script that fails on the console only.
        context.on(
            "console", lambda line: errors.append(line.text) if line.text.startswith("Error exec") else None
        )
        context.on("weberror", lambda error: errors.append(f"{error.error} {error.error.stack}"))
        return context

    yield make
    outside = [url for url in strangers if not url.startswith(("http://127.0.0.1:", "data:", "blob:"))]
    assert outside == []
    assert errors == []


@pytest.fixture
def page(new_context: Callable[..., BrowserContext]) -> Page:
    """A page in a profile of its own."""
    return new_context(viewport={"width": 1100, "height": 800}).new_page()


@contextmanager
def web_page(service_url: str, folder: Path, port: int | None = None) -> Iterator[tuple[str, Running]]:
    """The web page's own process, drawing at `service_url`. Gives its address and the process."""
    pytest.importorskip("gradio")
    listens = port or free_port()
    url = f"http://127.0.0.1:{listens}"
    command = [sys.executable, "-m", "gradio_ui"]
    with running(
        command, folder, SERVICE_NAME=service_url, UI_PORT=str(listens), UI_PARENT_PID=str(os.getpid())
    ) as process:
        deadline = time.monotonic() + 180.0
        while True:
            assert process.process.poll() is None, process.log.read_text()
            assert time.monotonic() < deadline, process.log.read_text()
            try:
                httpx.get(url, timeout=10.0, trust_env=False).raise_for_status()
                break
            except httpx.TransportError:
                time.sleep(0.2)
        yield url, process


@pytest.fixture(scope="session")
def studio(chromium: str, service: RunningService, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of the web page that draws at the session's service."""
    with ExitStack() as stack:
        url, _ = stack.enter_context(web_page(service.url, tmp_path_factory.mktemp("studio")))
        yield url


@pytest.fixture
def context(new_context: Callable[..., BrowserContext]) -> BrowserContext:
    """A browser of nobody yet."""
    return new_context()


@pytest.fixture
def desk(context: BrowserContext, studio: str) -> Iterator[Studio]:
    """The page, open in it; no traceback may be left there."""
    desk = Studio(context.new_page(), studio)
    yield desk
    assert "Traceback" not in desk.page.locator("body").inner_text()
