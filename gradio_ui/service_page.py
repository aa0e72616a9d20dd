"""The page "Service": pools, what they run on, how busy they are, what they cost, what went wrong."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

from gradio_ui import words
from gradio_ui.client import Service, ServiceError
from gradio_ui.settings import UiSettings, is_loopback


async def render(service: Service, settings: UiSettings, visited: str = "") -> str:
    """The page's HTML, also of a service that does not answer.

    Args:
        service: Tells of its pools.
        settings: For the links.
        visited: Host and port under which the browser has found the page; "" for this machine's own.
    """
    links = _links(settings, visited)
    try:
        pools = await service.pools()
    except ServiceError as error:
        return f'<p class="notice" role="status">{escape(words.notice(error).text)}</p>{links}'
    if not pools:
        return f'<p class="notice" role="status">No pool answers: the service is starting.</p>{links}'
    return f'<div class="pools">{"".join(_pool(pool) for pool in pools)}</div>{links}'


def _pool(pool: Mapping[str, Any]) -> str:
    """One pool; what the service does not tell of it is left out."""
    defaults = pool["defaults"]
    rows = [
        ("Model", pool["model"]),
        ("Accelerator", pool["accelerator"]),
        ("Replicas", _replicas(pool)),
        ("Waiting", _pictures(pool.get("queued_images"))),
        ("Drawing", _pictures(pool.get("running_images"))),
        ("Step", _step(pool)),
        ("Price", _price(pool.get("price_per_hour"))),
        (
            "Draws",
            f"{defaults['width']} × {defaults['height']} in {defaults['num_inference_steps']} steps, guidance "
            f"{defaults['guidance_scale']:g}, unless asked otherwise",
        ),
        ("Starts in", words.duration(pool["start_s"]) if pool.get("start_s") else None),
        ("Last error", pool.get("last_error")),
    ]
    state = str(pool.get("state", "ready"))
    facts = "".join(
        f"<dt>{escape(name)}</dt><dd>{escape(str(value))}</dd>" for name, value in rows if value is not None
    )
    return (
        f'<section class="pool" data-state="{escape(state)}">'
        f"<h2>{escape(str(pool['pool']))} <span>{escape(state)}</span></h2><dl>{facts}</dl></section>"
    )


def _replicas(pool: Mapping[str, Any]) -> str | None:
    running, wanted = pool.get("replicas_running"), pool.get("replicas_wanted")
    if running is None:
        return None
    return f"{running} of {wanted}" if wanted is not None and wanted != running else str(running)


def _step(pool: Mapping[str, Any]) -> str | None:
    """Seconds of one step of one picture of the model's own size."""
    defaults = pool["defaults"]
    if not pool.get("step_s"):
        return None
    return words.duration(float(pool["step_s"]) * int(defaults["width"]) * int(defaults["height"]) / 1e6)


def _price(price_per_hour: float | None) -> str | None:
    if price_per_hour is None:
        return None
    return f"{price_per_hour:g} an hour and replica" if price_per_hour else "none set"


def _pictures(count: int | None) -> str | None:
    if count is None:
        return None
    return "1 picture" if count == 1 else f"{count} pictures"


def _links(settings: UiSettings, visited: str) -> str:
    links = []
    if settings.public_url:
        links.append((f"{settings.public_url}/docs", "API docs"))
    if settings.dashboard_url:
        links.append((settings.dashboard_url, "Ray dashboard"))
    if visited and not is_loopback(f"//{visited}"):
        # This machine's own addresses lead elsewhere on another one.
        links = [(url, text) for url, text in links if not is_loopback(url)]
    made = " ".join(
        f'<a href="{escape(url)}" target="_blank" rel="noopener noreferrer">{escape(text)}</a>'
        for url, text in links
    )
    return f'<p class="links">{made}</p>' if made else ""
