"""The page as one ASGI application: `build` puts Gradio's page and the page's own routes together."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import gradio as gr
from fastapi import FastAPI

from gradio_ui import routes, script
from gradio_ui.client import Service
from gradio_ui.page import page
from gradio_ui.settings import UiSettings
from gradio_ui.tabs import Tabs

_STATIC = f"{routes.PREFIX[1:]}/static"  # relative: it holds behind any path prefix
_HEAD = f'<link rel="stylesheet" href="{_STATIC}/style.css"><script src="{_STATIC}/{script.NAME}"></script>'


def build(settings: UiSettings, service: Service, tabs: Tabs | None = None) -> FastAPI:
    """The whole page.

    Args:
        settings: Where things are.
        service: Draws; closed with the application.
        tabs: The open pages; made anew when absent.
    """
    open_tabs = tabs or Tabs(service)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await open_tabs.aclose()
        await service.aclose()

    app = FastAPI(lifespan=lifespan, openapi_url=None)
    app.include_router(routes.router(service, open_tabs))
    mounted: FastAPI = gr.mount_gradio_app(
        app,
        page(settings, service, open_tabs),
        path="/",
        root_path=settings.root_path or None,
        footer_links=[],
        run_history=False,
        show_error=False,
        ssr_mode=False,
        mcp_server=False,
        theme=_theme(),
        head=_HEAD,
    )
    return mounted


def _theme() -> gr.themes.Base:
    """Calm, and with the fonts that the reader's machine has: no font is fetched from anywhere."""
    return gr.themes.Base(
        primary_hue=gr.themes.colors.indigo,
        neutral_hue=gr.themes.colors.slate,
        font=["system-ui", "sans-serif"],
        font_mono=["ui-monospace", "monospace"],
        radius_size=gr.themes.sizes.radius_lg,
    ).set(
        # Gradio's own are a little too pale to be read by everybody.
        body_text_color_subdued="*neutral_600",
        body_text_color_subdued_dark="*neutral_300",
        block_info_text_color="*neutral_600",
        block_info_text_color_dark="*neutral_300",
        input_placeholder_color="*neutral_500",
        input_placeholder_color_dark="*neutral_400",
    )
