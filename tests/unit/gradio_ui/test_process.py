"""``python -m gradio_ui`` as `serve_app.local_page` starts it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import httpx
import psutil
import pytest

from serve_app.errors import ConfigurationError
from serve_app.local_page import LocalPage, page_is_installed
from tests.running_service import free_port

pytestmark = pytest.mark.skipif(not page_is_installed(), reason="the web page is not installed")


def test_the_page_runs_before_its_service_and_stops() -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    page = LocalPage(host="127.0.0.1", port=port, service_url="http://127.0.0.1:9", dashboard_url=None)
    page.start()
    try:
        page.wait_until_ready(url)
        health = httpx.get(f"{url}/studio/health", timeout=20.0, trust_env=False).json()
        assert health["ready"] is False
        assert "does not answer" in health["words"]
    finally:
        page.stop()
    with pytest.raises(httpx.TransportError):
        httpx.get(url, timeout=5.0, trust_env=False)


def test_a_page_that_cannot_start_is_told() -> None:
    page = LocalPage(host="127.0.0.1", port=free_port(), service_url="ftp://nowhere", dashboard_url=None)
    page.start()
    with pytest.raises(ConfigurationError, match="ended with status 1; leave it out with UI=false"):
        page.wait_until_ready("http://127.0.0.1:9")


@pytest.mark.parametrize("listens_before", [True, False])
def test_the_page_ends_when_what_started_it_is_killed(listens_before: bool) -> None:
    parent = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import os, subprocess, sys, time;"
            "environment = {**os.environ, 'UI_PARENT_PID': str(os.getpid())};"
            "page = subprocess.Popen([sys.executable, '-m', 'gradio_ui'], env=environment);"
            "print(page.pid, flush=True); time.sleep(600)",
        ],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "UI_PORT": str(free_port())},
    )
    assert parent.stdout is not None
    page = psutil.Process(int(parent.stdout.readline()))
    try:
        if listens_before:
            assert "imagine page on" in parent.stdout.readline()
        parent.send_signal(signal.SIGKILL)
        parent.wait(10)
        page.wait(60)
    finally:
        if page.is_running():
            page.kill()
