"""POST /sdapi/v1/txt2img, and what real clients send there."""

from __future__ import annotations

import base64
import io
import json
import time
from typing import Any

import httpx
import pytest
from PIL import Image

from serve_app import errors
from serve_app.api.a1111.infotext import parse_infotext
from serve_app.fake_service import FakeImageService

ROUTE = "/sdapi/v1/txt2img"


def pictures(answer: dict[str, Any]) -> list[Image.Image]:
    return [Image.open(io.BytesIO(base64.b64decode(image, validate=True))) for image in answer["images"]]


async def test_a_prompt_alone(client: httpx.AsyncClient, service: FakeImageService) -> None:
    response = await client.post(ROUTE, content=b'{"prompt": "pretty dog"}')
    assert response.status_code == 200, response.text
    answer = response.json()
    (picture,) = pictures(answer)
    info = json.loads(answer["info"])
    assert picture.info["parameters"] == info["infotexts"][0]
    assert picture.info["parameters"].startswith(
        "pretty dog\nSteps: 4, Sampler: Euler, Schedule type: Automatic, "
    )
    assert info["seed"] == info["all_seeds"][0] == service.drafts[0].seed
    assert (info["width"], info["height"], info["steps"], info["cfg_scale"]) == (512, 512, 4, 0.0)
    assert answer["parameters"]["prompt"] == "pretty dog"
    assert (answer["parameters"]["steps"], answer["parameters"]["seed"]) == (4, service.drafts[0].seed)
    assert response.headers["x-seed"] == str(info["seed"])
    assert "denoise;dur=" in response.headers["server-timing"]


async def test_info_has_all_that_clients_read(client: httpx.AsyncClient) -> None:
    body = {
        "prompt": "a",
        "negative_prompt": "b",
        "n_iter": 2,
        "batch_size": 2,
        "seed": 2**32 - 2,
        "width": 64,
        "height": 64,
    }
    answer = (await client.post(ROUTE, json=body)).json()
    info = json.loads(answer["info"])
    assert info["all_seeds"] == [2**32 - 2, 2**32 - 1, 0, 1]
    assert info["all_prompts"] == ["a"] * 4
    assert info["all_negative_prompts"] == ["b"] * 4
    assert len(info["all_subseeds"]) == len(info["infotexts"]) == len(answer["images"]) == 4
    assert {
        "subseed",
        "sampler_name",
        "batch_size",
        "sd_model_name",
        "sd_model_hash",
        "index_of_first_image",
        "job_timestamp",
        "clip_skip",
        "version",
    } <= set(info)
    for picture, seed, text in zip(pictures(answer), info["all_seeds"], info["infotexts"], strict=True):
        assert picture.info["parameters"] == text
        assert f"Seed: {seed}," in text


async def test_the_whole_payload_of_sillytavern(client: httpx.AsyncClient, service: FakeImageService) -> None:
    body = {
        "prompt": "a fox",
        "negative_prompt": "blurry",
        "sampler_name": "DPM++ 2M",
        "scheduler": "karras",
        "steps": 20,
        "cfg_scale": 7,
        "width": 64,
        "height": 128,
        "restore_faces": False,
        "enable_hr": False,
        "hr_upscaler": "Latent",
        "hr_scale": 2,
        "denoising_strength": 0.7,
        "hr_second_pass_steps": 0,
        "seed": -1,
        "override_settings": {"CLIP_stop_at_last_layers": 1, "sd_vae": "Automatic"},
        "override_settings_restore_afterwards": True,
        "clip_skip": 1,
        "save_images": True,
        "send_images": True,
        "do_not_save_grid": False,
        "do_not_save_samples": False,
    }
    response = await client.post(ROUTE, json=body)
    assert response.status_code == 200, response.text
    draft = service.drafts[0]
    assert (draft.scheduler_name, draft.num_inference_steps, draft.guidance_scale) == (
        "dpmpp_2m_karras",
        20,
        7,
    )
    assert pictures(response.json())[0].size == (64, 128)


@pytest.mark.parametrize(
    ("sampler", "schedule", "expected"),
    [
        ("Euler", None, "Euler"),
        ("Euler a", "automatic", "Euler a"),
        ("k_euler_a", "Automatic", "k_euler_a"),
        ("DPM++ 2M Karras", None, "DPM++ 2M Karras"),
        ("DPM++ 2M Karras", "karras", "DPM++ 2M Karras"),
        ("DPM++ 2M", "Karras", "dpmpp_2m_karras"),
        ("DDIM", "normal", "DDIM"),  # SillyTavern as it is installed
        ("DPM++ 2M", "Uniform", "DPM++ 2M"),
        (None, "normal", None),
        ("", "", None),
        (None, None, None),
    ],
)
async def test_samplers_by_either_name(
    client: httpx.AsyncClient,
    service: FakeImageService,
    sampler: str | None,
    schedule: str | None,
    expected: str | None,
) -> None:
    for name in ("sampler_name", "sampler_index"):
        response = await client.post(
            ROUTE, json={"prompt": "a", "width": 64, name: sampler, "scheduler": schedule}
        )
        assert response.status_code == 200, response.text
        assert service.drafts[-1].scheduler_name == expected


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"steps": 0}, "steps"),
        ({"steps": 151}, "steps"),
        ({"steps": True}, "steps"),
        ({"cfg_scale": 31}, "cfg_scale"),
        ({"cfg_scale": "NaN"}, "cfg_scale"),
        ({"seed": -2}, "seed"),
        ({"seed": 2**32}, "seed"),
        ({"width": 63}, "width"),
        ({"width": 100}, "width"),
        ({"prompt": "x" * 10_001}, "prompt"),
        ({"prompt": ["a"]}, "prompt"),
        ({"n_iter": 4, "batch_size": 5}, "batch_size"),
        ({"n_iter": 17}, "n_iter"),
        ({"sampler_name": "nonsense"}, "sampler_name"),
        ({"sampler_name": "Euler", "scheduler": "karras"}, "scheduler"),
        ({"scheduler": "karras"}, "scheduler"),
        ({"override_settings": {"sd_model_checkpoint": "another"}}, "sd_model_checkpoint"),
        ({"override_settings": []}, "override_settings"),
        ({"enable_hr": True}, "enable_hr"),
        ({"script_name": "x/y/z plot"}, "script_name"),
        ({"infotext": "a\nSteps: 9999999"}, "infotext"),
        ({"force_task_id": "x" * 201}, "force_task_id"),
    ],
)
async def test_refusals_name_the_clients_field(
    client: httpx.AsyncClient, service: FakeImageService, change: dict[str, Any], field: str
) -> None:
    response = await client.post(ROUTE, json={"prompt": "a fox", **change})
    assert response.status_code == 422, response.text
    answer = response.json()
    assert answer["field"] == field
    assert answer["detail"].startswith(field)
    assert service.finished == []
    assert (await client.get("/sdapi/v1/progress")).json()["state"]["job_count"] == 0


