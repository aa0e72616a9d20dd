"""The web page in a real browser against the real service."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from axe_playwright_python.sync_playwright import Axe
from PIL import Image
from playwright.sync_api import BrowserContext, Page, expect

from tests.browser.conftest import SCREENSHOTS
from tests.browser.studio import PATIENCE_MS, Studio
from tests.running_service import RunningService


def slowly(desk: Studio, prompt: str, steps: int = 120, pictures: int = 1) -> str:
    """Begins a drawing that takes some seconds, with more pictures more of them; returns its job's id."""
    desk.more()
    desk.number("Steps", steps)
    desk.number("Pictures", pictures)
    desk.send(prompt)
    expect(desk.drawings).to_have_count(1)
    job_id = desk.drawings.first.get_attribute("data-job")
    assert job_id is not None
    return job_id


def state_of(service: RunningService, job_id: str) -> str:
    answer = httpx.get(f"{service.url}/api/jobs/{job_id}", timeout=20.0, trust_env=False)
    state: str = answer.json()["state"]
    return state


def test_drawing_shows_previews_progress_and_the_picture(desk: Studio, tmp_path: Path) -> None:
    desk.page.evaluate(
        """() => { window.seen = { values: [], previews: 0, words: [] };
        new MutationObserver(() => {
          const card = document.querySelector("li.drawing");
          if (!card) return;
          seen.values.push(card.querySelector("progress")?.value ?? 1);
          seen.words.push(card.querySelector(".state").textContent);
          seen.previews = Math.max(seen.previews, card.querySelector("img")?.naturalWidth ?? 0);
        }).observe(document.querySelector("#jobs"), { subtree: true, childList: true, attributes: true }); }"""
    )
    desk.more()
    desk.choose_pool("default")
    desk.number("Steps", 25)
    desk.draw("a yellow star on a blue background")
    seen = desk.page.evaluate("() => seen")
    assert seen["values"] == sorted(seen["values"])
    assert any(0 < value < 1 for value in seen["values"])
    assert any(re.match(r"Step \d+ of 25", words) for words in seen["words"])
    assert seen["previews"] >= 16
    dialog = desk.open_newest()
    image = dialog.locator("img")
    expect(image).to_have_js_property("naturalWidth", 512)
    assert (desk.fact("Prompt"), desk.fact("Steps"), desk.fact("Model")) == (
        "a yellow star on a blue background",
        "25",
        "small-sdxl",
    )
    assert "denoise" in desk.fact("Stages")
    with desk.page.expect_download() as download:
        dialog.get_by_role("link", name="Download").click()
    assert download.value.suggested_filename.startswith("a-yellow-star-on-a-blue-background-")
    download.value.save_as(tmp_path / "star.png")
    with Image.open(tmp_path / "star.png") as picture:
        assert picture.text["parameters"].startswith("a yellow star")  # type: ignore[attr-defined]


def test_the_form_offers_what_the_model_can_draw(desk: Studio) -> None:
    desk.examples.first.click()
    expect(desk.prompt).to_have_value("an astronaut is dancing on green grass, sunlit")
    desk.more()
    expect(desk.page.get_by_label("number input for Steps")).to_have_value("4")
    expect(desk.page.get_by_label("number input for Guidance")).to_have_value("0")
    desk.choose("Size", "640")
    desk.choose("File format", "WebP")
    desk.page.get_by_label("Seed", exact=True).fill("7")
    desk.draw()
    desk.open_newest()
    assert (desk.fact("Seed"), desk.fact("Size"), desk.fact("Format")) == ("7", "640 × 448", "WEBP")


def test_same_again_and_surprise_me(desk: Studio) -> None:
    desk.draw("a red circle")
    desk.more()
    desk.page.get_by_role("button", name="Same again").click()
    seed = desk.page.get_by_label("Seed", exact=True)
    expect(seed).not_to_have_value("")
    desk.draw()
    bytes_of = [
        desk.page.request.get(image.evaluate("image => image.src")).body()
        for image in desk.page.locator("ul.grid img").all()
    ]
    assert bytes_of[0] == bytes_of[1]
    desk.page.get_by_role("button", name="Surprise me").click()
    expect(seed).to_have_value("")


def test_stopping_really_stops_and_leaves_the_others(desk: Studio, service: RunningService) -> None:
    first = slowly(desk, "a boat on the sea", steps=150, pictures=4)
    desk.number("Pictures", 1)
    desk.send("a red car in the city")
    expect(desk.drawings).to_have_count(2)
    desk.page.get_by_role("button", name="Stop a boat on the sea").click()
    expect(desk.page.locator(f"[data-job='{first}'] .state")).to_have_text("Stopped")
    assert state_of(service, first) == "cancelled"
    desk.page.get_by_role("button", name="Dismiss a boat on the sea").click()
    expect(desk.pictures).to_have_count(1, timeout=PATIENCE_MS)
    desk.page.reload()
    expect(desk.pictures).to_have_count(1)
    expect(desk.drawings).to_have_count(0)


