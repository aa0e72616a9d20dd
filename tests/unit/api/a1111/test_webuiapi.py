"""The `webuiapi` client against a real HTTP server."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest
import webuiapi

from serve_app.fake_service import FakeImageService
from tests.unit.api.conftest import ServedAt


@pytest.fixture
def api(service: FakeImageService, served_at: ServedAt) -> Any:
    return webuiapi.WebUIApi(baseurl=f"{served_at(service)}/sdapi/v1")


def test_txt2img(api: Any, service: FakeImageService) -> None:
    assert api.has_controlnet is False
    result = api.txt2img(
        prompt="a red star", negative_prompt="blue", seed=1003, cfg_scale=7, width=64, height=64
    )
    assert result.image.size == (64, 64)
    assert result.info["all_seeds"] == [1003]
    assert result.image.info["parameters"] == result.info["infotexts"][0]
    assert result.parameters["cfg_scale"] == 7
    draft = service.drafts[0]
    assert (draft.scheduler_name, draft.num_inference_steps) == ("Euler a", 20)


def test_menus(api: Any) -> None:
    assert api.util_get_model_names() == [api.util_get_current_model()]
    assert "DPM++ 2M" in api.util_get_sampler_names()
    assert api.util_get_scheduler_names() == ["automatic", "karras"]
    api.util_set_model("small")
    api.set_options({"sd_model_checkpoint": api.get_sd_models()[0]["title"]})
    api.refresh_checkpoints()
    for names in (api.get_sd_vae, api.get_upscalers, api.get_latent_upscale_modes, api.get_loras):
        assert names() == []
    assert api.get_scripts() == {"txt2img": [], "img2img": []}


def test_progress_interrupt_and_waiting(api: Any, service: FakeImageService) -> None:
    api.util_wait_for_ready(check_interval=0.01)
    service.delay_s = 0.1
    results: list[Any] = []
    thread = threading.Thread(
        target=lambda: results.append(api.txt2img(prompt="slow", steps=100, width=64, height=64))
    )
    thread.start()
    deadline = time.monotonic() + 10
    while api.get_progress()["state"]["job_count"] == 0 and time.monotonic() < deadline:
        time.sleep(0.02)
    assert api.skip() is None
    assert api.interrupt() == {}
    thread.join(10)
    assert results[0].images == []
    api.util_wait_for_ready(check_interval=0.01)


def test_refusals_are_raised(api: Any) -> None:
    with pytest.raises(RuntimeError, match="422"):
        api.txt2img(prompt="a", width=1)


def test_a_user_name_and_password_tell_callers_apart(api: Any, service: FakeImageService) -> None:
    mine = webuiapi.WebUIApi(baseurl=api.baseurl, username="me", password="secret")
    service.delay_s = 0.1
    thread = threading.Thread(target=lambda: mine.txt2img(prompt="slow", steps=100, width=64, height=64))
    thread.start()
    deadline = time.monotonic() + 10
    while mine.get_progress()["state"]["job_count"] == 0:
        assert time.monotonic() < deadline, "the caller never saw the own job"
        time.sleep(0.02)
    assert api.get_progress()["state"]["job_count"] == 0
    api.interrupt()
    assert mine.get_progress()["state"]["interrupted"] is False
    mine.interrupt()
    thread.join(10)
    assert not thread.is_alive()
