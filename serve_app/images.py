"""Pixels to picture files, the parameters written into them, and the merged grid. Pillow alone, no torch."""

from __future__ import annotations

import io
import math
import struct
from collections.abc import Sequence

from PIL import Image, PngImagePlugin

from serve_app.request import GenerationRequest, ImageFormat, OutputOptions, Pixels

PNG_COMPRESS_LEVEL = 1
MAX_GRID_PIXELS = 3072 * 3072
"""Largest merged picture: 28 MB while open, so the ingress stays small. Nine of 1024x1024 fit unscaled."""

_EXIF_IFD = 0x8769
_EXIF_USER_COMMENT = 0x9286
# An EXIF block is one JPEG segment: 65,533 bytes less its header and the directory entries around the
# comment.
_MAX_COMMENT_BYTES = 65_000


def infotext(request: GenerationRequest, *, index: int, model: str, sampler: str) -> str:
    """The parameters of one picture as A1111 and its tools write and read them.

    Args:
        request: What was drawn.
        index: Which picture of the request; it decides the seed.
        model: Model name.
        sampler: Name of the noise scheduler that was really used.

    Returns:
        The prompt, an optional ``Negative prompt:`` line, and one line of comma-separated settings.
    """
    lines = [request.prompt]
    if request.negative_prompt:
        lines.append(f"Negative prompt: {request.negative_prompt}")
    settings = {
        "Steps": str(request.num_inference_steps),
        "Sampler": sampler,
        "CFG scale": f"{request.guidance_scale:g}",
        "Seed": str(request.image_seed(index)),
        "Size": f"{request.width}x{request.height}",
        "Model": model,
    }
    lines.append(", ".join(f"{name}: {_quoted(value)}" for name, value in settings.items()))
    return "\n".join(lines)


def encode(pixels: Pixels, output: OutputOptions, parameters: str = "") -> bytes:
    """Encodes a finished picture; call it off the step thread.

    PNG uses deflate level 1. Measured for 512x512 on one core: a flat illustration takes 11 ms and 64 KB
    (level 6: 18 ms, 52 KB; level 9: 55 ms, 51 KB), a noisy picture 41 ms and 467 KB (level 6: 80 ms, 405 KB).
    Level 0 saves another few milliseconds but sends 768 KB every time.

    Args:
        pixels: The picture.
        output: Format and quality.
        parameters: Text of `infotext`, written where A1111 looks for it: a ``parameters`` text chunk in PNG,
            the EXIF UserComment in JPEG and WebP. Empty: none.

    Returns:
        The file.

    Raises:
        ValueError: `pixels` has not 3 bytes per pixel.
    """
    image = Image.frombytes("RGB", (pixels.width, pixels.height), pixels.rgb)
    buffer = io.BytesIO()
    if output.format is ImageFormat.PNG:
        chunks = PngImagePlugin.PngInfo()
        if parameters:
            # Latin-1 text becomes a tEXt chunk, anything else iTXt: what A1111 writes too.
            chunks.add_text("parameters", parameters)
        image.save(buffer, "PNG", compress_level=PNG_COMPRESS_LEVEL, pnginfo=chunks)
    elif output.format is ImageFormat.WEBP:
        image.save(buffer, "WEBP", quality=output.quality, method=2, exif=_exif(parameters))
    else:
        # Full colour resolution: subsampled colour smears the hard edges of illustrations.
        image.save(buffer, "JPEG", quality=output.quality, subsampling=0, exif=_exif(parameters))
    return buffer.getvalue()


def read_parameters(file: bytes) -> str | None:
    """The text that `encode` wrote into a picture file.

    Args:
        file: A PNG, WebP or JPEG file.

    Returns:
        The infotext, or None when the file has none.

    Raises:
        OSError: Not a picture.
    """
    with Image.open(io.BytesIO(file)) as image:
        if image.format == "PNG":
            text = image.info.get("parameters")
            return text if isinstance(text, str) else None
        comment = image.getexif().get_ifd(_EXIF_IFD).get(_EXIF_USER_COMMENT)
    if not isinstance(comment, bytes) or not comment.startswith(b"UNICODE\0"):
        return None
    return comment[8:].decode("utf-16-be", errors="replace")


def png_size(file: bytes) -> tuple[int, int]:
    """Width and height in pixels, from the header of a PNG file of our own."""
    width, height = struct.unpack_from(">II", file, 16)
    return width, height


def grid(files: Sequence[bytes]) -> bytes:
    """Merges pictures into one near-square PNG, row by row in the given order.

    Cells are as large as the largest picture, and scaled down together where the whole would pass
    `MAX_GRID_PIXELS`. One input is open at a time. Blocks for up to seconds: call it in a thread.

    Args:
        files: Encoded pictures, at least one.

    Returns:
        The merged picture as a PNG file.

    Raises:
        ValueError: No files.
        OSError: One of them is no picture.
    """
    if not files:
        raise ValueError("a grid needs at least one picture")
    sizes = []
    for file in files:
        with Image.open(io.BytesIO(file)) as image:  # reads the header alone
            sizes.append(image.size)
    columns = math.ceil(math.sqrt(len(files)))
    rows = math.ceil(len(files) / columns)
    cell_width = max(width for width, _ in sizes)
    cell_height = max(height for _, height in sizes)
    scale = min(1.0, math.sqrt(MAX_GRID_PIXELS / (columns * cell_width * rows * cell_height)))
    cell_width, cell_height = max(1, int(cell_width * scale)), max(1, int(cell_height * scale))
    canvas = Image.new("RGB", (columns * cell_width, rows * cell_height), "white")
    for position, file in enumerate(files):
        with Image.open(io.BytesIO(file)) as image:
            cell = image.convert("RGB")
        if scale < 1.0 or cell.width > cell_width or cell.height > cell_height:
            cell.thumbnail((cell_width, cell_height))
        row, column = divmod(position, columns)
        left = column * cell_width + (cell_width - cell.width) // 2
        top = row * cell_height + (cell_height - cell.height) // 2
        canvas.paste(cell, (left, top))
    buffer = io.BytesIO()
    canvas.save(buffer, "PNG", compress_level=PNG_COMPRESS_LEVEL)
    return buffer.getvalue()


def _quoted(value: str) -> str:
    """Quotes a value that would break the comma-separated line, as A1111 does."""
    if any(character in value for character in ',:"\n'):
        escaped = value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", " ")
        return f'"{escaped}"'
    return value


def _exif(parameters: str) -> bytes:
    """An EXIF block with `parameters` as its UserComment, or nothing."""
    if not parameters:
        return b""
    comment = b"UNICODE\0" + parameters.encode("utf-16-be")
    if len(comment) > _MAX_COMMENT_BYTES:
        # Only prompts near the length limit get here. Half a prompt would be mistaken for the whole one, so
        # the line of settings is kept alone.
        comment = b"UNICODE\0" + parameters.rpartition("\n")[2].encode("utf-16-be")
    exif = Image.Exif()
    exif.get_ifd(_EXIF_IFD)[_EXIF_USER_COMMENT] = comment
    return exif.tobytes()
