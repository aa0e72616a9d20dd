"""The test picture through the running service's own HTTP interface."""

from __future__ import annotations

import io
import time
from dataclasses import dataclass

import httpx
from PIL import Image

from serve_app.errors import ConfigurationError

TIMEOUT_S = 1800.0
"""A full-size SDXL on a few CPU cores takes minutes for its first picture."""

SIDE = 256
"""Small, so that a large model on slow hardware passes it in bearable time; the replica tested a larger one. A pool
that is compiled for one size draws that."""


@dataclass(frozen=True, slots=True)
class FirstPicture:
    """What came back.

    Attributes:
        seconds: Wall seconds of the request.
        width: Pixels.
        height: Pixels.
    """

    seconds: float
    width: int
    height: int


def draw_first_picture(base_url: str, api_key: str | None = None) -> FirstPicture:
    """Asks for a small picture and looks at it.

    Args:
        base_url: The service, without a trailing slash.
        api_key: Sent as a bearer token.

    Raises:
        ConfigurationError: The service refused, or the picture is one flat colour.
    """
    started = time.monotonic()
    query: dict[str, str | int] = {
        "prompt": "a red star on a blue background",
        "num_inference_steps": 2,
        "guidance_scale": 0,
        "seed": 0,
    }
    headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
    try:
        # trust_env off: a proxy of the user's must not stand between two processes of one machine.
        timeout = httpx.Timeout(TIMEOUT_S, connect=10.0)
        with httpx.Client(timeout=timeout, trust_env=False, headers=headers) as client:
            answer = client.get(f"{base_url}/api/pools")
            if answer.status_code == httpx.codes.UNAUTHORIZED:
                raise ConfigurationError("IMAGINE_API_KEY holds none of the keys of access.keys_file")
            pools = answer.raise_for_status().json()
            if not all(pool["capabilities"]["fixed_sizes"] for pool in pools):
                query |= {"width": SIDE, "height": SIDE}
            response = client.get(f"{base_url}/imagine", params=query)
    except httpx.HTTPError as error:
        raise ConfigurationError(f"the service does not answer on {base_url}: {error}") from error
    if response.status_code != 200:
        raise ConfigurationError(
            f"the test picture was refused with {response.status_code}: {response.text[:500]}"
        )
    picture = Image.open(io.BytesIO(response.content)).convert("RGB")
    if all(channel.getextrema()[0] == channel.getextrema()[1] for channel in picture.split()):
        raise ConfigurationError(
            "the test picture is one flat colour: the model's weights or this dtype do not work; try DTYPE=float32"
        )
    return FirstPicture(time.monotonic() - started, picture.width, picture.height)
