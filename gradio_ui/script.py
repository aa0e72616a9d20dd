"""The page's own script: one file, and how Gradio's elements wait for it.

Gradio adds scripts to the page in any order, and may build an element before or after they are there.
"""

from __future__ import annotations

from pathlib import Path

STATIC = Path(__file__).parent / "static"
NAME = "page.js"
"""Under which it is served."""

_PARTS = ("studio", "jobs", "gallery", "replay")


def source() -> str:
    """The whole script. Its last line tells the elements that were there before it (`when_there`)."""
    parts = [(STATIC / f"{name}.js").read_text() for name in _PARTS]
    return "\n".join([*parts, 'window.dispatchEvent(new Event("imagine"));\n'])


def when_there(code: str) -> str:
    """JavaScript that runs `code` once the page's script has run."""
    return (
        f"const mount = () => {{ {code} }};"
        " if (window.imagine) mount(); else window.addEventListener('imagine', mount, { once: true });"
    )
