"""A proxy as clusters have in front: what is under a path prefix goes to the service, without the prefix."""

from __future__ import annotations

import http.client
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

_ANSWER_S = 120.0
_HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "content-length", "host"}


@contextmanager
def gateway(service_url: str, prefix: str) -> Iterator[tuple[str, list[str]]]:
    """A running proxy: its address, and the paths that it was asked for.

    Args:
        service_url: Where it sends what it gets.
        prefix: What it cuts off, such as ``/serve``; everything else is answered 404.
    """
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            """Says nothing."""

        def forward(self) -> None:
            asked.append(self.path)
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if not self.path.startswith(prefix + "/"):
                self.send_error(404)
                return
            service = urlsplit(service_url)
            connection = http.client.HTTPConnection(service.netloc, timeout=_ANSWER_S)
            headers = {name: value for name, value in self.headers.items() if name.lower() not in _HOP_BY_HOP}
            headers["X-Forwarded-Prefix"] = prefix
            headers["X-Forwarded-Host"] = self.headers["Host"]
            try:
                connection.request(
                    self.command, service.path + self.path[len(prefix) :], body or None, headers
                )
                answer = connection.getresponse()
                self.send_response(answer.status)
                for name, value in answer.getheaders():
                    if name.lower() not in _HOP_BY_HOP:
                        self.send_header(name, value)
                # Its length may be unknown, as of an event stream: the end of the connection is the end of the answer.
                self.send_header("Connection", "close")
                self.end_headers()
                while chunk := answer.read1(65536):
                    self.wfile.write(chunk)
                    self.wfile.flush()
            except OSError:
                pass  # either side is gone
            finally:
                connection.close()
                self.close_connection = True

        do_GET = do_POST = do_DELETE = forward

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
