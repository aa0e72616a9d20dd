"""What a picture file says of how it was drawn: A1111's text for its tools, and JSON from which it is drawn again."""

from __future__ import annotations

import hashlib
import io
import json
import struct
from dataclasses import dataclass

from PIL import Image, PngImagePlugin

from serve_app.noise_schedulers import sampler_and_schedule
from serve_app.request import GenerationRequest

PNG_TEXT_KEY = "parameters"
PNG_JSON_KEY = "imagine"

_EXIF_IFD = 0x8769
_EXIF_USER_COMMENT = 0x9286
_EXIF_IMAGE_DESCRIPTION = 0x010E
# An EXIF block is one JPEG segment: 65,533 bytes less its header and the directory entries around the values.
_MAX_EXIF_BYTES = 65_000
# What Pillow's parsers are known to raise for files that were made to break them.
_UNREADABLE = (
    ArithmeticError,
    LookupError,
    OSError,
    SyntaxError,
    TypeError,
    ValueError,
    struct.error,
    Image.DecompressionBombError,
)


@dataclass(frozen=True, slots=True)
class PictureParameters:
    """What is written into a picture file.

    Attributes:
        infotext: As A1111 and its tools write and read it; empty for none.
        details: JSON of every value that the picture depends on; empty for none.
    """

    infotext: str = ""
    details: str = ""


NO_PARAMETERS = PictureParameters()


def picture_parameters(
    request: GenerationRequest, *, index: int, model: str, scheduler_name: str
) -> PictureParameters:
    """What the file of one picture says.

    Args:
        request: What was drawn.
        index: Which picture of the request; it decides the seed.
        model: Model id.
        scheduler_name: Canonical name of the noise scheduler that was really used.
    """
    details = {
        "prompt": request.prompt,
        "negative_prompt": request.negative_prompt,
        "width": request.width,
        "height": request.height,
        "num_inference_steps": request.num_inference_steps,
        "guidance_scale": request.guidance_scale,
        "seed": request.image_seed(index),
        "scheduler": scheduler_name,
        "model": model,
        "format": request.output.format.value,
        "quality": request.output.quality,
    }
    return PictureParameters(
        infotext=infotext(request, index=index, model=model, scheduler_name=scheduler_name),
        details=json.dumps(details, ensure_ascii=False, separators=(",", ":")),
    )


def infotext(request: GenerationRequest, *, index: int, model: str, scheduler_name: str) -> str:
    """The parameters of one picture as A1111 and its tools write and read them.

    Args:
        request: What was drawn.
        index: Which picture of the request; it decides the seed.
        model: Model id.
        scheduler_name: Canonical name of the noise scheduler that was really used.

    Returns:
        The prompt, an optional ``Negative prompt:`` line, and one line of comma-separated settings.
    """
    lines = [request.prompt]
    if request.negative_prompt:
        lines.append(f"Negative prompt: {request.negative_prompt}")
    sampler, schedule = sampler_and_schedule(scheduler_name)
    settings = {
        "Steps": str(request.num_inference_steps),
        "Sampler": sampler,
        "Schedule type": schedule,
        "CFG scale": f"{request.guidance_scale:g}",
        "Seed": str(request.image_seed(index)),
        "Size": f"{request.width}x{request.height}",
        "Model hash": model_hash(model),
        "Model": model,
    }
    lines.append(", ".join(f"{name}: {_quoted(value)}" for name, value in settings.items()))
    return "\n".join(lines)


def model_hash(model: str) -> str:
    """Ten hexadecimal digits that stand for a model where A1111 has a part of the checkpoint's hash.

    Of the model's id: the weights are several files, which only replicas have.
    """
    return hashlib.sha256(model.encode()).hexdigest()[:10]


def png_chunks(parameters: PictureParameters) -> list[tuple[bytes, bytes]]:
    """Text chunks for a PNG file, type and data, ``parameters`` where A1111 looks and ``imagine`` for the JSON."""
    chunks = PngImagePlugin.PngInfo()
    for key, text in ((PNG_TEXT_KEY, parameters.infotext), (PNG_JSON_KEY, parameters.details)):
        if text:
            # Latin-1 text becomes a tEXt chunk, anything else iTXt: what A1111 writes too.
            chunks.add_text(key, text)
    return [(kind, data) for kind, data, *_ in chunks.chunks]


def exif(parameters: PictureParameters) -> bytes:
    """An EXIF block with the text as UserComment and the JSON as ImageDescription; empty without both.

    It holds 65 KB. Only prompts near the length limit in letters of several bytes do not fit: then the JSON is
    left out, and after it the prompt, since half a prompt would be mistaken for the whole one.
    """
    if not parameters.infotext and not parameters.details:
        return b""
    comment = b"UNICODE\0" + parameters.infotext.encode("utf-16-be")
    if len(comment) > _MAX_EXIF_BYTES:
        comment = b"UNICODE\0" + parameters.infotext.rpartition("\n")[2].encode("utf-16-be")
    description = parameters.details.encode()
    block = Image.Exif()
    block.get_ifd(_EXIF_IFD)[_EXIF_USER_COMMENT] = comment
    if description and len(comment) + len(description) <= _MAX_EXIF_BYTES:
        block[_EXIF_IMAGE_DESCRIPTION] = description
    return block.tobytes()


def read(file: bytes) -> PictureParameters:
    """What a picture file says, whoever made it: nothing of it can be trusted. Blocks for milliseconds.

    Only headers are read: pixels are never decoded, and Pillow bounds the size of text chunks.

    Args:
        file: A PNG, WebP or JPEG file.

    Raises:
        ValueError: Not such a file, or a broken one.
    """
    try:
        with Image.open(io.BytesIO(file), formats=("PNG", "WEBP", "JPEG")) as image:
            if image.format == "PNG":
                text, details = (image.info.get(key) for key in (PNG_TEXT_KEY, PNG_JSON_KEY))
            else:
                block = image.getexif()
                text = _comment(block.get_ifd(_EXIF_IFD).get(_EXIF_USER_COMMENT))
                details = _description(block.get(_EXIF_IMAGE_DESCRIPTION))
    except _UNREADABLE as error:
        raise ValueError("not a readable PNG, WebP or JPEG file") from error
    return PictureParameters(
        infotext=str(text) if isinstance(text, str) else "",
        details=str(details) if isinstance(details, str) else "",
    )


def _comment(value: object) -> str | None:
    if not isinstance(value, bytes) or not value.startswith(b"UNICODE\0"):
        return None
    return value[8:].decode("utf-16-be", errors="replace")


def _description(value: object) -> str | None:
    # Pillow reads every text of EXIF as Latin-1.
    return value.encode("latin-1").decode("utf-8", errors="replace") if isinstance(value, str) else None


def _quoted(value: str) -> str:
    """Quotes a value that would break the comma-separated line, as A1111 does."""
    if any(character in value for character in ',:"\n'):
        escaped = value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", " ")
        return f'"{escaped}"'
    return value
