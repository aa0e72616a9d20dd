"""Reading A1111's text of parameters, which people copy from a picture and send back."""

from __future__ import annotations

import re

from pydantic import BaseModel, ValidationError

from serve_app.errors import InvalidRequest
from serve_app.limits import GuidanceScale, NumInferenceSteps, PixelSide, PromptText, Seed, ShortName

_NEGATIVE = "Negative prompt:"
# A name, a colon, and a value that is quoted where it holds a comma.
_SETTING = re.compile(r'\s*([A-Za-z][\w /-]{0,60}):\s*("(?:\\.|[^\\"])*"|[^,]*)(?:,|$)')
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
    if "Steps:" not in last:
        lines, last = [*lines, last], ""
    body = "\n".join(lines)
    prompt, _, negative_prompt = body.partition(_NEGATIVE)
    settings = {name: value.strip().strip('"') for name, value in _SETTING.findall(last)}
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
