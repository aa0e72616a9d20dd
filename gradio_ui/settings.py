"""Where the service is and where the page listens: `UiSettings`, the only reader of the environment here."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Self
from urllib.parse import urlsplit

DEFAULT_SERVICE = "http://localhost:8000"
DEFAULT_ENDPOINT = "/imagine"
DEFAULT_PORT = 7860


class SettingError(ValueError):
    """A variable of the environment cannot be used; the message names it."""


@dataclass(frozen=True, slots=True)
class UiSettings:
    """All that the page needs to know before it starts.

    Attributes:
        service_url: Root of the service as this process reaches it, without a slash at the end.
        public_url: Root of the service as browsers reach it, for the link to the API docs; "" for no link. Found out
            for a service on this machine only.
        dashboard_url: Ray dashboard as browsers reach it; "" for no link.
        host: Address to listen on.
        port: Port to listen on.
        root_path: Path prefix that a proxy in front cuts off, or "".
        api_key: The page's own key to the service, or "".
    """

    service_url: str = DEFAULT_SERVICE
    public_url: str = DEFAULT_SERVICE
    dashboard_url: str = ""
    host: str = "127.0.0.1"
    port: int = DEFAULT_PORT
    root_path: str = ""
    api_key: str = field(default="", repr=False)

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Self:
        """Reads ``SERVICE_NAME``, ``MODEL_ENDPOINT``, ``SERVICE_PUBLIC_URL``, ``DASHBOARD_URL``, ``UI_HOST``,
        ``UI_PORT``, ``UI_ROOT_PATH`` and ``IMAGINE_API_KEY``.

        ``MODEL_ENDPOINT`` is the path of the simple GET route, as pages of this kind have always had it.
        What stands before its last part is where a proxy has mounted the service (``/serve/imagine``: ``/serve``).

        Raises:
            SettingError: One of them cannot be used.
        """
        service = environment.get("SERVICE_NAME", "").strip() or DEFAULT_SERVICE
        if "://" not in service:
            service = f"http://{service}"
        if urlsplit(service).scheme not in ("http", "https") or not urlsplit(service).hostname:
            raise SettingError(f"SERVICE_NAME={service!r} is no http address such as {DEFAULT_SERVICE}")
        endpoint = environment.get("MODEL_ENDPOINT", "").strip() or DEFAULT_ENDPOINT
        service = service.rstrip("/") + "/" + endpoint.strip("/")
        service = service.rpartition("/")[0].rstrip("/")
        port = environment.get("UI_PORT", "").strip() or str(DEFAULT_PORT)
        if not (port.isascii() and port.isdecimal() and 0 < int(port[:6]) < 65536):
            raise SettingError(f"UI_PORT={port!r} is no port between 1 and 65535")
        return cls(
            service_url=service,
            public_url=environment.get("SERVICE_PUBLIC_URL", _if_here(service)).rstrip("/"),
            dashboard_url=environment.get("DASHBOARD_URL", "").rstrip("/"),
            host=environment.get("UI_HOST", "").strip() or "127.0.0.1",
            port=int(port),
            root_path=environment.get("UI_ROOT_PATH", "").rstrip("/"),
            api_key=_header_text(environment.get("IMAGINE_API_KEY", "").strip()),
        )


def _header_text(key: str) -> str:
    if not (key.isascii() and key.isprintable()):
        raise SettingError("IMAGINE_API_KEY holds characters that no key has")
    return key


def _if_here(service: str) -> str:
    """The address where browsers on this machine reach it too; "" for a name that only this network knows."""
    return service if is_loopback(service) else ""


def is_loopback(url: str) -> bool:
    """Whether an address means the machine that it is opened on, whichever that is."""
    try:
        return urlsplit(url).hostname in ("localhost", "127.0.0.1", "::1")
    except ValueError:
        return False
