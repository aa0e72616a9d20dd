"""Sizes that clients write as one text, ``512x768``."""

from __future__ import annotations

import re

from pydantic import TypeAdapter, ValidationError

from serve_app.limits import PixelSide

_SIZE = re.compile(r"([0-9]{1,5})[xX]([0-9]{1,5})")
_SIDE: TypeAdapter[int] = TypeAdapter(PixelSide)


def parse_size(text: str) -> tuple[int, int]:
    """Width and height in pixels.

    Raises:
        ValueError: Not two sides within the limits.
    """
    match = _SIZE.fullmatch(text)
    if match is None:
        raise ValueError("must be WIDTHxHEIGHT in pixels, such as 512x512")
    try:
        return _SIDE.validate_python(int(match[1])), _SIDE.validate_python(int(match[2]))
    except ValidationError as error:
        raise ValueError("each side must be between 64 and 4096 pixels, such as 512x512") from error


def check_size(text: str) -> str:
    """`text` itself, for a pydantic validator.

    Raises:
        ValueError: As `parse_size`.
    """
    parse_size(text)
    return text
