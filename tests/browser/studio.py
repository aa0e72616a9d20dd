"""The web page as a person works with it, for the browser's tests."""

from __future__ import annotations

import re
from pathlib import Path

from playwright.sync_api import Locator, Page, Response, expect

PATIENCE_MS = 60_000


class Studio:
    """One open page.

    Args:
        page: The browser's page.
        url: Address of the web page.
    """

    def __init__(self, page: Page, url: str) -> None:
        self.page = page
        page.goto(url)
        # The form has been filled from what the service can draw.
        expect(self.examples.first).to_be_visible(timeout=PATIENCE_MS)

    @property
    def examples(self) -> Locator:
        """Buttons with prompts to begin with."""
        return self.page.locator("button.example:visible")

    @property
    def prompt(self) -> Locator:
        """The prompt's field."""
        return self.page.get_by_label("Prompt", exact=True)

    @property
    def drawings(self) -> Locator:
        """Cards of what is being drawn, has failed or was stopped."""
        return self.page.locator("li.drawing")

    @property
    def pictures(self) -> Locator:
        """Buttons that open a picture, newest first."""
        return self.page.locator("ul.grid button.open")

    def pictures_of(self, prompt: str) -> Locator:
        """Those of `pictures` that a prompt gave."""
        return self.page.get_by_role("button", name=f"Open: {prompt}, seed")

    @property
    def notice(self) -> Locator:
        """What was refused."""
        return self.page.locator("#notice [role=alert]")

    def more(self) -> None:
        """Opens the settings that are seldom changed."""
        self.page.get_by_role("button", name="More settings").click()
        expect(self.page.get_by_label("Seed", exact=True)).to_be_visible()
        # Gradio gives fields that were folded away their values once more just after it has shown them, over what was
        # typed in that moment (seen: 70 ms on a slow processor). A person is not that fast.
        self.page.evaluate(
            "() => new Promise(idle => requestIdleCallback(() => requestIdleCallback(() => idle())))"
        )

    def number(self, label: str, value: float) -> None:
        """Types a number beside a slider."""
        field = self.page.get_by_label(f"number input for {label}")
        field.fill(str(value))
        field.press("Tab")

    def choose(self, label: str, option: str) -> None:
        """Chooses from a list by the beginning of an option."""
        self.page.get_by_label(label, exact=True).click()
        self.page.get_by_role("option", name=re.compile(f"^{re.escape(option)}")).click()

    def choose_pool(self, name: str) -> None:
        """Names a pool, and waits until the form is filled with what it draws."""

        def filled(response: Response) -> bool:
            return "/gradio_api/run/" in response.url and f'"{name}"' in (response.request.post_data or "")

        with self.page.expect_response(filled, timeout=PATIENCE_MS):
            self.choose("Where", name)
        self.page.wait_for_timeout(500)

    def section(self, name: str) -> None:
        """Goes to another part of the page."""
        self.page.get_by_role("tab", name=name).click()

    def send(self, prompt: str | None = None) -> None:
        """Presses Draw."""
        if prompt is not None:
            self.prompt.fill(prompt)
        self.page.get_by_role("button", name="Draw", exact=True).click()

    def draw(self, prompt: str | None = None) -> None:
        """Presses Draw and waits for the picture."""
        before = self.pictures.count()
        self.send(prompt)
        expect(self.pictures).to_have_count(before + 1, timeout=PATIENCE_MS)

    def open_newest(self) -> Locator:
        """Opens the newest picture; returns the dialog."""
        self.pictures.first.click()
        dialog = self.page.get_by_role("dialog", name="Picture", exact=True)
        expect(dialog).to_be_visible()
        return dialog

    def fact(self, name: str) -> str:
        """What the open picture says under `name`."""
        return (
            self.page.locator("dialog[open] dt", has_text=re.compile(f"^{name}$"))
            .locator("+ dd")
            .inner_text()
        )

    def screenshot(self, folder: Path, name: str) -> None:
        """Leaves a picture of the page for people to look at."""
        folder.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=folder / f"{name}.png")