def test_several_pictures_at_once(desk: Studio) -> None:
    desk.number("Pictures", 3)
    desk.send("a green square")
    expect(desk.pictures).to_have_count(3, timeout=PATIENCE_MS)


def test_history_survives_a_reload_and_can_be_forgotten(desk: Studio) -> None:
    desk.draw("a pink heart in the snow")
    desk.draw("a white cat")
    desk.page.reload()
    expect(desk.pictures).to_have_count(2)
    desk.open_newest()
    assert desk.fact("Prompt") == "a white cat"
    desk.page.get_by_role("button", name="Forget", exact=True).click()
    assert desk.fact("Prompt") == "a pink heart in the snow"
    desk.page.keyboard.press("Escape")
    desk.page.reload()
    expect(desk.pictures).to_have_count(1)
    desk.page.get_by_role("button", name="Forget all").click()
    desk.page.get_by_role("button", name="Really forget all?").click()
    expect(desk.pictures).to_have_count(0)


def test_a_reload_in_the_middle_goes_on(desk: Studio, service: RunningService) -> None:
    job_id = slowly(desk, "a house on the grass", steps=150)
    assert state_of(service, job_id) in ("queued", "starting", "running")
    desk.page.reload()
    expect(desk.pictures).to_have_count(1, timeout=PATIENCE_MS)
    assert state_of(service, job_id) == "finished"


def test_settings_of_a_picture_come_back_into_the_form(desk: Studio) -> None:
    desk.more()
    desk.number("Steps", 7)
    desk.draw("a blue mushroom")
    desk.number("Steps", 4)
    desk.prompt.fill("something else")
    dialog = desk.open_newest()
    assert desk.fact("Steps") == "7"
    dialog.get_by_role("button", name="Use these settings").click()
    expect(desk.prompt).to_have_value("a blue mushroom")
    expect(desk.page.get_by_label("number input for Steps")).to_have_value("7")
    expect(desk.page.get_by_label("Seed", exact=True)).not_to_have_value("")


def test_two_pictures_are_compared(desk: Studio) -> None:
    desk.draw("a red heart")
    desk.draw("a blue heart")
    for pick in desk.page.locator("button.pick").all():
        pick.click()
    dialog = desk.page.get_by_role("dialog", name="Two pictures side by side")
    expect(dialog.locator("img")).to_have_count(2)
    expect(dialog.get_by_role("row", name="Prompt (differs) a blue heart a red heart")).to_be_visible()
    expect(dialog.get_by_role("row", name="Steps 4 4")).to_be_visible()


def test_long_and_strange_prompts(desk: Studio) -> None:
    for prompt in ("a red star, " * 200, "🦊 <b>fox</b> & ‮right‬ to left \\n '\" 狐", "a star\nbelow a moon"):
        desk.draw(prompt)
        desk.open_newest()
        assert desk.fact("Prompt").split() == prompt.split()
        desk.page.keyboard.press("Escape")


@pytest.mark.parametrize(
    ("prompt", "seed", "size", "words", "focused"),
    [
        ("", "", "512x512", "Prompt: Say what to draw.", "field-prompt"),
        ("x", "minus one", "512x512", "Seed: 'minus one' is no whole number", "field-seed"),
        ("x", "", "500x512", "Size: 500 is not a multiple of", "field-width"),
    ],
)
def test_a_refusal_names_its_field_and_goes_there(
    desk: Studio, prompt: str, seed: str, size: str, words: str, focused: str
) -> None:
    desk.more()
    desk.page.get_by_label("Seed", exact=True).fill(seed)
    size_field = desk.page.get_by_label("Size", exact=True)
    size_field.fill(size)
    size_field.press("Enter")
    desk.send(prompt)
    expect(desk.notice).to_contain_text(words)
    inside = f"document.activeElement.closest('#{focused}') !== null"
    assert desk.page.evaluate(inside), desk.page.evaluate("document.activeElement.outerHTML")
    assert desk.pictures.count() == 0


def test_two_tabs_share_pictures_and_nothing_else(context: BrowserContext, studio: str, desk: Studio) -> None:
    other = Studio(context.new_page(), studio)
    slowly(desk, "a purple diamond", steps=60)
    expect(other.drawings).to_have_count(0)
    other.send("a yellow sun")  # which of the two is finished first is open
    expect(desk.pictures).to_have_count(2, timeout=PATIENCE_MS)
    expect(other.pictures).to_have_count(2)


