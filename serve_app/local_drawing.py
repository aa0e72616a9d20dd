"""Drawing without a server: one pipeline and one engine in this process (``imagine generate``)."""

from __future__ import annotations

import queue
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from serve_app import accelerators
from serve_app.capabilities import PoolFacts
from serve_app.engine import Engine
from serve_app.errors import ConfigurationError, GenerationFailed, ImagineError, InvalidRequest
from serve_app.images import encode
from serve_app.metadata import picture_parameters
from serve_app.request import GenerationRequest, ImageFormat, OutputOptions, RequestDraft
from serve_app.result import Pixels, StageSeconds
from serve_app.settings import PoolSettings
from serve_app.warmup import Collector

STEP_TIMEOUT_S = 1800.0
"""No step, not even the first of a full-size model on slow hardware, takes longer."""

_FORMATS = {
    ".png": ImageFormat.PNG,
    ".webp": ImageFormat.WEBP,
    ".jpg": ImageFormat.JPEG,
    ".jpeg": ImageFormat.JPEG,
}


def draw_locally(
    draft: RequestDraft, pool: PoolSettings, output: Path, *, console: Console
) -> dict[str, Any]:
    """Draws `draft` and writes one file per picture.

    Args:
        draft: What to draw.
        pool: Model and accelerator.
        output: File of a single picture; of several, ``name-0.png``, ``name-1.png`` and so on.
        console: Where progress bars go; nothing is drawn when it is no terminal.

    Returns:
        What was drawn: model, accelerator, all request values, and per picture path, seed and seconds.

    Raises:
        ImagineError: The model, the request or the file does not work.
    """
    image_format = _FORMATS.get(output.suffix.lower())
    if image_format is None:
        raise InvalidRequest("output", f"{output} ends with none of {', '.join(_FORMATS)}")
    if not output.parent.is_dir():
        raise InvalidRequest("output", f"the folder {output.parent} does not exist")
    accelerator = accelerators.of_pool(pool)
    with console.status(f"Loading {pool.model} ..."):
        pipeline = accelerator.load_pipeline(pool)
    facts = PoolFacts(pool.name, pool.model, accelerator.name, pipeline.defaults, pipeline.capabilities)
    request = draft.for_pool(facts)
    engine = Engine(pipeline, max_rows=pool.max_rows, max_queued_images=pool.max_queued_images)
    engine.start()
    try:
        pictures = draw_pictures(engine, request, console)
    finally:
        engine.stop(STEP_TIMEOUT_S)
    images = []
    for index, (pixels, seconds) in sorted(pictures.items()):
        path = (
            output if request.num_images == 1 else output.with_name(f"{output.stem}-{index}{output.suffix}")
        )
        parameters = picture_parameters(
            replace(request, output=OutputOptions(image_format)),
            index=index,
            model=pool.model,
            scheduler_name=request.scheduler_name or facts.defaults.scheduler_name,
        )
        try:
            path.write_bytes(encode(pixels, OutputOptions(image_format), parameters))
        except OSError as error:
            raise ConfigurationError(f"cannot write {path} ({error.strerror})") from None
        spent = seconds.prepare + seconds.denoise + seconds.decode
        images.append({"path": str(path), "seed": request.image_seed(index), "seconds": round(spent, 3)})
    return {
        "model": pool.model,
        "accelerator": accelerator.name,
        "prompt": request.prompt,
        "negative_prompt": request.negative_prompt,
        "width": request.width,
        "height": request.height,
        "num_inference_steps": request.num_inference_steps,
        "guidance_scale": request.guidance_scale,
        "scheduler": request.scheduler_name or facts.defaults.scheduler_name,
        "images": images,
    }


def draw_pictures(
    engine: Engine, request: GenerationRequest, console: Console
) -> dict[int, tuple[Pixels, StageSeconds]]:
    """Draws all pictures of `request` on a started engine, showing a bar for each.

    Raises:
        ImagineError: One of them failed.
    """
    collector = Collector()
    columns = (
        TextColumn("picture {task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    pictures: dict[int, tuple[Pixels, StageSeconds]] = {}
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        bars = [
            progress.add_task(str(index + 1), total=request.num_inference_steps)
            for index in range(request.num_images)
        ]
        ticket = engine.submit(request, collector)
        try:
            while len(pictures) < request.num_images:
                event = collector.events.get(timeout=STEP_TIMEOUT_S)
                if isinstance(event, ImagineError):
                    raise event
                if isinstance(event, tuple):
                    pictures[event[0]] = (event[1], event[2])
                else:
                    bar = bars[event.image_index]
                    progress.update(bar, completed=event.step, total=event.num_inference_steps)
        except queue.Empty:
            raise GenerationFailed(f"a step took longer than {STEP_TIMEOUT_S:.0f} s") from None
        finally:
            ticket.cancel()
    return pictures
