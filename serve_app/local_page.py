"""The web page beside a local service: `gradio_ui` as a child process, started and stopped with it."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import time
from collections.abc import Mapping

import httpx

from serve_app.errors import ConfigurationError

FIRST_PORT = 7860
START_TIMEOUT_S = 120.0
LIVED_S = 60.0
"""A page that ends by itself sooner than this would only do so again."""

_STOP_S = 3.0


def page_is_installed() -> bool:
    """Whether this environment has what the page needs (the extra ``ui``)."""
    return all(importlib.util.find_spec(name) is not None for name in ("gradio", "gradio_ui"))


class LocalPage:
    """The page's process.

    Args:
        host: Address it listens on.
        port: Its port.
        service_url: The service, which may come up later than the page.
        dashboard_url: Ray dashboard for its link, or None.
    """

    def __init__(self, *, host: str, port: int, service_url: str, dashboard_url: str | None) -> None:
        self._address = (host, port)
        self._environment: Mapping[str, str] = {
            **os.environ,
            "SERVICE_NAME": service_url,
            "MODEL_ENDPOINT": "/imagine",
            "SERVICE_PUBLIC_URL": service_url,
            "DASHBOARD_URL": dashboard_url or "",
            "UI_HOST": host,
            "UI_PORT": str(port),
            "UI_PARENT_PID": str(os.getpid()),
        }
        self._process: subprocess.Popen[bytes] | None = None
        self._started_at = 0.0
        self._given_up = False

    def start(self) -> None:
        """Starts the process and returns at once: it loads for some seconds while Ray starts too."""
        self._started_at = time.monotonic()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "gradio_ui"],
            env=dict(self._environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )

    def wait_until_ready(self, url: str) -> None:
        """Returns when the page answers.

        Args:
            url: Its address as reached from here.

        Raises:
            ConfigurationError: It ended, or did not answer within `START_TIMEOUT_S`.
        """
        assert self._process is not None, "not started"
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                raise ConfigurationError(
                    f"the web page ended with status {self._process.returncode}; leave it out with UI=false"
                )
            try:
                if httpx.get(url, timeout=5.0, trust_env=False).is_success:
                    return
            except httpx.TransportError:
                pass  # it does not listen yet
            time.sleep(0.1)
        raise ConfigurationError(f"the web page did not answer at {url} within {START_TIMEOUT_S:.0f} s")

    def revive(self) -> str | None:
        """Starts the process again where it has ended by itself, but not one that ends as soon as it runs.

        Returns:
            What has happened, in a sentence for a person; None where nothing has.
        """
        assert self._process is not None, "not started"
        status = self._process.poll()
        if status is None or self._given_up:
            return None
        if time.monotonic() - self._started_at < LIVED_S:
            self._given_up = True
            return (
                f"The web page has ended with status {status}, and is not started again. The service goes on."
            )
        self.start()
        return f"The web page has ended with status {status}, and is started again."

    def stop(self) -> None:
        """Stops the process; drawings go on in the service."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