def test_the_keyboard_alone_draws_opens_and_closes(desk: Studio) -> None:
    keyboard = desk.page.keyboard
    desk.prompt.focus()
    keyboard.type("a red boat")

    def tab_to(selector: str) -> None:
        for _ in range(40):
            keyboard.press("Tab")
            if desk.page.evaluate("s => document.activeElement.matches(s)", selector):
                return
        raise AssertionError(f"Tab never came to {selector}")

    tab_to("button#draw")
    keyboard.press("Enter")
    expect(desk.pictures).to_have_count(1, timeout=PATIENCE_MS)
    tab_to("ul.grid button.open")
    keyboard.press("Enter")
    dialog = desk.page.get_by_role("dialog", name="Picture", exact=True)
    expect(dialog).to_be_visible()
    expect(dialog.get_by_role("button", name="Close")).to_be_focused()
    keyboard.press("Escape")
    expect(dialog).not_to_be_visible()
    assert desk.page.evaluate("document.activeElement.matches('ul.grid button.open')")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_everybody_can_read_it(
    new_context: Callable[..., BrowserContext], studio: str, service: RunningService, scheme: str
) -> None:
    desk = Studio(new_context(color_scheme=scheme).new_page(), studio)
    desk.more()
    assert_accessible(desk.page, "form")
    desk.draw("a panda listening to music with headphones")
    desk.number("Steps", 150)
    desk.number("Pictures", 4)  # long enough to look at it
    desk.send("an astronaut is dancing on green grass, sunlit")
    expect(desk.drawings.locator("img").first).to_be_visible()
    desk.screenshot(SCREENSHOTS, f"drawing-{scheme}")
    assert_accessible(desk.page, "drawing")
    desk.page.get_by_role("button", name="Stop an astronaut").click()
    expect(desk.drawings.locator(".state")).to_have_text("Stopped")
    assert_accessible(desk.page, "stopped")
    desk.number("Pictures", 1)
    desk.number("Steps", 4)
    desk.draw("a boat on the sea")
    assert_accessible(desk.page, "gallery")
    desk.open_newest()
    desk.screenshot(SCREENSHOTS, f"picture-{scheme}")
    assert_accessible(desk.page, "picture")
    desk.page.keyboard.press("Escape")
    for pick in desk.page.locator("button.pick").all():
        pick.click()
    desk.screenshot(SCREENSHOTS, f"comparison-{scheme}")
    assert_accessible(desk.page, "comparison")
    desk.page.keyboard.press("Escape")
    desk.send("")
    expect(desk.notice).to_be_visible()
    assert_accessible(desk.page, "notice")
    desk.section("Replay")
    assert_accessible(desk.page, "replay")
    desk.section("Service")
    expect(desk.page.locator("section.pool")).to_have_count(len(service.settings.pools))
    desk.screenshot(SCREENSHOTS, f"service-{scheme}")
    assert_accessible(desk.page, "service")


def assert_accessible(page: Page, where: str) -> None:
    found = [
        f"{where}: {violation['impact']} {violation['id']}: {node['html'][:200]}"
        for violation in Axe().run(page).response["violations"]
        if violation["impact"] in ("serious", "critical")
        for node in violation["nodes"]
    ]
    assert found == []


def test_it_fits_a_telephone(new_context: Callable[..., BrowserContext], studio: str) -> None:
    phone = new_context(
        viewport={"width": 390, "height": 844}, device_scale_factor=2, has_touch=True, is_mobile=True
    )
    desk = Studio(phone.new_page(), studio)
    desk.draw("an astronaut is dancing on green grass, sunlit")
    desk.page.wait_for_timeout(300)
    desk.screenshot(SCREENSHOTS, "phone")
    assert desk.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    desk.pictures.first.tap()
    dialog = desk.page.get_by_role("dialog", name="Picture", exact=True)
    expect(dialog).to_be_visible()
    desk.screenshot(SCREENSHOTS, "phone-picture")
    box = dialog.bounding_box()
    assert box is not None
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= 390


def test_the_service_page_tells_of_every_pool(desk: Studio, service: RunningService) -> None:
    desk.section("Service")
    pools = desk.page.locator("section.pool")
    expect(pools).to_have_count(len(service.settings.pools))
    expect(pools.first).to_contain_text("small-sdxl")
    expect(desk.page.get_by_role("link", name="API docs")).to_have_attribute("href", f"{service.url}/docs")
