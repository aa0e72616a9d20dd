"""``python -m gradio_ui``: serves the page until it is stopped."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time

# Before Gradio is imported: it asks nobody about versions and tells nobody that it runs.
os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import uvicorn

from gradio_ui.app import build
from gradio_ui.client import HttpService
from gradio_ui.settings import SettingError, UiSettings


def main() -> int:
    """Runs the page; the exit status tells whether it could be started."""
    # Told, not asked for here: a parent that has died before it is asked for would be taken for init.
    if parent := os.environ.get("UI_PARENT_PID"):
        threading.Thread(target=_end_with, args=(int(parent),), daemon=True).start()
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    try:
        settings = UiSettings.from_environment()
    except SettingError as error:
        print(f"gradio_ui: {error}", file=sys.stderr)
        return 1
    service = HttpService(settings.service_url, api_key=settings.api_key)
    config = uvicorn.Config(
        build(settings, service),
        host=settings.host,
        port=settings.port,
        log_level="warning",
        # Event streams of open pages end by themselves only when something happens.
        timeout_graceful_shutdown=2,
        proxy_headers=True,
    )
    print(
        f"imagine page on http://{settings.host}:{settings.port}, drawing at {settings.service_url}",
        flush=True,
    )
    server = uvicorn.Server(config)
    server.run()
    return 0 if server.started else 1


def _end_with(parent: int) -> None:
    """Ends this process when its parent is gone, however that ended: nobody else would."""
    while os.getppid() == parent:
        time.sleep(1.0)
    signal.raise_signal(signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main())
