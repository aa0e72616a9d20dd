"""Pixels to picture files, and the merged grid. No torch, and numpy from the first PNG file on."""

from __future__ import annotations

import io
import math
import struct
from collections.abc import Iterator, Sequence

from PIL import Image

from serve_app.metadata import NO_PARAMETERS, PictureParameters, exif, png_chunks
from serve_app.request import ImageFormat, OutputOptions
from serve_app.result import Pixels

MAX_GRID_PIXELS = 3072 * 3072
"""Largest merged picture: 28 MB while open, so the ingress stays small. Nine of 1024x1024 fit unscaled."""


def encode(pixels: Pixels, output: OutputOptions, parameters: PictureParameters = NO_PARAMETERS) -> bytes:
    """Encodes a finished picture; call it off the step thread.

    Args:
        pixels: The picture.
        output: Format and quality.
        parameters: What the file says of how it was drawn.

    Returns:
        The file.

    Raises:
        ValueError: `pixels` has not 3 bytes per pixel.
    """
    if output.format is ImageFormat.PNG:
        from serve_app.png import png_file, strips_of

        strips = strips_of(pixels.width, pixels.rgb)
        return png_file(pixels.width, pixels.height, strips, png_chunks(parameters))
    image = Image.frombytes("RGB", (pixels.width, pixels.height), pixels.rgb)
    buffer = io.BytesIO()
    if output.format is ImageFormat.WEBP:
        image.save(buffer, "WEBP", quality=output.quality, method=2, exif=exif(parameters))
    else:
        # Full colour resolution: subsampled colour smears the hard edges of illustrations.
        image.save(buffer, "JPEG", quality=output.quality, subsampling=0, exif=exif(parameters))
    return buffer.getvalue()


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
    from serve_app.png import png_file, strip_rows

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
    return png_file(canvas.width, canvas.height, _strips(canvas, strip_rows(canvas.width)))


def _strips(image: Image.Image, rows: int) -> Iterator[bytes]:
    """A second copy of a large picture is never there as a whole."""
    for top in range(0, image.height, rows):
        yield image.crop((0, top, image.width, min(top + rows, image.height))).tobytes()
