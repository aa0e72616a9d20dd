"""The web page of an image, used as a browser uses it."""

from __future__ import annotations

import json
import urllib.parse
import urllib.request
import uuid
from typing import Any

from container import (
    ANYWHERE,
    Fault,
    Image,
    get,
    is_healthy,
    passed,
    png_size,
    started,
    wait_for,
    wait_until_healthy,
)
from gateway import gateway

PORT = 7860
NOBODY = "http://127.0.0.1:9"
"""An address where nothing listens: the port of the protocol "discard"."""

PROMPT, SEED = "a red star on a blue background", "7"
_PAGE_S, _DRAW_S, _SERVICE_S = 120.0, 180.0, 600.0


def try_page(image: Image, service_url: str) -> None:
    """The page without a service, at one, and at one behind a gateway.

    Raises:
        Fault: It does not do what it should.
    """
    page = f"http://{ANYWHERE}:{PORT}"
    if PORT not in image.ports:
        raise Fault(f"does not declare port {PORT}")
    with started(image, SERVICE_NAME=NOBODY) as process:
        seconds = wait_until_healthy(image, process)
        passed(f"HEALTHCHECK passes after {seconds:.0f} s")
        wait_for(page, _PAGE_S, process)
        passed(f"answers on port {PORT}, on all addresses")
        told = json.loads(get(f"{page}/studio/health")[2])
        if told["ready"] or not is_healthy(image):
            raise Fault(f"without a service: {told}")
        passed(f"stays up and healthy without a service, and says: {told['words']}")

    wait_for(f"{service_url}/ready", _SERVICE_S)
    with started(image, SERVICE_NAME=service_url) as process:
        wait_for(page, _PAGE_S, process)
        passed(f"SERVICE_NAME={service_url}: draws {draw(page)}")

    with gateway(service_url, "/serve") as (address, asked):
        endpoint = "/serve/imagine"
        with started(image, SERVICE_NAME=address, MODEL_ENDPOINT=endpoint) as process:
            wait_for(page, _PAGE_S, process)
            drawn = draw(page)
        if not asked or not all(path.startswith("/serve/") for path in asked):
            raise Fault(f"MODEL_ENDPOINT={endpoint}: asked for {asked}")
        # What other pages make of the same two variables: one GET of the one after the other.
        query = urllib.parse.urlencode({"prompt": PROMPT, "seed": SEED})
        size = "x".join(map(str, png_size(get(f"{address}{endpoint}?{query}", timeout_s=_DRAW_S)[2])))
        if size not in drawn:
            raise Fault(f"MODEL_ENDPOINT={endpoint}: {drawn}, while a plain GET gives {size}")
        passed(f"SERVICE_NAME={address} MODEL_ENDPOINT={endpoint}, a gateway: draws {drawn}")


def draw(page: str) -> str:
    """Presses *Draw* and waits for the picture, all by the page's own addresses; says what came.

    Raises:
        Fault: No picture comes.
    """
    config = json.loads(get(f"{page}/config")[2])
    (click,) = [found for found in config["dependencies"] if found["api_name"] == "draw"][:1]
    fields = {component["id"]: component["props"] for component in config["components"]}
    tab = uuid.uuid4().hex
    typed = {"field-prompt": PROMPT, "field-seed": SEED, "field-num_inference_steps": 4}
    typed["field-guidance_scale"] = 0
    values = [_value(fields[id_], typed) for id_ in click["inputs"]]
    values[-1] = tab  # the browser's own: which page it is
    request = urllib.request.Request(
        f"{page}{config['api_prefix']}/run/draw",
        json.dumps({"data": values, "fn_index": click["id"], "session_hash": tab}).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=_DRAW_S) as answer:
        (notice,) = json.load(answer)["data"]
    if notice:
        raise Fault(f"the order is refused: {notice}")
    previews = 0
    with urllib.request.urlopen(f"{page}/studio/tabs/{tab}/events", timeout=_DRAW_S) as events:
        for line in events:
            if not line.startswith(b"data: "):
                continue
            drawing = json.loads(line.removeprefix(b"data: "))
            previews = max(previews, len(drawing.get("previews", {})))
            if drawing.get("state") in ("failed", "cancelled") or "state" not in drawing:
                raise Fault(f"no picture: {drawing}")
            if drawing["state"] == "finished":
                break
        else:
            raise Fault("the events end before the picture does")
    (entry,) = drawing["entries"]
    status, headers, data = get(f"{page}/studio/pictures/{entry['id']}")
    width, height = png_size(data)
    if status != 200 or str(entry["seed"]) != SEED or (width, height) != (entry["width"], entry["height"]):
        raise Fault(f"the picture is not the one that was asked for: {entry}")
    seen = "with previews" if previews else "without previews"
    return f"a {headers['content-type']} of {width}x{height} on {entry['accelerator']}, {seen}"


def _value(field: dict[str, Any], typed: dict[str, Any]) -> Any:
    return typed.get(field.get("elem_id", ""), field.get("value"))
