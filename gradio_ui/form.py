"""What the form offers, read from what the pools say; and the order that its values make."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from gradio_ui.client import ServiceError

ANYWHERE = ""
"""The choice of no pool: the service takes the cheapest that is free in time."""

MAX_SEED = 2**32 - 1
MAX_IMAGES = 16

# Widths to heights, wide ones and high ones in turn.
_RATIOS: tuple[tuple[str, float], ...] = (
    ("square", 1.0),
    ("landscape", 3 / 2),
    ("portrait", 2 / 3),
    ("wide", 16 / 9),
    ("tall", 9 / 16),
)
# Formats by size alone; sides of SDXL's training are multiples of 64.
_GRAIN = 64

SCHEDULER_LABELS: Mapping[str, str] = {
    "euler": "Euler",
    "euler_a": "Euler a",
    "ddim": "DDIM",
    "dpmpp_2m": "DPM++ 2M",
    "dpmpp_2m_karras": "DPM++ 2M Karras",
    "unipc": "UniPC",
    "lcm": "LCM",
}


@dataclass(frozen=True, slots=True)
class FormValues:
    """What stands in the form.

    Attributes:
        prompt: What to draw.
        negative_prompt: What to steer away from.
        size: Such as ``768x512``; "" for the model's own.
        steps: Denoising steps; None for the model's own.
        guidance: Guidance scale; None for the model's own.
        seed: Digits, or "" for a new one each time.
        num_images: Pictures.
        scheduler: Name, or "" for the model's own.
        pool: Name, or `ANYWHERE`.
        model: Name, or "" for any.
        file_format: png, webp or jpeg.
    """

    prompt: str
    negative_prompt: str = ""
    size: str = ""
    steps: float | None = None
    guidance: float | None = None
    seed: str = ""
    num_images: float = 1
    scheduler: str = ""
    pool: str = ANYWHERE
    model: str = ""
    file_format: str = "png"

    def order(self) -> dict[str, Any]:
        """The body for ``POST /api/jobs``, with a preview at every step.

        Raises:
            ServiceError: A field holds no value that could be sent; it names the field as the service would.
        """
        if not self.prompt.strip():
            raise _wrong("prompt", "say what to draw")
        width, height = parse_size(self.size)
        order: dict[str, Any] = {
            "prompt": self.prompt,
            "negative_prompt": self.negative_prompt.strip() or None,
            "width": width,
            "height": height,
            "num_inference_steps": None if self.steps is None else int(self.steps),
            "guidance_scale": None if self.guidance is None else float(self.guidance),
            "seed": parse_seed(self.seed),
            "num_images": int(self.num_images),
            "scheduler": self.scheduler or None,
            "pool": self.pool or None,
            # A named pool decides the model; naming another beside it could only be refused.
            "model": None if self.pool else self.model or None,
            "format": self.file_format,
            "preview_every": 1,
        }
        return {name: value for name, value in order.items() if value is not None}


@dataclass(frozen=True, slots=True)
class FormChoices:
    """What the form offers for a model or pool.

    Attributes:
        models: Names of the models.
        pools: Label and name of each pool that serves the model.
        model: The chosen one, or "" while no pool answers.
        sizes: Label and value of each size.
        size: The model's own.
        max_steps: Most steps.
        steps: The model's own.
        guidance: The model's own.
        guidance_possible: Whether there can be any.
        schedulers: Label and name.
        scheduler: The model's own.
        speeds_known: Whether `gradio_ui.fastest` can tell.
    """

    models: tuple[str, ...] = ()
    pools: tuple[tuple[str, str], ...] = ()
    model: str = ""
    sizes: tuple[tuple[str, str], ...] = ()
    size: str = ""
    max_steps: int = 150
    steps: int = 30
    guidance: float = 5.0
    guidance_possible: bool = True
    schedulers: tuple[tuple[str, str], ...] = ()
    scheduler: str = ""
    speeds_known: bool = False

    def own_values(self) -> dict[str, Any]:
        """What a form that nobody has touched shows, to be told of the next time (`keeping`)."""
        return {
            "model": self.model,
            "size": self.size,
            "steps": self.steps,
            "guidance": self.guidance,
            "scheduler": self.scheduler,
        }

    def keeping(self, before: Mapping[str, Any] | None, now: Mapping[str, Any]) -> FormChoices:
        """The same offer, with what a person has changed as it is, where it is still possible.

        Another pool or a service that is back must not undo what was set. Another model has values of its own.

        Args:
            before: `own_values` of the last offer, None if there was none.
            now: Values of the form under the same names.
        """
        if before is None or before["model"] != self.model:
            return self
        changed = {name: value for name, value in now.items() if value is not None and value != before[name]}
        if "steps" in changed:
            changed["steps"] = min(int(changed["steps"]), self.max_steps)
        if not self.guidance_possible:
            changed.pop("guidance", None)
        if changed.get("scheduler") not in {name for _, name in self.schedulers}:
            changed.pop("scheduler", None)
        return replace(self, **changed)


def choices(pools: Sequence[Mapping[str, Any]], model: str = "", pool: str = ANYWHERE) -> FormChoices:
    """What to offer.

    Args:
        pools: As ``GET /api/pools`` answers.
        model: The wanted model; "" or one that is not served means the first pool's.
        pool: The wanted pool; decides the model when it is served by another one.
    """
    pools = [facts for facts in pools if can_draw(facts)]
    if not pools:
        return FormChoices()
    named = next((facts for facts in pools if facts["pool"] == pool), None)
    models = tuple(dict.fromkeys(str(facts["model"]) for facts in pools))
    chosen = str(named["model"]) if named else model if model in models else models[0]
    serving = [facts for facts in pools if facts["model"] == chosen]
    offered = [named] if named else serving
    defaults = offered[0]["defaults"]
    all_capabilities = [facts["capabilities"] for facts in offered]
    return FormChoices(
        models=models,
        pools=tuple((f"{facts['pool']} ({facts['accelerator']})", str(facts["pool"])) for facts in pools),
        model=chosen,
        sizes=_sizes(defaults, all_capabilities),
        size=f"{defaults['width']}x{defaults['height']}",
        max_steps=max(int(can.get("max_num_inference_steps", 150)) for can in all_capabilities),
        steps=int(defaults["num_inference_steps"]),
        guidance=float(defaults["guidance_scale"]),
        guidance_possible=any(bool(can.get("guidance", True)) for can in all_capabilities),
        schedulers=tuple(
            (SCHEDULER_LABELS.get(name, name), name)
            for name in dict.fromkeys(
                str(name) for can in all_capabilities for name in can.get("scheduler_names", ())
            )
        ),
        scheduler=str(defaults["scheduler_name"]),
        speeds_known=len(serving) > 1 and all(facts.get("step_s") for facts in serving),
    )


def parse_size(text: str) -> tuple[int | None, int | None]:
    """Width and height of ``768x512`` (also with a multiplication sign or spaces); None and None of an empty text.

    Raises:
        ServiceError: It is no size.
    """
    text = (text or "").strip().lower()
    if not text:
        return None, None
    width, cross, height = text.replace("\N{MULTIPLICATION SIGN}", "x").replace(" ", "").partition("x")
    if not (cross and _is_number(width, 5) and _is_number(height, 5)):
        raise _wrong("width", f"{text[:40]!r} is no size; write width x height in pixels, such as 768x512")
    return int(width), int(height)


def parse_seed(text: str) -> int | None:
    """The seed, or None of an empty text.

    Raises:
        ServiceError: It is no whole number from 0 to `MAX_SEED`.
    """
    text = str(text if text is not None else "").strip()
    if not text:
        return None
    if not _is_number(text, 10) or int(text) > MAX_SEED:
        raise _wrong("seed", f"{text[:40]!r} is no whole number from 0 to {MAX_SEED}")
    return int(text)


def _is_number(text: str, max_digits: int) -> bool:
    return text.isascii() and text.isdecimal() and len(text) <= max_digits


def _wrong(field: str, message: str) -> ServiceError:
    return ServiceError(message, status=422, code="invalid_request", field=field)


def _sizes(
    defaults: Mapping[str, Any], all_capabilities: Sequence[Mapping[str, Any]]
) -> tuple[tuple[str, str], ...]:
    """Presets: the sizes a device is compiled for, else the usual shapes around the model's own size."""
    own = (int(defaults["width"]), int(defaults["height"]))
    found: dict[tuple[int, int], None] = {own: None}
    for can in all_capabilities:
        fixed = [(int(width), int(height)) for width, height in can.get("fixed_sizes", ())]
        for size in fixed or _shapes(own, can):
            found.setdefault(size)
    return tuple((_label(*size), f"{size[0]}x{size[1]}") for size in found)


