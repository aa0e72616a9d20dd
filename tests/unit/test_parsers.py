"""Every parser of what strangers send, with whatever Hypothesis makes up: an answer or the one documented refusal."""

from __future__ import annotations

import io
import ipaddress
import json
import struct
import zlib
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from fastapi import Request
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from starlette.datastructures import Headers

from serve_app import metadata
from serve_app.api.caller import caller_of, presented_key
from serve_app.api.sizes import parse_size
from serve_app.api.urls import base_url, forwarded_prefix
from serve_app.api_keys import key_line, new_key, parse_keys
from serve_app.batch.prompts import PromptsInvalid, read_prompts
from serve_app.errors import ConfigurationError, InvalidRequest
from serve_app.images import encode
from serve_app.jobs.addresses import is_public
from serve_app.jobs.webhooks import _parsed
from serve_app.metadata import PictureParameters
from serve_app.noise_schedulers import NOISE_SCHEDULERS, find
from serve_app.request import ImageFormat, OutputOptions
from serve_app.result import Pixels
from serve_app.settings import Settings
from tests.unit.fuzzing import fuzzed

SETTINGS = Settings()
_header_text = st.text(st.characters(codec="latin-1"), max_size=60)
_WORDS = [
    *["example.com", "10.0.0.1", "[::1]", ":443", "/", "//", "@", "..", ",", ";", "=", '"', " ", "\t"],
    *["for=", "host=", "proto=", "https", "javascript", "a", "%2f", "\\", "#", "?"],
]
_words = st.lists(st.sampled_from(_WORDS), max_size=8).map("".join)
_header = _header_text | _words


def request_with(headers: dict[str, str]) -> Request:
    raw = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
    scope = {
        "type": "http",
        "method": "GET",
        "scheme": "http",
        "server": ("127.0.0.1", 8000),
        "client": ("192.0.2.1", 5),
        "path": "/",
        "query_string": b"",
        "headers": raw,
    }
    return Request(scope)


@fuzzed(200)
@given(
    st.dictionaries(
        st.sampled_from(["host", "forwarded", "x-forwarded-host", "x-forwarded-proto", "x-forwarded-prefix"]),
        _header,
    )
)
def test_addresses_of_ours_are_plain_whatever_proxies_say(headers: dict[str, str]) -> None:
    request = request_with(headers)
    parts = urlsplit(base_url(request, SETTINGS))
    assert parts.scheme in ("http", "https")
    assert parts.hostname
    assert parts.port is None or 0 <= parts.port <= 65535
    assert (parts.username, parts.query, parts.fragment) == (None, "", "")
    prefix = forwarded_prefix(Headers(raw=request.scope["headers"]))
    assert prefix == "" or (prefix.startswith("/") and not prefix.startswith("//") and ".." not in prefix)


@fuzzed(200)
@given(
    st.dictionaries(
        st.sampled_from(["authorization", "x-api-key", "x-forwarded-for"]),
        _header
        | st.sampled_from(["Bearer", "Bearer ", "Basic Og==", "Basic !", "basic YTpi", "1.2.3.4, ::1"]),
    )
)
def test_every_request_has_a_caller_and_at_most_one_key(headers: dict[str, str]) -> None:
    request = request_with(headers)
    caller = caller_of(request, SETTINGS)
    assert caller.startswith(("key:", "address:"))
    if caller.startswith("address:"):
        ipaddress.ip_address(caller.removeprefix("address:"))
    presented_key(request.headers)


@fuzzed(200)
@given(st.text(max_size=14) | st.from_regex(r"[0-9]{0,6}[xX*][0-9]{0,6}", fullmatch=True))
def test_sizes(text: str) -> None:
    with suppress(ValueError):
        assert all(64 <= side <= 4096 for side in parse_size(text))


@fuzzed(200)
@given(
    st.text(max_size=30)
    | st.sampled_from(["Euler a", "dpm++ 2m karras", "LCM", "", "EulerDiscreteScheduler"])
)
def test_noise_schedulers(text: str) -> None:
    assert find(text) in {None, *(one.name for one in NOISE_SCHEDULERS)}


