"""How soon the web page is there, and how soon after a click its first preview and its picture.

``python -m bench.page_speed`` starts the whole service on this machine as ``make run`` does; ``--url`` measures a page
that runs already. Every visit is a browser profile of its own, so nothing is cached. Times are the page's own
(``performance.now()``), from the beginning of its navigation or from the click. Beside each picture stands what
the service needs for one without a page, in turns with it: the baseline.
"""

from __future__ import annotations

import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import httpx
import typer
from playwright.sync_api import Browser, sync_playwright
from rich.console import Console
from rich.table import Table

PROMPT = "a yellow star on a blue background"
START_TIMEOUT_S = 180.0
_STOP_S = 30.0

_WATCH = """() => {
  window.timesAfterClick = {};
  const draw = document.querySelector("button#draw");
  draw.addEventListener("click", () => { timesAfterClick.clicked = performance.now(); }, { capture: true });
  const after = (name, selector) => {
    if (!(name in timesAfterClick) && timesAfterClick.clicked && document.querySelector(selector))
      timesAfterClick[name] = performance.now() - timesAfterClick.clicked;
  };
  new MutationObserver(() => {
    after("card", "li.drawing");
    after("preview", "li.drawing img[src]");
    after("picture", "ul.grid li");
  }).observe(document.body, { subtree: true, childList: true, attributes: true });
}"""

_PAINT = """() => performance.getEntriesByName("first-contentful-paint")[0].startTime"""


def visit(browser: Browser, url: str) -> dict[str, float]:
    """One visit with one picture, in a profile of its own.

    Returns:
        Seconds: ``first_paint``, ``form`` (filled with what the model can draw), and from the click ``card``,
        ``preview`` and ``picture``.
    """
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    try:
        page = context.new_page()
        page.goto(url, wait_until="commit")
        page.wait_for_selector("button.example:visible", timeout=60_000)
        form_s = page.evaluate("performance.now()") / 1000
        first_paint_s = page.evaluate(_PAINT) / 1000
        page.get_by_label("Prompt", exact=True).fill(PROMPT)
        page.wait_for_timeout(500)
        page.evaluate(_WATCH)
        page.get_by_role("button", name="Draw", exact=True).click()
        page.wait_for_function("timesAfterClick.picture !== undefined", timeout=120_000)
        times: Mapping[str, float] = page.evaluate("timesAfterClick")
    finally:
        context.close()
    clicked = {name: times[name] / 1000 for name in ("card", "preview", "picture") if name in times}
    return {"first_paint": first_paint_s, "form": form_s, **clicked}


def plain_picture_s(service_url: str) -> float:
    """Seconds of one ``GET /imagine`` of the same prompt."""
    started = time.perf_counter()
    answer = httpx.get(f"{service_url}/imagine", params={"prompt": PROMPT}, timeout=120.0, trust_env=False)
    answer.raise_for_status()
    return time.perf_counter() - started


@contextmanager
def local_service() -> Iterator[tuple[str, str]]:
    """``imagine serve`` with its page on this machine. Gives the addresses of the page and of the service."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "output"
        command = [sys.executable, "-m", "serve_app.cli", "serve", "--port", "8177", "--ui-port", "8178"]
        with output.open("wb") as file:
            process = subprocess.Popen(
                [*command, "--no-dashboard", "--json", "--pictures", folder], stdout=file
            )
        try:
            deadline = time.monotonic() + START_TIMEOUT_S
            while '"ready_s"' not in output.read_text():
                if process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError("the service did not start")
                time.sleep(0.2)
            facts = json.loads(output.read_text())
            yield facts["page"], facts["url"]
        finally:
            process.terminate()
            process.wait(_STOP_S)


def measure(page_url: str, service_url: str, visits: int) -> dict[str, Any]:
    """Visits in turns with plain requests; the first of each is not counted."""
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None:
        raise RuntimeError("no Chromium on this machine (apt-get install chromium)")
    seen: list[dict[str, float]] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=chromium,
            args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"],
        )
        for number in range(visits + 1):
            plain_s = plain_picture_s(service_url)
            times = {**visit(browser, page_url), "plain_request": plain_s}
            if number:
                seen.append(times)
        browser.close()
    names = ("first_paint", "form", "card", "preview", "picture", "plain_request")
    medians = {name: statistics.median(times[name] for times in seen if name in times) for name in names}
    worst = {name: max(times[name] for times in seen if name in times) for name in names}
    ratio = statistics.median(times["picture"] / times["plain_request"] for times in seen)
    return {"visits": visits, "median_s": medians, "worst_s": worst, "picture_over_plain_request": ratio}


def main(
    url: Annotated[str | None, typer.Option(help="A page that runs already.")] = None,
    service_url: Annotated[str, typer.Option(help="Its service, with --url.")] = "http://127.0.0.1:8000",
    visits: Annotated[int, typer.Option(min=1, help="Counted visits.")] = 7,
    as_json: Annotated[bool, typer.Option("--json")] = False,
) -> None:
    """Measure the web page in Chromium."""
    if url is not None:
        result = measure(url, service_url, visits)
    else:
        with local_service() as (page_url, own_service_url):
            result = measure(page_url, own_service_url, visits)
    if as_json:
        print(json.dumps(result))
        return
    table = Table(title=f"The web page, {visits} visits with an empty cache")
    for column in ("seconds until", "median", "worst"):
        table.add_column(column)
    words = {
        "first_paint": "first paint",
        "form": "the form is filled",
        "card": "click: the drawing is there",
        "preview": "click: first preview",
        "picture": "click: the picture",
        "plain_request": "GET /imagine without a page",
    }
    for name, text in words.items():
        table.add_row(text, f"{result['median_s'][name]:.2f}", f"{result['worst_s'][name]:.2f}")
    Console().print(table)
    Console().print(f"picture through the page / plain request: {result['picture_over_plain_request']:.2f}")


if __name__ == "__main__":
    typer.run(main)