def _shapes(own: tuple[int, int], can: Mapping[str, Any]) -> list[tuple[int, int]]:
    area = own[0] * own[1]
    grain = math.lcm(_GRAIN, int(can.get("size_multiple", 8)))
    found = []
    for scale in (1, 2):
        for _, ratio in _RATIOS:
            width, height = (
                max(grain, round(side / grain) * grain)
                for side in (
                    math.sqrt(area * ratio) * scale,
                    math.sqrt(area / ratio) * scale,
                )
            )
            if fits(width, height, can) and (scale == 1 or ratio == 1.0):
                found.append((width, height))
    return found


def fits(width: int, height: int, can: Mapping[str, Any]) -> bool:
    """Whether a pool of such capabilities, and of any size, draws this one."""
    return (
        min(width, height) >= int(can.get("min_side", 64))
        and max(width, height) <= int(can.get("max_side", 2048))
        and width * height <= int(can.get("max_pixels", 2048 * 2048))
    )


def _label(width: int, height: int) -> str:
    name = min(_RATIOS, key=lambda known: abs(math.log(width / height / known[1])))[0]
    return f"{width} \N{MULTIPLICATION SIGN} {height} {name}"


def can_draw(pool: Mapping[str, Any]) -> bool:
    """Whether an order to this pool would be drawn, at once or after a start. A service that does not tell what its
    pools are doing lists those that answer."""
    return pool.get("state", "ready") in ("ready", "asleep")
