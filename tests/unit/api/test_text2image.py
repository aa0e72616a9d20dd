"""POST /api/text2image."""

from __future__ import annotations

import io
import uuid
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from serve_app.fake_service import FakeImageService
from serve_app.limits import MAX_SEED
from tests.unit.api.conftest import ClientFor

# The bodies of the documented commands, byte for byte.
SMALL = b'{"prompt": "A panda listening to music with headphones. highly detailed, 8k.", "number": 1}'
LARGE = (
    b'{"prompt": "A panda listening to music with headphones. highly detailed, 8k.", "number": 1,'
    b' "size": "1024x1024"}'
)
FORM = {"Content-Type": "application/x-www-form-urlencoded"}


async def post(client: httpx.AsyncClient, **body: Any) -> dict[str, Any]:
    response = await client.post("/api/text2image", json={"prompt": "a fox", "size": "64x64", **body})
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


@pytest.mark.parametrize(("body", "size"), [(SMALL, (512, 512)), (LARGE, (1024, 1024))])
async def test_documented_bodies_labelled_as_a_form(
    client: httpx.AsyncClient, body: bytes, size: tuple[int, int]
) -> None:
    response = await client.post("/api/text2image", content=body, headers=FORM)
    assert response.status_code == 200
    answer = response.json()
    assert answer["status"] == "success"
    uuid.UUID(answer["id"])
    documented = {
        key: answer["meta"]["input"][key] for key in ("batch", "model", "number", "prompt", "size", "step")
    }
    assert documented == {
        "batch": 1,
        "model": "small-sdxl",
        "number": 1,
        "prompt": "A panda listening to music with headphones. highly detailed, 8k.",
        "size": f"{size[0]}x{size[1]}",
        "step": 4,
    }
    (entry,) = answer["output"]
    assert entry["url"] == f"http://127.0.0.1:5000/images/{answer['id']}/0_0.png"
    assert (
        answer["generationTimeSeconds"]
        == answer["averageImageGenerationTimeSeconds"]
        == entry["latencySeconds"]
    )
    picture = await client.get(entry["url"])
    assert picture.status_code == 200
    assert Image.open(io.BytesIO(picture.content)).size == size


@pytest.mark.parametrize(
    "content_type", [None, "text/plain", "application/json", "multipart/form-data; boundary=x"]
)
async def test_json_is_read_whatever_its_label(client: httpx.AsyncClient, content_type: str | None) -> None:
    headers = {} if content_type is None else {"Content-Type": content_type}
    assert (await client.post("/api/text2image", content=SMALL, headers=headers)).status_code == 200


async def test_number_times_batch_and_the_grid(client: httpx.AsyncClient, service: FakeImageService) -> None:
    answer = await post(client, number=3, batch=2, seed=MAX_SEED - 2)
    names = [entry["url"].rpartition("/")[2] for entry in answer["output"]]
    assert names == ["0_0.png", "0_1.png", "1_0.png", "1_1.png", "2_0.png", "2_1.png", "image_grid.png"]
    seeds = [entry["seed"] for entry in answer["output"]]
    assert seeds == [MAX_SEED - 2, MAX_SEED - 1, MAX_SEED, 0, 1, 2, None]
    assert [draft.num_images for draft in service.drafts] == [2, 2, 2]
    assert answer["averageImageGenerationTimeSeconds"] == pytest.approx(answer["generationTimeSeconds"] / 6)
    sizes = [
        Image.open(io.BytesIO((await client.get(entry["url"])).content)).size for entry in answer["output"]
    ]
    assert sizes == [(64, 64)] * 6 + [(192, 128)]


async def test_batch_alone_makes_no_grid(client: httpx.AsyncClient) -> None:
    assert len((await post(client, batch=3))["output"]) == 3


async def test_rounds_are_drawn_at_once(client: httpx.AsyncClient, service: FakeImageService) -> None:
    service.delay_s = 0.05
    answer = await post(client, number=4)
    assert answer["generationTimeSeconds"] < 4 * 0.2 * 0.9


async def test_a_picture_of_a_request_can_be_drawn_again_alone(client: httpx.AsyncClient) -> None:
    several = await post(client, number=2, batch=2)
    entry = several["output"][3]
    alone = await post(client, seed=entry["seed"])
    first, second = [(await client.get(url)).content for url in (entry["url"], alone["output"][0]["url"])]
    assert first == second


async def test_extensions_and_unknown_fields(client: httpx.AsyncClient, service: FakeImageService) -> None:
    answer = await post(client, seed=0, negative_prompt="blurry", guidance_scale=3, step=9, unknown=[1])
    given = answer["meta"]["input"]
    assert (given["seed"], given["negative_prompt"], given["guidance_scale"], given["step"]) == (
        0,
        "blurry",
        3.0,
        9,
    )
    assert service.drafts[0].seed == 0
    assert (await post(client, seed=None, size=None, step=None))["meta"]["input"]["size"] == "512x512"


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"number": 0}, "number"),
        ({"number": 17}, "number"),
        ({"number": True}, "number"),
        ({"number": "2"}, "number"),
        ({"number": None}, "number"),
        ({"number": 10**400}, "number"),
        ({"batch": -1}, "batch"),
        ({"number": 4, "batch": 5}, "batch"),
        ({"step": 0}, "step"),
        ({"step": 151}, "step"),
        ({"step": 1.5}, "step"),
        ({"size": "big"}, "size"),
        ({"size": "512"}, "size"),
        ({"size": 512}, "size"),
        ({"size": "0x0"}, "size"),
        ({"size": "99999x99999"}, "size"),
        ({"size": "9" * 5000 + "x1"}, "size"),
        ({"size": "٥١٢x٥١٢"}, "size"),
        ({"size": "100x100"}, "size"),
        ({"size": "4096x4096"}, "size"),
        ({"seed": -1}, "seed"),
        ({"seed": 2**32}, "seed"),
        ({"guidance_scale": 31}, "guidance_scale"),
        ({"prompt": ""}, "prompt"),
        ({"prompt": None}, "prompt"),
        ({"prompt": ["a"]}, "prompt"),
        ({"negative_prompt": 5}, "negative_prompt"),
    ],
)
async def test_refusals_name_the_clients_field(
    client: httpx.AsyncClient, service: FakeImageService, change: dict[str, Any], field: str
) -> None:
    response = await client.post("/api/text2image", json={"prompt": "a fox", **change})
    assert response.status_code == 422
    body = response.json()
    assert body["status"] == "error"
    assert body["error"]["field"] == field
    assert body["error"]["message"].startswith(field)
    assert service.finished == []


async def test_a_store_that_fails_is_a_503(service: FakeImageService, make_client: ClientFor) -> None:
    folder = Path(service.settings.store.url)
    async with make_client(service) as client:
        # A file where the folder was: every write fails, whoever runs the test.
        folder.rmdir()
        folder.write_text("in the way")
        response = await client.post("/api/text2image", json={"prompt": "a fox", "size": "64x64"})
    assert response.status_code == 503
    assert response.json()["error"]["code"] == "store_unavailable"
