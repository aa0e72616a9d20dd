"""The form's events as Gradio calls them, without a browser."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

gr = pytest.importorskip("gradio")

from gradio_ui.app import build  # noqa: E402
from gradio_ui.draw_form import DrawForm  # noqa: E402
from gradio_ui.fake_client import FAKE_POOL, FakeService  # noqa: E402
from gradio_ui.settings import UiSettings  # noqa: E402
from gradio_ui.tabs import Tabs  # noqa: E402

TAB = "0123456789abcdef" * 2


def form(service: FakeService, tabs: Tabs) -> DrawForm:
    with gr.Blocks(analytics_enabled=False):
        return DrawForm(service, tabs)


async def send(made: DrawForm, **changes: Any) -> Any:
    values: dict[str, Any] = {
        "prompt": "a cat",
        "negative": "",
        "size": "512x512",
        "steps": 4,
        "guidance": 0,
        "seed": "",
        "num_images": 1,
        "scheduler": "euler",
        "pool": "",
        "model": "",
        "file_format": "png",
        "keep": False,
        "tab_id": TAB,
    }
    return await made.draw(**{**values, **changes})


async def test_sending_the_form_makes_a_job_of_its_tab() -> None:
    service = FakeService()
    tabs = Tabs(service)
    assert await send(form(service, tabs), seed="7", num_images=3, keep=True) == {}
    assert service.orders[0]["seed"] == 7
    assert service.orders[0]["num_images"] == 3
    assert [drawing.keep for drawing in tabs.get(TAB)._drawings.values()] == [True]
    await tabs.aclose()
    await service.aclose()


async def test_a_refusal_is_a_notice_and_no_exception() -> None:
    service = FakeService()
    made = form(service, Tabs(service))
    assert (await send(made, prompt="  "))["text"] == "Prompt: Say what to draw."
    assert (await send(made, size="big"))["field"] == "width"
    service.away = True
    assert "does not answer" in (await send(made))["text"]


async def test_the_fastest_pool_is_asked_for_by_its_name() -> None:
    quick = {**FAKE_POOL, "pool": "quick", "step_s": 0.01}
    service = FakeService([FAKE_POOL, quick])
    tabs = Tabs(service)
    await send(form(service, tabs), pool="FASTEST")
    assert service.orders[0]["pool"] == "quick"
    await tabs.aclose()
    await service.aclose()


async def test_filling_offers_the_models_own_values_and_examples() -> None:
    service = FakeService()
    made = form(service, Tabs(service))
    updates = dict(zip([id(field) for field in made.offered], await made.fill(None, None), strict=True))
    assert updates[id(made.steps)].value == 4
    assert updates[id(made.size)].value == "512x512"
    assert updates[id(made.examples[0])].value.startswith("an astronaut")
    assert updates[id(made.model)].visible is False
    service.away = True
    assert all(update == gr.skip() for update in await made.fill("small-sdxl", ""))


async def test_filling_again_keeps_what_a_person_has_changed() -> None:
    service = FakeService()
    made = form(service, Tabs(service))
    own = dict(zip(map(id, made.offered), await made.fill(None, None), strict=True))
    state = next(value for value in own.values() if isinstance(value, dict))
    scheduler = own[id(made.scheduler)].value

    async def again(**changed: Any) -> dict[int, Any]:
        now = {"size": "512x512", "steps": 4, "guidance": state["guidance"], "scheduler": scheduler} | changed
        return dict(zip(map(id, made.offered), await made.fill("small-sdxl", "", **now), strict=True))

    def changes(updates: dict[int, Any], field: Any) -> Any:
        return updates[id(field)].constructor_args.get("value", "nothing")

    kept = await again(steps=9, size="640x448", own_values=state)
    assert {changes(kept, field) for field in (made.steps, made.size, made.scheduler)} == {"nothing"}
    # What cannot be any more, and another model's values, are not kept.
    assert changes(await again(steps=999, own_values=state), made.steps) == 150
    assert changes(await again(scheduler="none such", own_values=state), made.scheduler) == scheduler
    assert changes(await again(steps=9, own_values=state | {"model": "other"}), made.steps) == 4
    # A process that is younger than the page does not know what it offered then.
    assert changes(await again(steps=9), made.steps) == "nothing"


def test_settings_of_a_picture_fill_the_form_whatever_they_hold() -> None:
    service = FakeService()
    made = form(service, Tabs(service))
    settings = {
        "prompt": "a dog",
        "width": 768,
        "height": 512,
        "num_inference_steps": 9,
        "guidance_scale": 2.5,
        "seed": 0,
        "scheduler": "ddim",
        "format": "webp",
    }
    values = made.using(settings)
    assert values == ["a dog", "", "768x512", 9, 2.5, "0", 1, "ddim", "webp"]
    assert len(values) == len(made.fields)
    assert len(made.using({"prompt": ["x"], "num_inference_steps": True, "format": "exe"})) == len(
        made.fields
    )


async def test_the_page_and_its_own_routes_are_one_application() -> None:
    service = FakeService()
    app = build(UiSettings(), service)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://page.test") as client:
        page = await client.get("/")
        assert page.status_code == 200
        assert "studio/static/page.js" in page.text
        assert "fonts.googleapis" not in page.text
        for name in ("page.js", "style.css"):
            assert (await client.get(f"/studio/static/{name}")).status_code == 200
        assert (await client.get("/studio/health")).json()["ready"] is True
