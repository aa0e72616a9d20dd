"""Reading A1111's text of parameters, which people copy from a picture and send back."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import BaseModel, Field, ValidationError

from serve_app.errors import InvalidRequest
from serve_app.limits import (
    MAX_PROMPT_CHARS,
    GuidanceScale,
    NumInferenceSteps,
    PixelSide,
    PromptText,
    Seed,
    ShortName,
)

Infotext = Annotated[str, Field(max_length=2 * MAX_PROMPT_CHARS + 2000)]
"""Two prompts of the longest kind, and the settings."""

_NEGATIVE = re.compile(r"^[ \t]*Negative prompt:", flags=re.MULTILINE)
# A name, a colon, and a value that is quoted where it holds a comma.
_SETTING = re.compile(r'([A-Za-z][\w /-]{0,60}):\s*("(?:\\.|[^\\"])*"|[^,]*)(?:,|$)')
_NUMBER = re.compile(r"-?\d+(\.\d*)?")
_SIZE = re.compile(r"(\d{1,5})x(\d{1,5})")


class ParsedInfotext(BaseModel):
    """What such a text says; absent fields were not in it."""

    prompt: PromptText = ""
    negative_prompt: PromptText = ""
    steps: NumInferenceSteps | None = None
    sampler: ShortName | None = None
    schedule: ShortName | None = None
    cfg_scale: GuidanceScale | None = None
    seed: Seed | None = None
    width: PixelSide | None = None
    height: PixelSide | None = None


def parse_infotext(text: str) -> ParsedInfotext:
    """Reads a text of parameters. The model it names is left to the caller's own choice.

    Raises:
        InvalidRequest: A value is outside the limits.
    """
    *lines, last = text.strip().split("\n")
    settings = {name: value.strip().strip('"') for name, value in _SETTING.findall(last)}
    # People write of steps too: it is a line of settings where they are a number.
    if _NUMBER.fullmatch(settings.get("Steps", "")) is None:
        lines, settings = [*lines, last], {}
    prompt, *rest = _NEGATIVE.split("\n".join(lines), maxsplit=1)
    negative_prompt = "".join(rest)
    size = _SIZE.fullmatch(settings.get("Size", ""))
    values = {
        "prompt": prompt.strip(),
        "negative_prompt": negative_prompt.strip(),
        "steps": settings.get("Steps"),
        "sampler": settings.get("Sampler"),
        "schedule": settings.get("Schedule type"),
        "cfg_scale": settings.get("CFG scale"),
        "seed": settings.get("Seed"),
        "width": size and size[1],
        "height": size and size[2],
    }
    try:
        return ParsedInfotext.model_validate({name: value for name, value in values.items() if value})
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise InvalidRequest("infotext", f"{first['loc'][0]}: {first['msg']}") from error
