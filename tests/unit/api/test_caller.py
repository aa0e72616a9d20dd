"""Who a request is from."""

from __future__ import annotations

import pytest
from fastapi import Request

from serve_app.api.caller import caller_of, may_see
from serve_app.settings import Settings

TRUSTING, WARY = Settings(), Settings(trust_forwarded_headers=False)


def request(client: str = "10.0.0.9", **headers: str) -> Request:
    raw = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return Request({"type": "http", "headers": raw, "client": (client, 1234)})


def test_the_key_comes_first() -> None:
    keyed = caller_of(request(authorization="Bearer secret"), TRUSTING)
    assert keyed == caller_of(request("10.0.0.1", authorization="Bearer secret"), TRUSTING)
    assert keyed != caller_of(request(authorization="Bearer other"), TRUSTING)
    assert "secret" not in keyed
    assert caller_of(request(x_api_key="k"), TRUSTING).startswith("key:")


@pytest.mark.parametrize("header", ["", " ", "Basic", "Basic ", "Basic Og==", "Bearer "])
def test_empty_credentials_are_none(header: str) -> None:
    # SillyTavern sends them where no password was set; its users must not pass for one.
    assert caller_of(request(authorization=header), WARY) == "address:10.0.0.9"


@pytest.mark.parametrize(
    ("forwarded", "address"),
    [
        ("", "10.0.0.9"),
        ("8.8.8.8", "8.8.8.8"),
        ("8.8.8.8, 10.0.0.2", "8.8.8.8"),
        # What stands before the last public address is the client's own invention.
        ("9.9.9.9, 8.8.8.8, 10.0.0.2", "8.8.8.8"),
        ("192.168.1.4, 10.0.0.2", "192.168.1.4"),
        ("nonsense, , 8.8.8.8", "8.8.8.8"),
        ("nonsense", "10.0.0.9"),
        ("2606:4700::1, fd00::1", "2606:4700::1"),
        # Azure's gateway adds the port.
        ("9.9.9.9, 8.8.8.8:50123", "8.8.8.8"),
        ("[2606:4700::1]:50123, [fd00::1]", "2606:4700::1"),
        ("8.8.8.8:nonsense", "10.0.0.9"),
    ],
)
def test_the_address_behind_proxies(forwarded: str, address: str) -> None:
    assert caller_of(request(x_forwarded_for=forwarded), TRUSTING) == f"address:{address}"
    assert caller_of(request(x_forwarded_for=forwarded), WARY) == "address:10.0.0.9"


def test_a_proxy_may_write_a_line_of_its_own() -> None:
    lines = [(b"x-forwarded-for", address) for address in (b"9.9.9.9", b"8.8.8.8", b"10.0.0.2")]
    sent = Request({"type": "http", "headers": lines, "client": ("10.0.0.9", 1234)})
    assert caller_of(sent, TRUSTING) == "address:8.8.8.8"


def test_without_a_connection() -> None:
    assert caller_of(Request({"type": "http", "headers": [], "client": None}), WARY) == "address:"


def test_keys_keep_their_tasks_to_themselves() -> None:
    assert may_see("key:a", "key:a")
    assert may_see("address:a", "address:b")
    assert not may_see("address:a", "key:a")
    assert not may_see("key:b", "key:a")
