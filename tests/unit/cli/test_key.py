"""``imagine key``, and the key that ``imagine serve`` needs where keys are checked."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from serve_app.api_keys import ApiKeys
from serve_app.cli import app
from serve_app.cli.serve import _own_key
from serve_app.errors import ConfigurationError
from serve_app.settings import AccessSettings, Settings


async def test_its_line_lets_the_key_in(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("# ours, without an end of line")
    runner = CliRunner()
    plain = runner.invoke(app, ["key", "web", "--append-to", str(file)])
    assert plain.exit_code == 0
    key, line = plain.stdout.split("\n")[:2]
    made = json.loads(runner.invoke(app, ["key", "ci", "--append-to", str(file), "--json"]).stdout)
    assert file.read_text().splitlines()[1:] == [line, made["line"]]
    assert key not in file.read_text()
    keys = ApiKeys(file)
    assert [await keys.owner(key), await keys.owner(made["key"])] == ["web", "ci"]


def test_what_cannot_work_is_said(tmp_path: Path) -> None:
    assert CliRunner().invoke(app, ["key", "two words"]).exit_code == 2
    assert (
        CliRunner().invoke(app, ["key", "web", "--append-to", str(tmp_path / "no" / "file")]).exit_code == 2
    )


def test_serve_wants_a_key_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("IMAGINE_API_KEY", raising=False)
    assert _own_key(Settings()) is None
    file = tmp_path / "keys"
    settings = Settings(access=AccessSettings(keys_file=str(file)))
    with pytest.raises(ConfigurationError, match="No such file"):
        _own_key(settings)
    file.write_text("")
    with pytest.raises(ConfigurationError, match="IMAGINE_API_KEY"):
        _own_key(settings)
    monkeypatch.setenv("IMAGINE_API_KEY", "imk_mine")
    assert _own_key(settings) == "imk_mine"


def test_the_file_is_absolute_and_links_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "keys").symlink_to("elsewhere")
    assert AccessSettings(keys_file="keys").keys_file == str(tmp_path / "keys")
