"""``/docs``: Swagger UI from files of the installation, without any outside host."""

from __future__ import annotations

from importlib.resources import files

from fastapi import APIRouter, Response
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import HTMLResponse

from serve_app.api.errors import WireErrors
from serve_app.errors import NotFound

# The package is used for the files it carries; its code is never imported.
_ASSETS = {
    "swagger-ui-bundle.js": "text/javascript",
    "swagger-ui.css": "text/css",
    "favicon-32x32.png": "image/png",
}

router = APIRouter(include_in_schema=False, route_class=WireErrors().route_class())


@router.get("/docs")
async def docs() -> HTMLResponse:
    """The page. All its addresses are relative to itself, so it works behind any path prefix."""
    return get_swagger_ui_html(
        openapi_url="openapi.json",
        title="imagine",
        swagger_js_url="docs/assets/swagger-ui-bundle.js",
        swagger_css_url="docs/assets/swagger-ui.css",
        swagger_favicon_url="docs/assets/favicon-32x32.png",
    )


@router.get("/docs/assets/{name}")
def asset(name: str) -> Response:
    """A file of Swagger UI. Synchronous, so that reading it happens on a thread."""
    if name not in _ASSETS:
        raise NotFound("There is no such file")
    data = (files("fastapi_swagger") / "resources" / name).read_bytes()
    return Response(data, media_type=_ASSETS[name], headers={"Cache-Control": "public, max-age=86400"})
