"""A real Chromium, driven by Playwright, that may talk to this machine only."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, sync_playwright

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


@pytest.fixture(scope="session")
def chromium() -> str:
    """Path of the installed Chromium."""
    for name in ("chromium", "chromium-browser", "google-chrome"):
        path = shutil.which(name)
        if path is not None:
            return path
    pytest.skip("no Chromium on this machine (apt-get install chromium)")


@pytest.fixture
def page(chromium: str, tmp_path: Path) -> Iterator[Page]:
    """A page whose requests to any other host fail the test."""
    strangers: list[str] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=_QUIET)
        try:
            page = browser.new_page(viewport={"width": 1100, "height": 800})
            page.on("request", lambda request: strangers.append(request.url))
            yield page
        finally:
            browser.close()
    outside = [url for url in strangers if not url.startswith(("http://127.0.0.1:", "data:", "blob:"))]
    assert outside == []
