"""What stands on the page, and what happens on each click."""

from __future__ import annotations

from typing import Any

import gradio as gr

from gradio_ui.client import Service
from gradio_ui.draw_form import AS_SENT, DrawForm
from gradio_ui.script import when_there
from gradio_ui.service_page import render
from gradio_ui.settings import UiSettings
from gradio_ui.tabs import Tabs

TITLE = "imagine"
REFRESH_S = 3.0
"""How often the page "Service" is renewed while it is looked at."""

_SLOT = "<div></div>"
# Events of this page are answered at once: Gradio's queue, its spinners and its API page are not for them.
_AT_ONCE: dict[str, Any] = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}


def page(settings: UiSettings, service: Service, tabs: Tabs) -> gr.Blocks:
    """The page as Gradio blocks.

    Args:
        settings: For the links.
        service: Draws.
        tabs: The open pages.
    """
    blocks: gr.Blocks
    with gr.Blocks(title=TITLE, analytics_enabled=False, delete_cache=(600, 600), fill_width=True) as blocks:
        with gr.Row(elem_id="top"):
            gr.HTML(f"<h1>{TITLE}</h1>", js_on_load=None, apply_default_css=False)
            status = gr.HTML(
                html_template=_SLOT,
                apply_default_css=False,
                elem_id="status",
                js_on_load=when_there("imagine.mountStatus(element, () => trigger('ready'));"),
            )
        with gr.Tabs(selected="draw", elem_id="tabs") as sections:
            with gr.Tab("Draw", id="draw") as draw_section, gr.Row(elem_id="studio"):
                with gr.Column(scale=4, min_width=320, elem_id="form"):
                    form = DrawForm(service, tabs)
                with gr.Column(scale=7, min_width=320, elem_id="results"):
                    jobs = gr.HTML(
                        html_template=_SLOT,
                        apply_default_css=False,
                        elem_id="jobs",
                        js_on_load=when_there(
                            "imagine.mountJobs(element, (_, data) => trigger('use', data));"
                        ),
                    )
                    gallery = gr.HTML(
                        html_template=_SLOT,
                        apply_default_css=False,
                        elem_id="gallery",
                        js_on_load=when_there(
                            "imagine.mountGallery(element, (_, data) => trigger('use', data));"
                        ),
                    )
            with gr.Tab("Replay", id="replay") as replay_section:
                replay = gr.HTML(
                    html_template=_SLOT,
                    apply_default_css=False,
                    elem_id="replay",
                    js_on_load=when_there("imagine.mountReplay(element, (_, data) => trigger('use', data));"),
                )
            with gr.Tab("Service", id="service") as service_section:
                state = gr.HTML(
                    "<p>Looking for the service</p>",
                    elem_id="service",
                    js_on_load=None,
                    apply_default_css=False,
                )
        clock = gr.Timer(REFRESH_S, active=False)

        async def show_state(request: gr.Request) -> str:
            return await render(service, settings, request.headers.get("host", ""))

        def use_here(event: gr.EventData) -> list[Any]:
            return form.using(event._data or {})

        blocks.load(form.fill, form.chosen, form.offered, **AS_SENT, **_AT_ONCE)
        status.ready(form.fill, form.chosen, form.offered, **AS_SENT, **_AT_ONCE)
        for source in (jobs, gallery, replay):
            used = source.use(use_here, None, form.fields, **_AT_ONCE)
            if source is replay:
                used.then(lambda: gr.Tabs(selected="draw"), None, sections, **_AT_ONCE)
        service_section.select(show_state, None, state, **_AT_ONCE)
        service_section.select(lambda: gr.Timer(active=True), None, clock, **_AT_ONCE)
        for other in (draw_section, replay_section):
            other.select(lambda: gr.Timer(active=False), None, clock, **_AT_ONCE)
        clock.tick(show_state, None, state, **_AT_ONCE)
        form.listen(_AT_ONCE)
    return blocks
