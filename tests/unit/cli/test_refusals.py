"""What the commands refuse: in one sentence, and before any work."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from serve_app.cli import app

NOBODY = "http://127.0.0.1:1"


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        (["a star", "--guidance", "nan"], "guidance: Input should be a finite number"),
        (["a star", "--guidance", "31"], "guidance: Input should be less than or equal to 30"),
        (["a star", "--steps", "0"], "steps: Input should be greater than or equal to 1"),
        (["a star", "--seed", "-1"], "seed: Input should be greater than or equal to 0"),
        ([" "], "prompt: must not be empty; say what to draw"),
        (["a star", "--dtype", "float8"], "setting dtype: Input should be 'auto', 'float32'"),
        (["a star", "--size", "64x"], "size: '64x' is not WIDTHxHEIGHT"),
    ],
)
def test_generate_has_the_bounds_of_the_service(tmp_path: Path, line: list[str], sentence: str) -> None:
    file = tmp_path / "star.png"
    result = CliRunner().invoke(app, ["generate", *line, "-o", str(file), "--json"])
    assert result.exit_code == 1
    assert json.loads(result.stdout)["error"].startswith(sentence)
    assert not file.exists()


def test_a_key_that_no_header_can_carry_is_refused(tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a star\n")
    commands = [
        ["doctor", NOBODY],
        ["bench", NOBODY],
        ["batch", str(prompts), "-o", str(tmp_path / "drawn"), "--url", NOBODY],
    ]
    for command in commands:
        result = CliRunner().invoke(app, command, env={"IMAGINE_API_KEY": "ключ"})
        assert result.exit_code == 2
        assert "holds characters that no key has" in result.stderr
