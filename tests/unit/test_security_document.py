"""docs/security.md names a test for each thing that is checked; all of them are there."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LINES = re.findall(
    r"^\| (.+) \| `([\w/.]+)::(\w+)` \|$", (ROOT / "docs" / "security.md").read_text(), flags=re.M
)


def test_every_check_has_a_line_with_its_test() -> None:
    section = (ROOT / "docs" / "security.md").read_text().split("## What is checked")[1].split("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("| ") and line != "| check | test |"]
    assert len(rows) == len(LINES) > 40


@pytest.mark.parametrize(("check", "file", "test"), LINES, ids=[test for _, _, test in LINES])
def test_the_test_is_there(check: str, file: str, test: str) -> None:
    path = ROOT / file if file.startswith("tests/") else ROOT / "tests" / "unit" / file
    functions = {
        node.name
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    assert test in functions, check
