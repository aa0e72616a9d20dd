"""A server as one writes it first: FastAPI around diffusers' own pipeline, one picture at a time behind a lock.

``python -m bench.serving_overhead.plain_server --port 9000 --model FOLDER --dtype float32`` answers ``GET /imagine``
with the same parameters and a PNG, and ``GET /health`` once the model is loaded.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, Any

import typer
from fastapi import FastAPI, Response

Draw = Callable[[str, int, int, int, float, int], bytes]
"""Prompt, width, height, steps, guidance and seed to a PNG file; blocks."""


def plain_app(draw: Draw) -> FastAPI:
    """The application.

    Args:
        draw: Called for one picture at a time, always on the same thread: OpenMP keeps threads for each thread that
            ever computed, and would be slower with more of them.
    """
    app = FastAPI(docs_url=None, redoc_url=None)
    lock = asyncio.Lock()
    thread = ThreadPoolExecutor(1, thread_name_prefix="draw")

    @app.get("/health")
    async def health() -> dict[str, str]:
        return {"status": "ready"}

    @app.get("/imagine")
    async def imagine(
        prompt: str,
        width: int = 512,
        height: int = 512,
        num_inference_steps: int = 4,
        guidance_scale: float = 0.0,
        seed: int = 0,
    ) -> Response:
        async with lock:
            data = await asyncio.get_running_loop().run_in_executor(
                thread, draw, prompt, width, height, num_inference_steps, guidance_scale, seed
            )
        return Response(data, media_type="image/png")

    return app


def diffusers_draw(model: str, dtype: str, num_threads: int) -> Draw:
    """Draws with stock `StableDiffusionXLPipeline` on the CPU, or on the CUDA device where there is one.

    Args:
        model: The bundled model's name, a folder, or a hub id.
        dtype: ``float32``, ``bfloat16`` or ``float16``.
        num_threads: CPU threads.
    """
    import torch
    from diffusers import StableDiffusionXLPipeline
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    from serve_app.images import encode
    from serve_app.model_source import locate_model
    from serve_app.request import OutputOptions
    from serve_app.result import Pixels
    from serve_app.settings import PoolSettings

    for libraries_logging in (diffusers_logging, transformers_logging):  # no bars between the tables
        libraries_logging.set_verbosity_error()
        libraries_logging.disable_progress_bar()
    source = locate_model(PoolSettings(model=model))
    stock: Any = StableDiffusionXLPipeline.from_pretrained(
        source.folder or model, torch_dtype=getattr(torch, dtype), add_watermarker=False
    ).to("cuda" if torch.cuda.is_available() else "cpu")
    stock.set_progress_bar_config(disable=True)

    def draw(prompt: str, width: int, height: int, steps: int, guidance_scale: float, seed: int) -> bytes:
        if torch.get_num_threads() != num_threads:  # each thread has a number of its own
            torch.set_num_threads(num_threads)
        picture = stock(
            prompt=prompt,
            width=width,
            height=height,
            num_inference_steps=steps,
            guidance_scale=guidance_scale,
            generator=torch.Generator("cpu").manual_seed(seed),
        ).images[0]
        # The service's own files, so that the servers are compared and not the compression.
        return encode(Pixels(width, height, picture.tobytes()), OutputOptions())

    return draw


def main(
    port: Annotated[int, typer.Option(help="On loopback.")],
    model: Annotated[str, typer.Option()],
    dtype: Annotated[str, typer.Option()] = "float32",
    num_threads: Annotated[int, typer.Option(min=1)] = 1,
) -> None:
    """Serve until stopped."""
    import uvicorn

    uvicorn.run(
        plain_app(diffusers_draw(model, dtype, num_threads)), host="127.0.0.1", port=port, log_level="error"
    )


if __name__ == "__main__":
    typer.run(main)
