"""How soon and how small a finished picture is a PNG file: `serve_app.png.png_file` and Pillow's levels.

Run ``python -m bench.png_writers [PICTURE...]``. Without arguments it takes the bundled model's in docs/images.
"""

from __future__ import annotations

import io
import statistics
import time
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from PIL import Image
from rich.console import Console
from rich.table import Table

from serve_app.png import png_file, strips_of

PICTURES = Path(__file__).parents[1] / "docs" / "images"

Write = Callable[[int, int, bytes], bytes]
"""Width, height and RGB bytes, as a device gives them, to a file."""


def ours(width: int, height: int, rgb: bytes) -> bytes:
    """As the service does it."""
    return png_file(width, height, strips_of(width, rgb))


def by_pillow(
    width: int, height: int, rgb: bytes, *, level: int, strategy: int = zlib.Z_DEFAULT_STRATEGY
) -> bytes:
    """As Pillow does it.

    Args:
        width: Pixels.
        height: Pixels.
        rgb: The pixels.
        level: Of compression, 0 to 9.
        strategy: One of zlib's.
    """
    file = io.BytesIO()
    picture = Image.frombytes("RGB", (width, height), rgb)
    picture.save(file, "PNG", compress_level=level, compress_type=strategy)
    return file.getvalue()


def main(
    pictures: Annotated[list[Path] | None, typer.Argument(help="Picture files.")] = None,
    repeats: Annotated[int, typer.Option(min=1, help="Timed turns of each writer.")] = 5,
) -> None:
    """Writes every picture with every writer, in turns, and prints medians over all of them."""
    files = pictures or [file for file in sorted(PICTURES.glob("*.png")) if _is_drawn(file)]
    opened = [(*(one := Image.open(file).convert("RGB")).size, one.tobytes()) for file in files]
    writers: dict[str, Write] = {"this service": ours}
    writers |= {f"Pillow, level {level}": partial(by_pillow, level=level) for level in (0, 1, 4, 6, 9)}
    writers["Pillow, level 1, run lengths"] = partial(by_pillow, level=1, strategy=zlib.Z_RLE)
    times: dict[str, list[float]] = {name: [] for name in writers}
    sizes: dict[str, list[int]] = {name: [] for name in writers}
    for _ in range(repeats):
        for picture in opened:
            for name, write in writers.items():
                started = time.perf_counter()
                file = write(*picture)
                times[name].append(time.perf_counter() - started)
                sizes[name].append(len(file))
    table = Table("writer", "median ms", "median KB", title=f"{len(opened)} pictures, {repeats} turns")
    for name in writers:
        milliseconds, kilobytes = statistics.median(times[name]) * 1000, statistics.median(sizes[name]) / 1000
        table.add_row(name, f"{milliseconds:.1f}", f"{kilobytes:.0f}")
    Console().print(table)


def _is_drawn(file: Path) -> bool:
    with Image.open(file) as picture:
        return picture.size == (512, 512)


if __name__ == "__main__":
    typer.run(main)
