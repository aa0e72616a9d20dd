"""``imagine generate``: a picture without a server."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from serve_app.cli.options import (
    Accelerator,
    AsJson,
    Dtype,
    Model,
    Revision,
    Threads,
    fail,
    progress_console,
    wrong_setting,
)
from serve_app.errors import ImagineError, InvalidRequest


def generate(
    prompt: Annotated[str, typer.Argument(help="What to draw.")],
    output: Annotated[
        Path, typer.Option("-o", "--output", help="File to write; .png, .webp or .jpg.")
    ] = Path("out.png"),
    negative_prompt: Annotated[str, typer.Option("--negative-prompt", "-n", help="What to avoid.")] = "",
    steps: Annotated[int | None, typer.Option("--steps", help="num_inference_steps.")] = None,
    guidance: Annotated[float | None, typer.Option("--guidance", help="guidance_scale.")] = None,
    size: Annotated[str | None, typer.Option("--size", help="WIDTHxHEIGHT in pixels.")] = None,
    seed: Annotated[int | None, typer.Option("--seed", help="Random when absent; always reported.")] = None,
    number: Annotated[int, typer.Option("--number", min=1, help="Pictures; each with its own seed.")] = 1,
    scheduler: Annotated[
        str | None, typer.Option("--scheduler", help="Noise scheduler, e.g. euler_a.")
    ] = None,
    model: Model = "small-sdxl",
    accelerator: Accelerator = "auto",
    revision: Revision = None,
    dtype: Dtype = "auto",
    num_threads: Threads = None,
    as_json: AsJson = False,
) -> None:
    """Draw without a server: the same model, engine and step maths in this process."""
    from pydantic import ValidationError

    from serve_app.local_drawing import draw_locally
    from serve_app.request import RequestDraft, random_seed
    from serve_app.settings import PoolSettings

    try:
        width, height = parsed_size(size)
        _check_bounds(
            prompt=prompt, negative_prompt=negative_prompt, steps=steps, guidance=guidance, seed=seed
        )
        draft = RequestDraft(
            prompt=prompt,
            negative_prompt=negative_prompt,
            width=width,
            height=height,
            num_inference_steps=steps,
            guidance_scale=guidance,
            seed=random_seed() if seed is None else seed,
            num_images=number,
            scheduler_name=scheduler,
        )
        pool = PoolSettings.model_validate(
            {
                "model": model,
                "accelerator": accelerator,
                "revision": revision,
                "dtype": dtype,
                "num_threads": num_threads,
            }
        )
        drawn = draw_locally(draft, pool, output, console=progress_console)
    except ValidationError as error:
        fail(wrong_setting(error), as_json=as_json)
    except ImagineError as error:
        fail(error, as_json=as_json)
    except KeyboardInterrupt:
        progress_console.print("Stopped.")
        raise typer.Exit(130) from None
    if as_json:
        print(json.dumps(drawn))
    else:
        for picture in drawn["images"]:
            print(f"{picture['path']}  seed {picture['seed']}  {picture['seconds']:.2f} s")


def _check_bounds(**options: Any) -> None:
    """Holds options against the bounds that the service's routes have.

    Raises:
        InvalidRequest: One is out of its bounds.
    """
    from pydantic import TypeAdapter, ValidationError

    from serve_app.limits import GuidanceScale, NumInferenceSteps, PromptText, RequiredPrompt, Seed

    kinds: dict[str, Any] = {
        "prompt": RequiredPrompt,
        "negative_prompt": PromptText,
        "steps": NumInferenceSteps | None,
        "guidance": GuidanceScale | None,
        "seed": Seed | None,
    }
    for name, value in options.items():
        try:
            TypeAdapter(kinds[name]).validate_python(value)
        except ValidationError as error:
            message = error.errors()[0]["msg"].removeprefix("Value error, ")
            raise InvalidRequest(name.replace("_", "-"), message) from None


def parsed_size(text: str | None) -> tuple[int | None, int | None]:
    """(width, height) of ``WxH``.

    Raises:
        InvalidRequest: Not of that form.
    """
    if text is None:
        return None, None
    width, x, height = text.lower().partition("x")
    if not (x and width.isdigit() and height.isdigit()):
        raise InvalidRequest("size", f"{text!r} is not WIDTHxHEIGHT, such as 512x512")
    return int(width), int(height)
