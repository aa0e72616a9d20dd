"""Refusals before anything is started: one sentence, with a remedy."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from serve_app import preflight
from serve_app.errors import ConfigurationError


def test_a_free_port_passes_and_a_taken_one_is_named() -> None:
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)  # as Ray's proxies do
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        with pytest.raises(ConfigurationError, match=rf"port {port} .* is taken; choose another with PORT="):
            preflight.check_port("127.0.0.1", port)
        with pytest.raises(ConfigurationError, match=rf"port {port} "):
            preflight.check_port("0.0.0.0", port)
    preflight.check_port("127.0.0.1", port)


def test_an_address_of_another_machine_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"192\.0\.2\.1"):
        preflight.check_port("192.0.2.1", 8000)
    with pytest.raises(ConfigurationError, match="HOST="):
        preflight.check_port("no such host", 8000)


def test_too_little_memory_says_both_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight, "available_memory_bytes", lambda: 2_000_000_000)
    preflight.check_memory(100_000_000)
    with pytest.raises(ConfigurationError, match=r"about 8\.4 GB .* has 2\.0 GB; stop other programs"):
        preflight.check_memory(7_000_000_000)


def test_a_full_or_forbidden_disk_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    preflight.check_disk(tmp_path / "new")
    assert (tmp_path / "new").is_dir()
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError, match="cannot make the folder"):
        preflight.check_disk(tmp_path / "file" / "below")
    monkeypatch.setattr(preflight, "MIN_FREE_DISK_BYTES", 10**18)
    with pytest.raises(ConfigurationError, match="make room"):
        preflight.check_disk(tmp_path)