@fuzzed(200)
@given(
    st.binary(max_size=80)
    | st.lists(
        st.sampled_from([key_line("a", new_key()), "#", "", "a sha256:", "a b c", "\x85", "\u2028", "é"]),
        max_size=4,
    ).map(lambda lines: "\n".join(lines).encode())
)
def test_files_of_keys(content: bytes) -> None:
    with suppress(ConfigurationError):
        for name, digest in parse_keys(content):
            assert name
            assert len(digest) == 32


@fuzzed(200)
@given(
    st.text(max_size=80)
    | st.dictionaries(
        st.sampled_from(["prompt", "id", "seed", "width", "number", "num_images", "other"]),
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.just([]),
    ).map(json.dumps),
    st.booleans() | st.none(),
)
def test_files_of_prompts(text: str, jsonl: bool | None) -> None:
    with suppress(PromptsInvalid):
        for line in read_prompts(text, jsonl=jsonl, defaults={}):
            assert line.request["prompt"].strip()


@fuzzed(200)
@given(_words.map(lambda text: "https://" + text) | st.text(max_size=40) | _words)
def test_addresses_of_webhooks(url: str) -> None:
    with suppress(InvalidRequest):
        parsed = _parsed(url)
        assert parsed.scheme in ("http", "https")
        assert parsed.host
        assert not parsed.userinfo


@fuzzed(200)
@given(st.text(max_size=20) | st.ip_addresses().map(str))
def test_public_addresses_are_addresses(text: str) -> None:
    if is_public(text):
        assert not ipaddress.ip_address(text).is_private


FILES = {
    image_format: encode(
        Pixels(8, 8, bytes(range(192))),
        OutputOptions(image_format),
        PictureParameters("a fox", '{"prompt": "a"}'),
    )
    for image_format in ImageFormat
}


def png_with(chunks: list[tuple[bytes, bytes]]) -> bytes:
    """A PNG with text chunks of any content, sums included."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 8, 2, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress(b"\0\0\0\0"))
    return (
        b"\x89PNG\r\n\x1a\n" + header + b"".join(chunk(*one) for one in chunks) + pixels + chunk(b"IEND", b"")
    )


_damage = st.lists(st.tuples(st.integers(0, 4000), st.integers(0, 255)), min_size=1, max_size=12)
_keys = st.sampled_from([b"parameters\0", b"imagine\0", b"x\0", b"parameters\0\0", b"imagine\0\0\0\0\0"])


@fuzzed(200)
@given(st.sampled_from(list(FILES)), _damage, st.integers(0, 60))
def test_damaged_pictures(image_format: ImageFormat, damage: list[tuple[int, int]], cut: int) -> None:
    file = bytearray(FILES[image_format])
    for place, value in damage:
        file[place % len(file)] = value
    with suppress(ValueError):
        read = metadata.read(bytes(file[: len(file) - cut]))
        assert isinstance(read.infotext, str)
        assert isinstance(read.details, str)


@fuzzed(200)
@given(
    st.lists(
        st.tuples(
            st.sampled_from([b"tEXt", b"zTXt", b"iTXt", b"eXIf"]),
            st.tuples(_keys, st.binary(max_size=40) | st.binary(max_size=40).map(zlib.compress)).map(
                b"".join
            ),
        ),
        max_size=4,
    )
)
def test_made_up_chunks(chunks: list[tuple[bytes, bytes]]) -> None:
    file = png_with(chunks)
    with suppress(ValueError):
        metadata.read(file)


def test_the_made_up_file_is_a_picture() -> None:
    with Image.open(io.BytesIO(png_with([]))) as image:
        image.load()
        assert image.size == (1, 1)


_any_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inside: st.lists(inside, max_size=3) | st.dictionaries(st.text(max_size=5), inside, max_size=3),
    max_leaves=6,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("settings")


@fuzzed(100)
@given(
    st.binary(max_size=60)
    | st.text(max_size=60).map(str.encode)
    | st.text("[]{}:,-1 \na", max_size=20).map(str.encode)
    | st.dictionaries(st.sampled_from(["pools", "store", "applications", "x"]), _any_json).map(
        lambda values: json.dumps(values).encode()
    )
)
def test_files_of_settings(folder: Path, content: bytes) -> None:
    from pydantic import ValidationError

    from serve_app.settings import read_settings_file

    file = folder / "settings.yaml"
    file.write_bytes(content)
    with suppress(ConfigurationError, ValidationError):
        read_settings_file(file)
