"""The web page while its service is full, is stopped and comes back; and what closing the page does."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import BrowserContext, expect

from tests.browser.conftest import SCREENSHOTS, web_page
from tests.browser.studio import PATIENCE_MS, Studio
from tests.running_service import RunningService, free_port
from tests.serve.processes import Running, running

IMAGINE = str(Path(sys.executable).parent / "imagine")


@contextmanager
def small_service(folder: Path, port: int) -> Iterator[Running]:
    """The whole service as a person starts it, with room for two jobs."""
    config = folder / "settings.json"
    pool = {"name": "default", "ray_actor_options": {"num_cpus": 0.1}, "num_threads": 1}
    config.write_text(
        json.dumps(
            {"pools": [pool], "store": {"url": str(folder / "pictures")}, "jobs": {"max_unfinished": 2}}
        )
    )
    command = [IMAGINE, "serve", "--port", str(port), "--no-dashboard", "--no-ui", "--json"]
    with running([*command, "--config", str(config)], folder) as service:
        service.wait_for_text('"ready_s"', 120.0)
        yield service


@pytest.mark.timeout(400)
def test_a_full_service_and_one_that_is_stopped_and_comes_back(
    new_context: Callable[..., BrowserContext], tmp_path: Path
) -> None:
    port = free_port()
    (tmp_path / "page").mkdir()
    with web_page(f"http://127.0.0.1:{port}", tmp_path / "page") as (url, _):
        page = new_context().new_page()
        page.goto(url)
        # Nobody is there yet: said in words, and the form fills by itself when the service comes.
        expect(page.locator("#status")).to_contain_text("does not answer", timeout=PATIENCE_MS)
        page.get_by_label("Prompt", exact=True).fill("a red star")
        page.get_by_role("button", name="Draw", exact=True).click()
        expect(page.locator("#notice")).to_contain_text("The service does not answer")
        with small_service(tmp_path, port) as service:
            expect(page.locator("#status")).to_contain_text("Ready: small-sdxl on cpu", timeout=PATIENCE_MS)
            desk = Studio(page, url)
            desk.more()
            desk.number("Steps", 150)
            desk.number("Pictures", 2)
            for prompt in ("a green house", "a blue house"):
                job_of(desk, prompt)
            desk.send("a third house")
            expect(desk.notice).to_contain_text("The service is full")
            expect(desk.notice).to_contain_text("Try again in")
            desk.screenshot(SCREENSHOTS, "full")
            expect(desk.drawings.locator("img").first).to_be_visible(timeout=PATIENCE_MS)
            assert service.interrupt(30.0)[0] == 0
        expect(desk.drawings.first).to_contain_text("goes on when it is back", timeout=PATIENCE_MS)
        desk.screenshot(SCREENSHOTS, "service-away")
        desk.section("Service")
        expect(page.locator("#service")).to_contain_text("does not answer")
        desk.section("Draw")
        with small_service(tmp_path, port):
            # Jobs outlive the service: the same two are drawn to their end.
            expect(desk.pictures).to_have_count(4, timeout=2 * PATIENCE_MS)
            expect(desk.drawings).to_have_count(0)


def job_of(desk: Studio, prompt: str) -> str:
    """Sends a prompt that no other job has, and waits for its card. Others may end meanwhile."""
    desk.send(prompt)
    card = desk.drawings.filter(has_text=prompt)
    expect(card).to_have_count(1)
    job_id = card.get_attribute("data-job")
    assert job_id is not None
    return job_id


def ended(service: RunningService, job_id: str, within_s: float) -> str:
    deadline = time.monotonic() + within_s
    while True:
        answer = httpx.get(f"{service.url}/api/jobs/{job_id}", timeout=20.0, trust_env=False)
        state: str = answer.json()["state"]
        if state in ("finished", "failed", "cancelled") or time.monotonic() > deadline:
            return state
        time.sleep(0.2)


@contextmanager
def crowded(service: RunningService) -> Iterator[None]:
    """Others have given the slow pool more to draw than it does in minutes."""
    body = {"prompt": "somebody else's", "pool": "slow", "num_inference_steps": 150, "num_images": 16}
    with httpx.Client(base_url=service.url, timeout=20.0, trust_env=False) as client:
        jobs = [client.post("/api/jobs", json=body).raise_for_status().json()["id"] for _ in range(30)]
        try:
            yield
        finally:
            for job in jobs:
                client.delete(f"/api/jobs/{job}").raise_for_status()


def test_closing_the_page_stops_what_was_not_asked_to_finish(
    new_context: Callable[..., BrowserContext], studio: str, service: RunningService
) -> None:
    context = new_context()
    desk = Studio(context.new_page(), studio)
    desk.more()
    desk.choose_pool("slow")
    desk.number("Steps", 150)
    with crowded(service):
        goes = job_of(desk, "this goes")
        desk.page.get_by_label("Finish even if I close the page").check()
        stays = job_of(desk, "this stays")
        desk.page.close(run_before_unload=True)
        # Sooner than a page that is lost without a word.
        assert ended(service, goes, 40.0) == "cancelled"
    assert ended(service, stays, 60.0) == "finished"
    # The browser finds what was finished meanwhile.
    again = Studio(context.new_page(), studio)
    expect(again.pictures_of("this stays")).to_have_count(1, timeout=PATIENCE_MS)
    expect(again.drawings).to_have_count(0)
