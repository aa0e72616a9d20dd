"""API keys: making them, reading their file, and its changes."""

from __future__ import annotations

import asyncio
import hmac
import logging
from pathlib import Path

import pytest

from serve_app.api_keys import ApiKeys, key_line, new_key, parse_keys
from serve_app.errors import ConfigurationError


class Clock:
    """Monotonic seconds that only pass when told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_keys_are_random_and_lines_do_not_give_them_away() -> None:
    keys = {new_key() for _ in range(100)}
    assert len(keys) == 100
    assert min(map(len, keys)) == len("imk_") + 43  # 32 bytes in base64
    key = keys.pop()
    line = key_line("web", key)
    assert key not in line
    assert parse_keys(line.encode())[0][0] == "web"


@pytest.mark.parametrize("name", ["", "two words", "-a", "a/b", "ä", "a" * 65])
def test_odd_names_are_refused(name: str) -> None:
    with pytest.raises(ConfigurationError, match="is no name"):
        key_line(name, "k")


async def test_a_key_is_its_owners(tmp_path: Path) -> None:
    one, two, other = new_key(), new_key(), new_key()
    file = tmp_path / "keys"
    file.write_text(f"# ours\n\n{key_line('web', one)}\n  {key_line('web', two)}\r\n{key_line('ci', other)}")
    keys = ApiKeys(file)
    assert [await keys.owner(key) for key in (one, two, other)] == ["web", "web", "ci"]
    for stranger in ("", new_key(), one[:-1], one + "a", key_line("web", one).split(":")[1], "\udcff"):
        assert await keys.owner(stranger) is None


async def test_every_hash_is_compared_in_constant_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = [new_key() for _ in range(5)]
    file = tmp_path / "keys"
    file.write_text("\n".join(key_line(f"k{number}", key) for number, key in enumerate(made)))
    compared: list[bytes] = []
    compare_digest = hmac.compare_digest

    def compare(known: bytes, presented: bytes) -> bool:
        compared.append(known)
        return compare_digest(known, presented)

    monkeypatch.setattr(hmac, "compare_digest", compare)
    keys = ApiKeys(file)
    assert await keys.owner(made[0]) == "k0"
    assert len(compared) == 5


async def test_keys_come_and_go_while_it_runs(tmp_path: Path) -> None:
    old, new = new_key(), new_key()
    # As Kubernetes mounts a Secret: the file is a link, and a change turns a link above it.
    for number, key in enumerate((old, new)):
        (tmp_path / f"v{number}").mkdir()
        (tmp_path / f"v{number}" / "keys").write_text(key_line("web", key))
    (tmp_path / "data").symlink_to("v0")
    (tmp_path / "keys").symlink_to("data/keys")
    clock = Clock()
    keys = ApiKeys(tmp_path / "keys", read_every_s=2.0, clock=clock)
    assert [await keys.owner(old), await keys.owner(new)] == ["web", None]
    (tmp_path / "next").symlink_to("v1")
    (tmp_path / "next").rename(tmp_path / "data")
    clock.now = 1.9
    assert await keys.owner(old) == "web"
    clock.now = 2.0
    answers = await asyncio.gather(*(keys.owner(key) for key in [old, new] * 20))
    assert answers == [None, "web"] * 20


async def test_a_broken_file_changes_nothing_and_is_told_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    key, clock, file = new_key(), Clock(), tmp_path / "keys"
    file.write_text(key_line("web", key))
    keys = ApiKeys(file, clock=clock)
    caplog.set_level(logging.DEBUG)
    file.write_text(f"{key_line('web', key)}\nweb {new_key()}\n")
    for now in (10.0, 20.0):
        clock.now = now
        assert await keys.owner(key) == "web"
    assert caplog.text.count("line 2") == 1
    file.unlink()
    clock.now = 30.0
    assert await keys.owner(key) == "web"
    assert "No such file" in caplog.text
    assert "imk_" not in caplog.text
    file.write_text("# nobody\n")
    clock.now = 40.0
    assert await keys.owner(key) is None


@pytest.mark.parametrize("content", [b"web", b"web sha256:00", b"web imk_abc", b"\xff\xfe", b"a b c"])
def test_a_wrong_line_is_refused_by_its_number_alone(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "keys"
    file.write_bytes(content)
    with pytest.raises(ConfigurationError, match="keys_file") as caught:
        ApiKeys(file)
    assert "abc" not in caught.value.message


def test_a_missing_or_endless_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="No such file"):
        ApiKeys(tmp_path / "none")
    (tmp_path / "large").write_bytes(b"#" * 1_000_001)
    with pytest.raises(ConfigurationError, match="bytes"):
        ApiKeys(tmp_path / "large")
    many = "\n".join(f"k sha256:{number:064x}" for number in range(1001))
    with pytest.raises(ConfigurationError, match="more than 1000"):
        parse_keys(many.encode())
