"""``imagine bench``: what is wrong with its options is told before any load."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from serve_app.cli import app
from serve_app.cli.bench import _prompts

NOBODY = "http://127.0.0.1:1"


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--rate", "0"], "--rate and --duration must be above 0"),
        (["--duration", "nan"], "--rate and --duration must be above 0"),
        (["--duration", "inf"], "--rate and --duration must be above 0"),
        (["--rate", "inf"], "--rate and --duration must be above 0"),
        (["--plot", "nowhere/bench.svg"], "there is no folder nowhere"),
    ],
)
def test_wrong_options_are_told_before_any_load(options: list[str], sentence: str) -> None:
    done = CliRunner().invoke(app, ["bench", NOBODY, *options, "--json"])
    assert done.exit_code == 2
    assert sentence in json.loads(done.stdout)["error"]


def test_figures_and_plot_of_a_service_that_is_down(tmp_path: Path) -> None:
    plot = tmp_path / "bench.svg"
    options = ["--rate", "50", "--duration", "0.3", "--plot", str(plot), "--json"]
    done = CliRunner().invoke(app, ["bench", NOBODY, *options])
    assert done.exit_code == 1
    figures = json.loads(done.stdout)
    assert figures["requests"] == figures["failed"] > 0
    assert plot.read_text().startswith("<svg")


def test_a_plot_that_cannot_be_written_hides_no_figures(tmp_path: Path) -> None:
    line = ["bench", NOBODY, "--duration", "0.1", "--rate", "50", "--json", "--plot", str(tmp_path)]
    done = CliRunner().invoke(app, line)
    assert done.exit_code == 1
    assert json.loads(done.stdout)["requests"] > 0
    assert "cannot write" in done.stderr


def test_only_line_breaks_end_a_prompt(tmp_path: Path) -> None:
    file = tmp_path / "prompts.txt"
    file.write_text("a fox\u2028at night\r\n\n a boat \n", encoding="utf-8", newline="")
    assert _prompts(file) == ["a fox\u2028at night", "a boat"]
