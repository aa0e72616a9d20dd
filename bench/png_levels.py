"""PNG compression levels on real pictures: size against time, to choose `serve_app.images.PNG_COMPRESS_LEVEL`.

Run ``python -m bench.png_levels [PICTURE...]``. Without arguments it takes the bundled model's pictures in docs/images.
"""

from __future__ import annotations

import io
import statistics
import time
from pathlib import Path
from typing import Annotated

import typer
from PIL import Image
from rich.console import Console
from rich.table import Table

PICTURES = Path(__file__).parents[1] / "docs" / "images"


def main(
    pictures: Annotated[list[Path] | None, typer.Argument(help="Picture files.")] = None,
    repeats: Annotated[int, typer.Option(min=1, help="Timed turns of each level.")] = 5,
) -> None:
    """Encodes every picture with every level, in turns, and prints medians over all of them."""
    files = pictures or [file for file in sorted(PICTURES.glob("*.png")) if file.stem != "contact_sheet"]
    opened = [Image.open(file).convert("RGB") for file in files]
    times: dict[int, list[float]] = {level: [] for level in range(10)}
    sizes: dict[int, list[int]] = {level: [] for level in range(10)}
    for _ in range(repeats):
        for picture in opened:
            for level in range(10):
                buffer = io.BytesIO()
                started = time.perf_counter()
                picture.save(buffer, "PNG", compress_level=level)
                times[level].append(time.perf_counter() - started)
                sizes[level].append(buffer.tell())
    table = Table("level", "median ms", "median KB", title=f"{len(opened)} pictures, {repeats} turns")
    for level in range(10):
        milliseconds, kilobytes = (
            statistics.median(times[level]) * 1000,
            statistics.median(sizes[level]) / 1000,
        )
        table.add_row(str(level), f"{milliseconds:.1f}", f"{kilobytes:.0f}")
    Console().print(table)


if __name__ == "__main__":
    typer.run(main)
