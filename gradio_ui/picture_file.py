"""Small copies of pictures for the browser's own storage, and what a picture file says of itself."""

from __future__ import annotations

import base64
import io
import json
from typing import Any

from PIL import Image

SIDE = 192
_EXIF_IMAGE_DESCRIPTION = 0x010E


def thumbnail(file: bytes) -> str:
    """A WebP of at most `SIDE` pixels as a data url (3 to 8 KB); "" of a file that cannot be read. Blocks."""
    try:
        with Image.open(io.BytesIO(file), formats=("PNG", "WEBP", "JPEG")) as picture:
            small = picture.convert("RGB")
            small.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return ""
    out = io.BytesIO()
    small.save(out, "WEBP", quality=72)
    return "data:image/webp;base64," + base64.b64encode(out.getvalue()).decode("ascii")


def parameters(file: bytes) -> dict[str, Any]:
    """The JSON that the service wrote into a picture; {} where there is none. Reads headers only. Blocks."""
    try:
        with Image.open(io.BytesIO(file), formats=("PNG", "WEBP", "JPEG")) as picture:
            if picture.format == "PNG":
                text = picture.info.get("imagine")
            else:
                text = picture.getexif().get(_EXIF_IMAGE_DESCRIPTION)
                if isinstance(text, str):  # Pillow reads EXIF's text as Latin-1
                    text = text.encode("latin-1").decode("utf-8", errors="replace")
        values = json.loads(text) if isinstance(text, str) else {}
    except (
        ArithmeticError,
        LookupError,
        OSError,
        SyntaxError,
        TypeError,
        ValueError,
        RecursionError,
        Image.DecompressionBombError,
    ):
        return {}
    return values if isinstance(values, dict) else {}
