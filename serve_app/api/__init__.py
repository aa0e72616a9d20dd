"""The wire formats, one file each, and the application that holds them."""

from __future__ import annotations

from fastapi import FastAPI

from serve_app import __version__
from serve_app.api import (
    a1111,
    docs,
    generate,
    huggingface,
    imagine,
    jobs,
    openai,
    pictures,
    replay,
    system,
    text2image,
)
from serve_app.api.access import Access, describe_keys
from serve_app.api.errors import install_fallbacks
from serve_app.api.middleware import (
    BodyLimitMiddleware,
    ForwardedPrefixMiddleware,
    MergeSlashesMiddleware,
    RedirectMiddleware,
    RequestIdMiddleware,
    SafeHeadersMiddleware,
)
from serve_app.api.observing import HttpObserver, NoHttpObserver, ObservingMiddleware
from serve_app.settings import Settings

_WIRE_FORMATS = (
    imagine,
    text2image,
    generate,
    openai,
    a1111,
    huggingface,
    replay,
    jobs,
    pictures,
    system,
    docs,
)


def build_app(settings: Settings, observer: HttpObserver | None = None) -> FastAPI:
    """The HTTP application, without the service behind it: `deps.get_service` finds that for each request.

    Args:
        settings: The application's settings.
        observer: Told of every request.

    Raises:
        ConfigurationError: The file of API keys cannot be used.
    """
    app = FastAPI(
        title="imagine",
        version=__version__,
        description="Draws pictures of prompts with Stable Diffusion XL models.",
        license_info={"name": "Apache-2.0", "identifier": "Apache-2.0"},
        # Relative to where the document was fetched, so that "Try it out" works behind any prefix.
        servers=[{"url": "./"}],
        root_path_in_servers=False,
        docs_url=None,
        redoc_url=None,
    )
    app.state.access = Access(settings)
    if app.state.access.needs_key:
        describe_keys(app)
    for wire_format in _WIRE_FORMATS:
        app.include_router(wire_format.router)
    install_fallbacks(app)
    # The last one added is the outermost.
    app.add_middleware(ObservingMiddleware, observer=observer or NoHttpObserver())
    app.add_middleware(
        BodyLimitMiddleware,
        max_bytes=settings.max_body_bytes,
        uploads={replay.PATH: settings.max_upload_bytes},
        timeout_s=settings.body_timeout_s,
    )
    app.add_middleware(RedirectMiddleware, settings=settings)
    if settings.trust_forwarded_headers:
        app.add_middleware(ForwardedPrefixMiddleware)
    app.add_middleware(MergeSlashesMiddleware)
    app.add_middleware(SafeHeadersMiddleware)
    app.add_middleware(RequestIdMiddleware)
    return app