async def test_unknown_fields_are_ignored_and_null_is_absent(client: httpx.AsyncClient) -> None:
    names = ["prompt", "seed", "steps", "cfg_scale", "width", "sampler_name", "override_settings", "infotext"]
    body = dict.fromkeys(names) | {"unknown": {"deep": [1]}, "styles": [], "eta": None}
    assert (await client.post(ROUTE, json=body)).status_code == 200


async def test_without_pictures_in_the_answer(client: httpx.AsyncClient) -> None:
    answer = (await client.post(ROUTE, json={"prompt": "a", "send_images": False})).json()
    assert answer["images"] == []
    assert len(json.loads(answer["info"])["all_seeds"]) == 1


async def test_infotext_of_a_picture_draws_it_again(client: httpx.AsyncClient) -> None:
    body = {
        "prompt": "a fox,\nred: yes",
        "negative_prompt": "blurry",
        "seed": 7,
        "steps": 3,
        "cfg_scale": 2.5,
        "width": 64,
        "height": 128,
        "sampler_name": "DPM++ 2M",
        "scheduler": "karras",
    }
    first = (await client.post(ROUTE, json=body)).json()
    text = json.loads(first["info"])["infotexts"][0]
    again = (await client.post(ROUTE, json={"infotext": text})).json()
    assert again["images"] == first["images"]
    changed = (await client.post(ROUTE, json={"infotext": text, "seed": 8})).json()
    assert changed["images"] != first["images"]
    assert json.loads(changed["info"])["steps"] == 3


@pytest.mark.parametrize(
    ("text", "prompt", "steps"),
    [
        ("a fox", "a fox", None),
        ("", "", None),
        ("Steps: 5", "", 5),
        ('a fox\nSteps: 5, Model: "a, b: c", Seed: 3', "a fox", 5),
        ("a fox\nNegative prompt: x\nsecond line", "a fox", None),
        ("First Steps: a toddler walks", "First Steps: a toddler walks", None),
        ("a temple\nSteps: of marble", "a temple\nSteps: of marble", None),
        ("a sign, Negative prompt: no\nSteps: 5", "a sign, Negative prompt: no", 5),
        ("a fox\r\nNegative prompt: x\r\nSize: 64x64, Steps: 5\r\n", "a fox", 5),
    ],
)
def test_parsing_infotext(text: str, prompt: str, steps: int | None) -> None:
    said = parse_infotext(text)
    assert (said.prompt, said.steps) == (prompt, steps)


async def test_the_longest_texts_of_pictures_are_read(
    client: httpx.AsyncClient, service: FakeImageService
) -> None:
    text = f"{'a' * 10_000}\nNegative prompt: {'b' * 10_000}\nSteps: 4, Seed: 7, Model: {'c' * 200}"
    answer = await client.post(ROUTE, json={"infotext": text, "cfg_scale": 2})
    assert answer.status_code == 200, answer.text[:300]
    assert (service.drafts[0].prompt, service.drafts[0].negative_prompt) == ("a" * 10_000, "b" * 10_000)
    longer = await client.post(ROUTE, json={"infotext": "a" * 10_001 + "\nSteps: 4"})
    assert (longer.status_code, longer.json()["field"]) == (422, "infotext")


def test_a_text_made_to_be_slow_is_read_at_once() -> None:
    began = time.perf_counter()
    for text in ("Steps:," + " " * 9900 + "!", "Steps:" + ',a:"' * 2400, "Steps: 4, " + "a " * 4900):
        parse_infotext(text)
    parse_infotext("a" + "\n " * 4900 + "\nNegative prompt: b")
    assert time.perf_counter() - began < 0.4  # 1 s where every space is a new beginning


async def test_domain_errors(client: httpx.AsyncClient, service: FakeImageService) -> None:
    service.failure = errors.QueueFull("full", 2.1)
    response = await client.post(ROUTE, json={"prompt": "a"})
    assert (response.status_code, response.headers["retry-after"]) == (503, "3")
    assert response.json()["error"] == "overloaded"
    service.failure = errors.GenerationFailed("not finite")
    assert (await client.post(ROUTE, json={"prompt": "a"})).status_code == 500
    assert (await client.get("/sdapi/v1/progress")).json()["state"]["job_count"] == 0


async def test_malformed(client: httpx.AsyncClient) -> None:
    response = await client.post(ROUTE, content=b"{")
    assert (response.status_code, response.json()["error"]) == (400, "malformed")
