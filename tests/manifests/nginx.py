"""A real nginx with the rules of the manifests: Ingress objects as ingress-nginx reads them, and HTTPRoutes.

Only what the manifests use is translated; anything else is refused, so that no rule is silently left out.
"""

from __future__ import annotations

import contextlib
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.manifests.rendering import Manifest, of_kind

PREFIX = "nginx.ingress.kubernetes.io/"

# As ingress-nginx sets them by default (without use-forwarded-headers it does not believe the client's own).
FORWARDED = """
        proxy_set_header Host $http_host;
        proxy_set_header X-Request-ID $request_id;
        proxy_set_header X-Real-IP $remote_addr;
        proxy_set_header X-Forwarded-For $remote_addr;
        proxy_set_header X-Forwarded-Host $http_host;
        proxy_set_header X-Forwarded-Port $server_port;
        proxy_set_header X-Forwarded-Proto $scheme;
        proxy_set_header X-Forwarded-Scheme $scheme;
        proxy_set_header X-Scheme $scheme;
        proxy_set_header Proxy "";"""

SERVER = """
pid {folder}/nginx.pid;
error_log {folder}/error.log;
daemon off;
master_process off;
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    server {{
        listen 127.0.0.1:{port};
{locations}
    }}
}}
"""

Backends = Mapping[str, int]
"""Port on 127.0.0.1 of every Service."""


def locations_of_ingresses(objects: Sequence[Manifest], backends: Backends, users: Path | None = None) -> str:
    """nginx's locations for the Ingress objects, longest path first as ingress-nginx orders them.

    Args:
        objects: Rendered manifests.
        backends: Where the Services are.
        users: The content of the Secret that basic authentication names.
    """
    found: list[tuple[str, str]] = []
    for ingress in of_kind(objects, "Ingress"):
        annotations = {
            name.removeprefix(PREFIX): value
            for name, value in ingress["metadata"]["annotations"].items()
            if name.startswith(PREFIX)
        }
        for rule in ingress["spec"]["rules"]:
            assert set(rule) == {"http"}, "no hosts here"
            for path in rule["http"]["paths"]:
                port = backends[path["backend"]["service"]["name"]]
                found.append((path["path"], _ingress_location(path, dict(annotations), port, users)))
    # With any regular expression on a host, ingress-nginx makes all of its paths such.
    return "\n".join(text for _, text in sorted(found, key=lambda entry: -len(entry[0])))


def _ingress_location(
    path: Mapping[str, Any], annotations: dict[str, str], port: int, users: Path | None
) -> str:
    lines: list[str] = []
    pattern = path["path"]
    if annotations.pop("use-regex", "false") == "true":
        assert path["pathType"] == "ImplementationSpecific"
    else:
        assert path["pathType"] == "Prefix"
        assert re.fullmatch(r"/[a-z]*", pattern)
    if target := annotations.pop("rewrite-target", None):
        lines.append(f'rewrite "(?i){pattern}" {target} break;')
    if prefix := annotations.pop("x-forwarded-prefix", None):
        lines.append(f'proxy_set_header X-Forwarded-Prefix "{prefix}";')
    for name in ("proxy-read-timeout", "proxy-send-timeout"):
        lines.append(f"{name.replace('-', '_')} {int(annotations.pop(name, '60'))}s;")
    lines.append(f"proxy_buffering {annotations.pop('proxy-buffering', 'off')};")
    lines.append(f"proxy_http_version {annotations.pop('proxy-http-version', '1.1')};")
    lines.append(f"client_max_body_size {annotations.pop('proxy-body-size', '1m')};")
    if annotations.pop("auth-type", None) == "basic":
        assert annotations.pop("auth-secret")
        assert users is not None
        lines.append(f'auth_basic "{annotations.pop("auth-realm")}";')
        lines.append(f"auth_basic_user_file {users};")
    annotations.pop("force-ssl-redirect", None)  # no TLS on loopback
    if annotations.pop("affinity", None) == "cookie":
        # With one process behind it every choice is the same; nginx's open edition has no sticky cookies.
        for name in (
            "affinity-mode",
            "session-cookie-name",
            "session-cookie-max-age",
            "session-cookie-samesite",
        ):
            assert annotations.pop(name)
    assert not annotations, f"not translated: {annotations}"
    return _location(f'~* "^{pattern}"', lines, port)


def locations_of_routes(objects: Sequence[Manifest], backends: Backends) -> str:
    """nginx's locations for the HTTPRoutes, as a gateway would route them."""
    found: list[tuple[str, str]] = []
    for route in of_kind(objects, "HTTPRoute"):
        for rule in route["spec"]["rules"]:
            (match,), (backend,) = rule["matches"], rule["backendRefs"]
            assert match["path"]["type"] == "PathPrefix"
            prefix = match["path"]["value"].rstrip("/")
            lines = ["proxy_buffering off;", "proxy_http_version 1.1;", "client_max_body_size 0;"]
            lines.append(f"proxy_read_timeout {rule['timeouts']['request']};")
            for part in rule.get("filters", []):
                if part["type"] == "URLRewrite":
                    rewrite = part["urlRewrite"]["path"]
                    assert rewrite["type"] == "ReplacePrefixMatch"
                    new = rewrite["replacePrefixMatch"].rstrip("/")
                    lines.append(f'rewrite "^{prefix}/?(.*)$" {new}/$1 break;')
                else:
                    assert part["type"] == "RequestHeaderModifier"
                    for header in part["requestHeaderModifier"]["set"]:
                        lines.append(f'proxy_set_header {header["name"]} "{header["value"]}";')
            # A prefix ends at a slash or at the end of the path.
            text = _location(f'~ "^{prefix}(/|$)"', lines, backends[backend["name"]])
            found.append((prefix, text))
    return "\n".join(text for _, text in sorted(found, key=lambda entry: -len(entry[0])))


def _location(match: str, lines: Sequence[str], port: int) -> str:
    body = "\n".join(f"            {line}" for line in lines)
    body += f"\n            proxy_pass http://127.0.0.1:{port};"
    return f"        location {match} {{{FORWARDED}\n{body}\n        }}"


@contextlib.contextmanager
def nginx(locations: str, folder: Path, port: int) -> Iterator[str]:
    """A running nginx; gives its base url."""
    program = shutil.which("nginx")
    if program is None:
        pytest.skip("needs nginx (Debian: nginx-light)")
    folder.mkdir(parents=True, exist_ok=True)
    config = folder / "nginx.conf"
    config.write_text(SERVER.format(folder=folder, port=port, locations=locations))
    with (folder / "output.log").open("wb") as output:
        process = subprocess.Popen(
            [program, "-c", str(config), "-p", str(folder)], stdout=output, stderr=subprocess.STDOUT
        )
    try:
        _wait_for_port(port, process, folder)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(10)


def _wait_for_port(port: int, process: subprocess.Popen[bytes], folder: Path) -> None:
    deadline = time.monotonic() + 10
    while True:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        log = (folder / "output.log").read_text()
        assert process.poll() is None, log
        assert time.monotonic() < deadline, log
        time.sleep(0.05)
