"""A proxy between a client and the service that passes everything on and remembers it."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tests.open_webui.recorded import Sent

_OF_ONE_CONNECTION = {"connection", "content-length", "host", "keep-alive", "transfer-encoding"}


@dataclass(frozen=True)
class Exchange:
    """A request and what the service answered.

    Attributes:
        sent: The request.
        status: Status of the answer.
        answer: Its JSON body.
    """

    sent: Sent
    status: int
    answer: Any


class Recorder:
    """Remembers exchanges.

    Args:
        target: Base url of the service.

    Attributes:
        url: Base url for the client, once it is served.
    """

    def __init__(self, target: str) -> None:
        self._target = target
        self._exchanges: list[Exchange] = []
        self.url = ""

    def take(self) -> list[Exchange]:
        """What has passed since the last call."""
        taken, self._exchanges = self._exchanges, []
        return taken

    async def pass_on(self, request: Request) -> Response:
        """Sends the request on to the service, and its answer back."""
        body = await request.body()
        url = self._target + request.scope["raw_path"].decode("ascii")
        # Space around a value is no part of it by HTTP's rules, and httpx refuses to send the one behind "Basic ".
        headers = {
            name: value.strip() for name, value in request.headers.items() if name not in _OF_ONE_CONNECTION
        }
        async with httpx.AsyncClient(timeout=120.0, trust_env=False) as client:
            answer = await client.request(
                request.method, url, params=request.query_params, headers=headers, content=body
            )
        sent = Sent(
            method=request.method,
            path=request.scope["path"],
            authorization=request.headers.get("authorization", "").strip(),
            body=json.loads(body) if body else None,
        )
        self._exchanges.append(Exchange(sent, answer.status_code, answer.json()))
        return Response(
            answer.content, answer.status_code, media_type=answer.headers.get("content-type", "text/plain")
        )


@contextmanager
def recording(target: str) -> Iterator[Recorder]:
    """Runs a recorder on a free port of loopback."""
    recorder = Recorder(target)
    methods = ["GET", "POST", "DELETE"]
    app = Starlette(routes=[Route("/{path:path}", recorder.pass_on, methods=methods)])
    server = uvicorn.Server(uvicorn.Config(app, log_level="error", lifespan="off"))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
        thread.start()
        deadline = time.monotonic() + 10
        while not server.started and time.monotonic() < deadline:
            time.sleep(0.01)
        assert server.started
        recorder.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        try:
            yield recorder
        finally:
            server.should_exit = True
            thread.join(10)
