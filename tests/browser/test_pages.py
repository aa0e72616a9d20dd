"""What a person sees in a browser: the picture, the front page, the API docs."""

from __future__ import annotations

import re

from playwright.sync_api import Page, expect

from tests.running_service import RunningService


def test_imagine_shows_the_picture(service: RunningService, page: Page) -> None:
    # Typed as a person would, with spaces and a comma.
    answer = page.goto(f"{service.url}/imagine?prompt=an astronaut is dancing on green grass, sunlit")
    assert answer is not None
    assert answer.headers["content-type"] == "image/png"
    picture = page.locator("img")
    assert picture.evaluate("image => [image.naturalWidth, image.naturalHeight]") == [512, 512]


def test_the_front_page_draws_what_is_typed(service: RunningService, page: Page) -> None:
    page.goto(service.url)
    page.get_by_label("What shall be drawn?").fill("a green square & a red star")
    page.keyboard.press("Enter")
    page.wait_for_url(re.compile(r"/imagine\?prompt=a\+green\+square\+%26\+a\+red\+star"))
    assert page.locator("img").evaluate("image => image.naturalWidth") == 512


def test_a_stored_picture_opens(service: RunningService, page: Page) -> None:
    made = page.request.post(f"{service.url}/api/text2image", data={"prompt": "a red circle", "number": 2})
    for entry in made.json()["output"]:
        answer = page.goto(entry["url"])
        assert answer is not None
        assert answer.ok
        assert page.locator("img").evaluate("image => image.naturalWidth") >= 512


def test_the_docs_work_offline_and_try_it_out_draws(service: RunningService, page: Page) -> None:
    page.goto(f"{service.url}/docs")
    route = page.locator("#operations-pictures-imagine_imagine_get")
    expect(route).to_be_visible(timeout=15_000)
    route.get_by_role("button", name=re.compile("imagine")).first.click()
    route.get_by_role("button", name="Try it out").click()
    route.get_by_role("button", name="Execute").click()
    expect(route.locator(".responses-table.live-responses-table")).to_contain_text("200", timeout=30_000)
