"""The page "Service"."""

from __future__ import annotations

from gradio_ui.fake_client import FAKE_POOL, FakeService
from gradio_ui.service_page import render
from gradio_ui.settings import UiSettings

SETTINGS = UiSettings(public_url="http://here:8000", dashboard_url="http://here:8265")


async def test_it_tells_what_every_pool_does() -> None:
    busy = {
        **FAKE_POOL,
        "queued_images": 1,
        "running_images": 5,
        "replicas_wanted": 2,
        "last_error": "<b>hot</b>",
    }
    text = await render(FakeService([busy]), SETTINGS)
    for part in (
        "small-sdxl",
        "fake",
        "1 of 2",
        "1 picture<",
        "5 pictures",
        "0.5 an hour",
        "0.052 s",
        "ready",
    ):
        assert part in text
    assert "&lt;b&gt;hot&lt;/b&gt;" in text
    assert 'href="http://here:8000/docs"' in text
    assert 'href="http://here:8265"' in text


async def test_what_the_service_does_not_tell_is_left_out() -> None:
    bare = {key: FAKE_POOL[key] for key in ("pool", "model", "accelerator", "defaults", "capabilities")}
    text = await render(FakeService([bare]), UiSettings(public_url=""))
    assert "Replicas" not in text
    assert "None" not in text
    assert "href" not in text


async def test_a_service_that_is_away_is_told_in_words() -> None:
    service = FakeService()
    service.away = True
    text = await render(service, SETTINGS)
    assert "does not answer" in text
    assert "API docs" in text


async def test_links_to_this_machine_are_for_browsers_on_it() -> None:
    here = UiSettings(public_url="http://127.0.0.1:8000", dashboard_url="http://127.0.0.1:8265")
    elsewhere = UiSettings(public_url="https://pictures.example.com/serve")
    for visited in ("", "127.0.0.1:7860", "localhost:7860", "[::1]:7860"):
        assert (await render(FakeService(), here, visited)).count("<a ") == 2
    for visited in ("10.0.0.3:7860", "pictures.example.com", "[no address"):
        assert "<a " not in await render(FakeService(), here, visited)
        assert (await render(FakeService(), elsewhere, visited)).count("<a ") == 1
