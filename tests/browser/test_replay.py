"""Replay: a file dropped onto the page is read, and drawn again."""

from __future__ import annotations

import re
from pathlib import Path

from PIL import Image
from playwright.sync_api import Route, expect

from tests.browser.conftest import SCREENSHOTS
from tests.browser.studio import PATIENCE_MS, Studio


def test_a_dropped_picture_is_read_and_drawn_again(desk: Studio, tmp_path: Path) -> None:
    desk.draw("an orange cat on the beach")
    file = tmp_path / "old.png"
    file.write_bytes(
        desk.page.request.get(desk.page.locator("ul.grid img").first.evaluate("i => i.src")).body()
    )
    desk.section("Replay")
    desk.page.get_by_label(re.compile("Drop a picture")).set_input_files(file)
    expect(desk.page.locator("#replay dl")).to_contain_text("an orange cat on the beach")
    desk.page.get_by_role("button", name="Draw it again").click()
    expect(desk.page.locator("#replay .verdict")).to_have_text(
        "The same picture, pixel for pixel.", timeout=PATIENCE_MS
    )
    desk.screenshot(SCREENSHOTS, "replay")
    desk.page.get_by_role("button", name="Use these settings").click()
    expect(desk.prompt).to_be_visible()
    expect(desk.prompt).to_have_value("an orange cat on the beach")
    desk.section("Replay")
    Image.new("RGB", (8, 8)).save(tmp_path / "other.png")
    desk.page.get_by_label(re.compile("Drop a picture")).set_input_files(tmp_path / "other.png")
    expect(desk.page.locator("#replay [role=alert]")).to_contain_text("does not say how it was drawn")


def test_of_two_files_the_last_one_counts_and_one_too_large_for_a_proxy_is_told(
    desk: Studio, tmp_path: Path
) -> None:
    desk.section("Replay")
    held: list[Route] = []
    desk.page.route("**/studio/read", lambda route: held.append(route))  # Playwright marks what it is given

    def dropped(name: str) -> Route:
        before = len(held)
        Image.new("RGB", (8, 8)).save(tmp_path / name)
        desk.page.get_by_label(re.compile("Drop a picture")).set_input_files(tmp_path / name)
        while len(held) == before:
            desk.page.wait_for_timeout(20)
        return held[-1]

    first, second = dropped("first.png"), dropped("second.png")
    second.fulfill(json={"prompt": "the second one"})
    expect(desk.page.locator("#replay dl")).to_contain_text("the second one")
    with desk.page.expect_response("**/studio/read"):
        first.fulfill(json={"prompt": "the first one"})
    desk.page.wait_for_timeout(200)
    expect(desk.page.locator("#replay dl")).to_contain_text("the second one")
    dropped("third.png").fulfill(status=413)
    expect(desk.page.locator("#replay [role=alert]")).to_contain_text("lets through")
