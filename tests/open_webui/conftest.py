"""A real Open WebUI, set up by the lines of the README, in front of the service."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.open_webui.recorder import Exchange, Recorder, recording
from tests.running_service import RunningService, free_port
from tests.serve.processes import Running, running

ROOT = Path(__file__).parents[2]
START_S = 280.0
"""It imports for ten seconds on an idle machine, and makes its database."""

# No account, no host but this service, and none of the parts that requirements/open-webui.txt leaves out.
_ENVIRONMENT = {
    "WEBUI_AUTH": "False",
    "WEBUI_SECRET_KEY": "for this test alone",
    "OFFLINE_MODE": "true",
    "USE_SLIM_DOCKER": "true",
    "ENABLE_OLLAMA_API": "false",
    "ENABLE_OPENAI_API": "false",
    "ENABLE_VERSION_UPDATE_CHECK": "false",
    "NO_PROXY": "127.0.0.1",
    "PYTHONPATH": "",
}


class OpenWebUI:
    """The running server, by its own HTTP interface.

    Args:
        client: Signed in as its administrator.
        recorder: Between it and the service.
    """

    def __init__(self, client: httpx.Client, recorder: Recorder) -> None:
        self._client = client
        self._recorder = recorder

    @property
    def service_url(self) -> str:
        """Base url under which it can be told of the service."""
        return self._recorder.url

    def settings(self) -> dict[str, Any]:
        """Its settings for images."""
        settings: dict[str, Any] = self._client.get("/api/v1/images/config").raise_for_status().json()
        return settings

    def save(self, **changes: Any) -> list[Exchange]:
        """Saves its settings for images, some of them changed, as its admin page does."""
        self._recorder.take()
        settings = {**self.settings(), **changes}
        answer = self._client.post("/api/v1/images/config/update", json=settings)
        assert answer.status_code == 200, answer.text
        exchanges = self._recorder.take()
        assert self.settings() == settings
        return exchanges

    def ask(self, method: str, path: str, body: object = None) -> tuple[httpx.Response, list[Exchange]]:
        """One request to its routes for images, and what passed between it and the service meanwhile."""
        self._recorder.take()
        answer = self._client.request(method, f"/api/v1/images/{path}", json=body)
        return answer, self._recorder.take()

    def draw(self, **body: Any) -> tuple[list[bytes], list[Exchange]]:
        """Draws pictures.

        Returns:
            The files it has stored, and what passed between it and the service.
        """
        answer, exchanges = self.ask("POST", "generations", body)
        assert answer.status_code == 200, f"{answer.text}\n{exchanges}"
        stored = answer.json()
        assert [picture["content_type"] for picture in stored] == ["image/png"] * len(stored)
        return [self._client.get(picture["url"]).raise_for_status().content for picture in stored], exchanges


def readme_environment(engine: str) -> dict[str, str]:
    """The environment that the README gives for one of Open WebUI's engines."""
    blocks = re.findall(r"^```ini\n(.*?)^```", (ROOT / "README.md").read_text(), flags=re.M | re.S)
    environments = [dict(line.split("=", 1) for line in block.splitlines()) for block in blocks]
    (found,) = [one for one in environments if one.get("IMAGE_GENERATION_ENGINE") == engine]
    return found


def _wait_until_ready(client: httpx.Client, process: Running) -> None:
    deadline = time.monotonic() + START_S
    while True:
        assert process.process.poll() is None, process.log.read_text()
        assert time.monotonic() < deadline, process.log.read_text()
        try:
            if client.get("/ready").status_code == 200:
                return
        except httpx.ConnectError:
            pass  # it listens only after a while
        time.sleep(0.2)


@pytest.fixture(scope="session")
def recorder(service: RunningService) -> Iterator[Recorder]:
    """Between Open WebUI and the service."""
    with recording(service.url) as recorder:
        yield recorder


@pytest.fixture(scope="session")
def open_webui(recorder: Recorder, tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenWebUI]:
    """Open WebUI with the README's environment for its engine openai, but for the host."""
    program = os.environ.get("OPEN_WEBUI")
    assert program, "these tests are run by `make test-open-webui`"
    folder = tmp_path_factory.mktemp("open-webui")
    (folder / "data").mkdir()
    environment = {
        name: value.replace("http://127.0.0.1:8000", recorder.url)
        for name, value in readme_environment("openai").items()
    }
    port = free_port()
    command = [program, "serve", "--host", "127.0.0.1", "--port", str(port)]
    with (
        running(command, folder, **_ENVIRONMENT, **environment, DATA_DIR=str(folder / "data")) as process,
        httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=120.0, trust_env=False) as client,
    ):
        _wait_until_ready(client, process)
        signed_in = client.post("/api/v1/auths/signin", json={"email": "", "password": ""})
        assert signed_in.status_code == 200, signed_in.text
        client.headers["Authorization"] = f"Bearer {signed_in.json()['token']}"
        yield OpenWebUI(client, recorder)
