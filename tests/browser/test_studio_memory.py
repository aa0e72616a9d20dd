"""What a browser remembers of its drawings, over a page and a service that go away and come back."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import uvicorn
from playwright.sync_api import BrowserContext, Page, expect

from gradio_ui.client import ServiceError
from gradio_ui.fake_client import FAKE_POOL, FakeService
from tests.running_service import free_port

pytest.importorskip("gradio")

ORDER = {"prompt": "a boat", "num_inference_steps": 40, "preview_every": 1, "seed": 7}
EVENTS = "**/studio/tabs/*/events"


class PageServer:
    """The page in a thread of this process, with the twin of the service behind it."""

    def __init__(self, service: FakeService, port: int) -> None:
        from gradio_ui.app import build
        from gradio_ui.settings import UiSettings

        self.service = service
        config = uvicorn.Config(
            build(UiSettings(), service), port=port, log_level="error", timeout_graceful_shutdown=1
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=asyncio.run, args=(self._run(),), daemon=True)

    async def _run(self) -> None:
        self._loop = asyncio.get_running_loop()
        await self._server.serve()

    def __enter__(self) -> PageServer:
        self._thread.start()
        deadline = time.monotonic() + 60.0
        while not self._server.started:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        return self

    def __exit__(self, *_: object) -> None:
        self._server.should_exit = True
        self._thread.join(20.0)

    def submit(self, order: Mapping[str, Any]) -> str:
        """A job of another page, or of an earlier process."""
        return str(asyncio.run_coroutine_threadsafe(self.service.submit(order), self._loop).result(10)["id"])


def remembering(page: Page, url: str, jobs: Mapping[str, Any]) -> None:
    """Opens the page in a browser that was closed while these were drawn."""
    page.goto(url)
    page.evaluate("jobs => localStorage.setItem('imagine-pending', jobs)", json.dumps(jobs))
    page.reload()


def test_jobs_that_the_service_has_forgotten_do_not_hide_others(
    new_context: Callable[..., BrowserContext],
) -> None:
    port = free_port()
    with PageServer(FakeService(delay_s=0.1), port) as server:
        job = server.submit(ORDER)
        page = new_context().new_page()
        remembering(
            page,
            f"http://127.0.0.1:{port}",
            {f"{number:032x}": ORDER for number in range(500, 520)} | {job: ORDER},
        )
        expect(page.locator(f"li.drawing[data-job='{job}']")).to_be_visible()
        expect(page.locator("ul.grid button.open")).to_have_count(1)
        assert page.evaluate("localStorage.getItem('imagine-pending')") == "{}"


def test_drawings_are_found_when_the_service_comes_later_than_the_page(
    new_context: Callable[..., BrowserContext],
) -> None:
    port = free_port()
    with PageServer(FakeService(delay_s=0.1), port) as server:
        job = server.submit(ORDER)
        server.service.away = True
        page = new_context().new_page()
        remembering(page, f"http://127.0.0.1:{port}", {job: ORDER})
        expect(page.locator("#status")).to_contain_text("does not answer")
        server.service.away = False
        expect(page.locator("ul.grid button.open")).to_have_count(1)


def test_a_page_server_that_comes_back_behind_a_proxy_goes_on_with_the_drawings(
    new_context: Callable[..., BrowserContext],
) -> None:
    port = free_port()
    page = new_context().new_page()
    with PageServer(FakeService(delay_s=1.0), port):
        page.goto(f"http://127.0.0.1:{port}")
        expect(page.locator("button.example:visible").first).to_be_visible()
        page.get_by_label("Prompt", exact=True).fill("a boat")
        page.get_by_role("button", name="Draw", exact=True).click()
        expect(page.locator("li.drawing")).to_have_count(1)
        # A browser does not try again by itself where a proxy answers in the server's stead.
        page.route(EVENTS, lambda route: route.fulfill(status=502, body="Bad gateway"))
    with PageServer(FakeService(delay_s=0.1), port) as server:
        server.submit({**ORDER, "num_inference_steps": 4})  # the same job: ids are numbers
        with page.expect_response(lambda answer: answer.status == 502):
            pass
        expect(page.locator("#jobs p.notice")).to_be_visible()
        page.unroute(EVENTS)
        expect(page.locator("ul.grid button.open")).to_have_count(1)
        expect(page.locator("li.drawing")).to_have_count(0)


def test_a_pool_that_comes_later_is_offered(new_context: Callable[..., BrowserContext]) -> None:
    port = free_port()
    late = {**FAKE_POOL, "pool": "late", "model": "late-sdxl", "state": "starting"}
    with PageServer(FakeService([FAKE_POOL, late]), port) as server:
        page = new_context().new_page()
        page.clock.install()
        page.goto(f"http://127.0.0.1:{port}")
        expect(page.locator("button.example:visible").first).to_be_visible()
        server.service._pools[1]["state"] = "ready"
        page.clock.fast_forward(16_000)
        expect(page.locator("#status")).to_contain_text("late-sdxl")
        page.get_by_role("button", name="More settings").click()
        expect(page.get_by_label("Model", exact=True)).to_be_visible()


def test_an_open_page_draws_on_after_a_restart_of_its_server(
    new_context: Callable[..., BrowserContext],
) -> None:
    port = free_port()
    page = new_context().new_page()
    with PageServer(FakeService(), port):
        page.goto(f"http://127.0.0.1:{port}")
        expect(page.locator("button.example:visible").first).to_be_visible()
        page.get_by_role("button", name="More settings").click()
        field = page.get_by_label("number input for Steps")
        field.fill("9")
        field.press("Tab")
    with PageServer(FakeService(), port) as server:
        page.get_by_label("Prompt", exact=True).fill("a boat")
        page.get_by_role("button", name="Draw", exact=True).click()
        expect(page.locator("ul.grid button.open")).to_have_count(1)
        (order,) = server.service.orders
        assert (order["prompt"], order["num_inference_steps"], order["scheduler"]) == ("a boat", 9, "euler")


def test_settings_that_this_model_cannot_draw_are_sent_and_refused_in_words(
    new_context: Callable[..., BrowserContext],
) -> None:
    port = free_port()
    can = {**FAKE_POOL["capabilities"], "max_num_inference_steps": 50}
    with PageServer(FakeService([{**FAKE_POOL, "capabilities": can}]), port) as server:
        server.service.refusal = ServiceError(
            "num_inference_steps: 120 is more than 50", status=422, field="num_inference_steps"
        )
        page = new_context().new_page()
        page.goto(f"http://127.0.0.1:{port}")
        # Drawn with another model, which knew this scheduler and so many steps.
        shared = {"prompt": "old", "seed": 5, "width": 512, "height": 512, "format": "png", "thumbnail": ""}
        entry = {"id": f"{7:032x}/0_0.png", "num_inference_steps": 120, "scheduler": "unipc", **shared}
        page.evaluate("entry => localStorage.setItem('imagine-history', entry)", json.dumps([entry]))
        page.reload()
        expect(page.locator("button.example:visible").first).to_be_visible()
        page.locator("ul.grid button.open").first.click()
        page.get_by_role("button", name="Use these settings").click()
        expect(page.get_by_label("Prompt", exact=True)).to_have_value("old")
        page.get_by_role("button", name="Draw", exact=True).click()
        expect(page.locator("#notice [role=alert]")).to_contain_text("Steps: 120 is more than 50.")


def test_a_picture_that_cannot_be_had_now_is_told_from_one_that_is_not_kept(
    new_context: Callable[..., BrowserContext],
) -> None:
    port = free_port()
    with PageServer(FakeService(), port) as server:
        page = new_context().new_page()
        page.goto(f"http://127.0.0.1:{port}")
        entry = {"id": f"{7:032x}/0_0.png", "prompt": "old", "seed": 5, "width": 64, "height": 64}
        page.evaluate("entry => localStorage.setItem('imagine-history', entry)", json.dumps([entry]))
        page.reload()
        shown = page.get_by_role("dialog", name="Picture", exact=True)
        for away, words in ((True, "cannot be had now"), (False, "no longer keeps")):
            server.service.away = away
            page.locator("ul.grid button.open").click()
            expect(shown.locator("p.notice")).to_contain_text(words)
            shown.get_by_role("button", name="Close").click()
