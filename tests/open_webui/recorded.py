"""What Open WebUI 0.12.4 sends: the tests of this folder hold it against the real one, those in tests/unit replay it.

The service behind it has the models ``small-sdxl`` and ``fake``, in this order.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

NO_PASSWORD = "Basic"
"""Of the header that Open WebUI sends where no user and password are set; the part behind it is empty."""


@dataclass(frozen=True)
class Sent:
    """One request.

    Attributes:
        method: HTTP method.
        path: Path without host.
        authorization: The header of this name.
        body: The JSON body, or None for a request without one.
    """

    method: str
    path: str
    authorization: str
    body: dict[str, Any] | None = None


_OPTIONS = Sent("GET", "/sdapi/v1/options", NO_PASSWORD)
_SMALL_SDXL = {
    "sd_model_checkpoint": "small-sdxl [d4149c53fc]",
    "sd_checkpoint_hash": "d4149c53fc4dbd4fed64168a7005603b3c78ad46322018bb48a62131996af94a",
    "samples_format": "png",
    "sd_vae": "Automatic",
    "CLIP_stop_at_last_layers": 1,
}


def _change_to(model: str) -> Sent:
    """All options are sent back, the model changed and its hash left as it was."""
    return Sent("POST", "/sdapi/v1/options", NO_PASSWORD, {**_SMALL_SDXL, "sd_model_checkpoint": model})


OPENAI_DRAWS = [
    Sent(
        "POST",
        "/v1/images/generations",
        "Bearer any",
        {
            "model": "small-sdxl",
            "prompt": "a red star on a blue background",
            "n": 1,
            "size": "512x512",
            "response_format": "b64_json",
        },
    )
]
"""The engine "Default (Open AI)", whatever else is set; saving its settings sends nothing."""

OPENAI_DRAWS_WITH_PARAMETERS = [
    Sent(
        "POST",
        "/v1/images/generations",
        "Bearer any",
        {
            "model": "fake",
            "prompt": "a yellow heart",
            "n": 2,
            "size": "256x192",
            "response_format": "b64_json",
            "seed": 7,
            "num_inference_steps": 6,
        },
    )
]
"""Another model and size, two pictures, and "Additional Parameters"."""

OPENAI_DRAWS_AS_GPT_IMAGE = [
    Sent(
        "POST",
        "/v1/images/generations",
        "Bearer any",
        {"model": "gpt-image-1", "prompt": "a green tree", "n": 1, "size": "auto"},
    )
]
"""A model whose name begins with gpt-image is asked without a response format, and may have the size auto."""

A1111_SAVES_SETTINGS = [_OPTIONS, _change_to("small-sdxl")]
"""A model is sent whenever the answer has it in other words, such as without its hash."""

A1111_SAVES_SETTINGS_WITHOUT_A_MODEL = [_OPTIONS, _change_to("")]

A1111_VERIFIES = [_OPTIONS]
"""The button beside the base url."""

A1111_LISTS_MODELS = [Sent("GET", "/sdapi/v1/sd-models", NO_PASSWORD)]

A1111_DRAWS = [
    _OPTIONS,
    Sent(
        "POST",
        "/sdapi/v1/txt2img",
        NO_PASSWORD,
        {
            "prompt": "a red star on a blue background",
            "batch_size": 1,
            "width": 512,
            "height": 512,
            "steps": 4,
        },
    ),
]

A1111_DRAWS_WITH_ANOTHER_MODEL = [
    _OPTIONS,
    _OPTIONS,
    _change_to("fake [b5d54c39e6]"),
    Sent(
        "POST",
        "/sdapi/v1/txt2img",
        NO_PASSWORD,
        {
            "prompt": "a yellow heart",
            "batch_size": 2,
            "width": 256,
            "height": 192,
            "steps": 6,
            "negative_prompt": "blurry",
            "seed": 7,
        },
    ),
]
"""An administrator's request that names a model; size and steps of the request win over the settings'."""

SEQUENCES = {name: value for name, value in list(globals().items()) if name.startswith(("OPENAI_", "A1111_"))}
