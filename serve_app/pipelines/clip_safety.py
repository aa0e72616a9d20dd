"""The safety checker of diffusers' Stable Diffusion pipelines, as a `serve_app.safety.SafetyChecker`.

It compares CLIP's embedding of a picture with those of concepts; what is near one of them is refused. Its weights are
on the hub as the folder ``safety_checker`` of the first Stable Diffusion models.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import torch
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from PIL import Image
from transformers import CLIPImageProcessor

from serve_app.errors import ConfigurationError
from serve_app.result import Pixels


class ClipSafetyChecker:
    """Looks at one picture at a time, on the CPU.

    Args:
        model: The checker, in evaluation mode.
        processor: Makes its input.
    """

    def __init__(self, model: StableDiffusionSafetyChecker, processor: CLIPImageProcessor) -> None:
        self._model = model
        self._processor = processor
        self._turn = threading.Lock()

    def reason_to_refuse(self, pixels: Pixels, prompt: str) -> str | None:
        """As the protocol says; the prompt is not looked at."""
        image = Image.frombytes("RGB", (pixels.width, pixels.height), pixels.rgb)
        inputs = self._processor(images=image, return_tensors="pt")
        # One at a time: two forward passes beside the denoising would only take its cores away twice.
        with self._turn, _on_one_core(), torch.inference_mode():
            # It blackens what it refuses in the array that it is given, which is thrown away.
            _, refused = self._model(clip_input=inputs.pixel_values, images=[np.array(image)])
        return (
            "the safety checker refused this picture; another prompt or seed may help" if refused[0] else None
        )


@contextmanager
def _on_one_core() -> Iterator[None]:
    """The calling thread: a replica on a CPU has no threads to spare beside its cores, see `SharedCores`."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def load(
    model: str, *, subfolder: str = "", revision: str | None = None, local_files_only: bool = False
) -> ClipSafetyChecker:
    """Loads the checker from safetensors.

    Args:
        model: A folder or a hub id.
        subfolder: Where in it the checker is, such as ``safety_checker``; the processor's settings are looked for in
            ``feature_extractor`` beside it, then in the same folder.
        revision: Hub revision: a commit's full hash pins it.
        local_files_only: Ask no hub.

    Raises:
        ConfigurationError: It is not there, or has no safetensors.
    """
    where = {"revision": revision, "local_files_only": local_files_only}
    try:
        network = StableDiffusionSafetyChecker.from_pretrained(
            model, subfolder=subfolder, use_safetensors=True, **where
        )
        processor = _processor(model, subfolder, where)
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"no safety checker can be loaded from {model}: {error}") from error
    return ClipSafetyChecker(network.eval(), processor)


def _processor(model: str, subfolder: str, where: Mapping[str, object]) -> CLIPImageProcessor:
    if subfolder:
        try:
            return CLIPImageProcessor.from_pretrained(model, subfolder="feature_extractor", **where)
        except OSError:
            pass  # not every model has a folder for it
    return CLIPImageProcessor.from_pretrained(model, subfolder=subfolder, **where)
