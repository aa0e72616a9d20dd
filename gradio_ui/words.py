"""What the page says to people: of refusals and failures, and of where a drawing stands."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gradio_ui.client import ServiceError

LABELS: Mapping[str, str] = {
    "prompt": "Prompt",
    "negative_prompt": "Leave out",
    "width": "Size",
    "height": "Size",
    "num_inference_steps": "Steps",
    "guidance_scale": "Guidance",
    "seed": "Seed",
    "num_images": "Pictures",
    "scheduler": "Noise scheduler",
    "format": "File format",
    "pool": "Where",
    "model": "Model",
    "picture": "Picture",
}
"""The page's label of each field of the service."""


@dataclass(frozen=True, slots=True)
class Notice:
    """A sentence or two for the person.

    Attributes:
        text: What happened and what can be done.
        field: The service's name of the form's field at fault, or None.
        retry_after_s: Counted down beside the text, or None.
    """

    text: str
    field: str | None = None
    retry_after_s: int | None = None


def notice(error: ServiceError) -> Notice:
    """What to tell of an error."""
    message = error.message.strip().rstrip(".")
    if error.is_away:
        return Notice(f"The service does not answer ({message}). Nothing is lost: try again when it is back.")
    if error.code == "picture_refused":
        return Notice(f"{_first(message)}. Another prompt or seed may be drawn.")
    if error.status in (429, 503) and error.retry_after_s is not None:
        wait_s = max(1, math.ceil(error.retry_after_s))
        if error.code == "rate_limit_exceeded":  # the service may have room: this page may not draw more
            return Notice(f"{_first(message)}.", retry_after_s=wait_s)
        return Notice(f"The service is full: {_lower(message)}.", retry_after_s=wait_s)
    if error.status == 503:
        return Notice(f"The service cannot draw yet: {_lower(message)}. Try again in a moment.")
    if error.status == 413:
        return Notice(f"That is too large: {_lower(message)}.")
    if error.status in (400, 422) and error.field:
        label = LABELS.get(error.field.rpartition(".")[2], error.field)
        return Notice(f"{label}: {_first(_without_name(message, error.field))}.", field=error.field)
    if error.status in (401, 403):
        return Notice(f"The service does not let this page in: {_lower(message)}.")
    if error.is_unknown:
        return Notice(
            "The service does not keep this any more. Draw it again: the same seed gives the same picture."
        )
    if error.status == 504 or error.code == "deadline_exceeded":
        return Notice(f"It took too long: {_lower(message)}. Try fewer steps or a smaller picture.")
    return Notice(f"Drawing failed: {_lower(message)}. Try again; if it stays so, ask who runs the service.")


def state(drawing: Mapping[str, Any]) -> str:
    """One short line about a job, from its own JSON (``state``, ``position``, ``message``...)."""
    kind, message = drawing.get("state"), drawing.get("message")
    position, step, steps = drawing.get("position"), drawing.get("step"), drawing.get("num_inference_steps")
    if kind == "queued":
        if message:
            return f"Waiting: {_lower(str(message).strip().rstrip('.'))}"
        if position:
            return f"Waiting, {position} before it"
        return "Next in line"
    if kind in ("waking", "starting"):
        if kind == "waking":
            return "Starting an accelerator" + (
                f": {_lower(str(message).strip().rstrip('.'))}" if message else ""
            )
        if message:
            return _first(str(message).strip().rstrip("."))
        if position:
            return f"Waiting, {position} before it"
        return "Starting"
    if kind == "running":
        done = f"Step {step} of {steps}" if steps else "Drawing"
        if steps and step == steps:
            done = "Finishing"
        eta = drawing.get("eta_s")
        return f"{done}, {duration(eta)} left" if eta and eta >= 1.5 else done
    return {"finished": "Done", "failed": "Failed", "cancelled": "Stopped"}.get(str(kind), _first(str(kind)))


def duration(seconds: float) -> str:
    """Seconds as people say them: ``0.42 s``, ``12 s``, ``3 min``."""
    if seconds < 10:
        return f"{seconds:.2g} s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min"


def _without_name(message: str, name: str) -> str:
    return message.removeprefix(f"{name}:").strip()


def _lower(text: str) -> str:
    # Names such as "GPU" keep their capitals.
    return text[:1].lower() + text[1:] if text[1:2].islower() else text


def _first(text: str) -> str:
    return text[:1].upper() + text[1:]
