"""The lines of the documents that clients were written against, typed by a real curl, hey and browser."""

from __future__ import annotations

import base64
import io
import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
from PIL import Image

from tests.running_service import RunningService

PANDA = '{"prompt": "A panda listening to music with headphones. highly detailed, 8k.", "number": 1}'


def _curl(line: str, service: RunningService, folder: Path) -> str:
    """Runs a curl line as written, but for host and port."""
    line = re.sub(r"(127\.0\.0\.1|localhost|sdxl-server):\d+", f"127.0.0.1:{service.port}", line)
    done = subprocess.run(
        shlex.split(line), cwd=folder, capture_output=True, text=True, timeout=120, check=True
    )
    return done.stdout


@pytest.mark.parametrize(
    ("size", "side"),
    [(None, 512), ("1024x1024", 1024)],
)
def test_text2image_without_a_content_type(
    service: RunningService, tmp_path: Path, size: str | None, side: int
) -> None:
    body = PANDA if size is None else PANDA.replace('"number": 1}', f'"number": 1, "size": "{size}"}}')
    answer = json.loads(
        _curl(f"curl -s -X POST http://127.0.0.1:5000/api/text2image -d '{body}'", service, tmp_path)
    )
    assert answer["status"] == "success"
    given = answer["meta"]["input"]
    assert (given["batch"], given["number"], given["size"], given["step"]) == (1, 1, f"{side}x{side}", 4)
    (output,) = answer["output"]
    assert output["url"].startswith(f"http://127.0.0.1:{service.port}/images/{answer['id']}/0_0.png")
    picture = httpx.get(output["url"], trust_env=False)
    assert Image.open(io.BytesIO(picture.content)).size == (side, side)
    assert answer["averageImageGenerationTimeSeconds"] == pytest.approx(answer["generationTimeSeconds"])


def test_number_times_batch_with_grid_behind_a_prefix(client: httpx.Client) -> None:
    headers = {
        "X-Forwarded-Proto": "https",
        "X-Forwarded-Host": "pictures.example.com",
        "X-Forwarded-Prefix": "/serve",
    }
    answer = client.post(
        "/api/text2image", json={"prompt": "a red circle", "number": 2, "batch": 2}, headers=headers
    ).json()
    urls = [output["url"] for output in answer["output"]]
    base = f"https://pictures.example.com/serve/images/{answer['id']}"
    assert urls == [f"{base}/{n}_{b}.png" for n in (0, 1) for b in (0, 1)] + [f"{base}/image_grid.png"]
    grid = client.get(urlsplit(urls[-1]).path.removeprefix("/serve"))
    assert Image.open(io.BytesIO(grid.content)).size == (1024, 1024)


def test_generate_answers_the_seed_it_used(service: RunningService, tmp_path: Path) -> None:
    line = (
        'curl -s http://sdxl-server:8000/generate -H "Content-Type: application/json" '
        '-d \'{"prompt": "a helm wheel", "num_inference_steps": 3, "width": 512, "height": 512, "seed": 0}\''
    )
    answer = json.loads(_curl(line, service, tmp_path))
    assert answer["seed"] == 0
    again = json.loads(_curl(line, service, tmp_path))
    assert _pixels(base64.b64decode(answer["image"])) == _pixels(base64.b64decode(again["image"]))
    random = json.loads(
        _curl(
            "curl -s http://sdxl-server:8000/generate -H 'Content-Type: application/json' "
            '-d \'{"prompt": "a helm wheel", "num_inference_steps": 1, "width": 256, "height": 256}\'',
            service,
            tmp_path,
        )
    )
    assert isinstance(random["seed"], int)


def _pixels(data: bytes) -> bytes:
    return Image.open(io.BytesIO(data)).convert("RGB").tobytes()


def test_health_is_what_probes_expect(client: httpx.Client) -> None:
    answer = client.get("/health")
    assert answer.status_code == 200
    assert answer.json() == {"status": "ready"}
    assert client.get("/ready").status_code == 200


def test_imagine_in_a_browsers_way(client: httpx.Client) -> None:
    answer = client.get("/imagine?prompt=an%20astronaut%20is%20dancing%20on%20green%20grass,%20sunlit")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "image/png"
    seed = int(answer.headers["x-seed"])
    again = client.get(
        "/imagine", params={"prompt": "an astronaut is dancing on green grass, sunlit", "seed": seed}
    )
    assert _pixels(again.content) == _pixels(answer.content)


@pytest.mark.skipif(shutil.which("hey") is None, reason="hey is not installed (apt-get install hey)")
def test_hey_sees_fifty_times_200(service: RunningService) -> None:
    done = subprocess.run(
        [
            *("hey", "-n", "50", "-c", "5", "-t", "180", "-m", "POST"),
            *("-H", "Content-Type: application/json", "-d", '{"prompt": "pretty dog"}'),
            f"{service.url}/api/text2image",
        ],
        capture_output=True,
        text=True,
        timeout=280,
        check=True,
    )
    assert re.search(r"\[200\]\s+50 responses", done.stdout), done.stdout
