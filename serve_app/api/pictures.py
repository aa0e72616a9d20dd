"""``GET /images/{id}/{name}``: pictures that another answer gave by url."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from serve_app.api.deps import Service
from serve_app.api.errors import ErrorBody, WireErrors, error_responses
from serve_app.request import ImageFormat
from serve_app.store import PictureInfo

router = APIRouter(tags=["pictures"], route_class=WireErrors().route_class())


def _headers(info: PictureInfo) -> dict[str, str]:
    return {
        "ETag": f'"{info.etag}"',
        # A name is never written twice, so a copy never goes stale; the address is a secret, so only the
        # client's own.
        "Cache-Control": "private, max-age=31536000, immutable",
        "X-Content-Type-Options": "nosniff",
    }


def _is_unchanged(request: Request, info: PictureInfo) -> bool:
    known = [
        tag.strip().removeprefix("W/").strip('"')
        for tag in request.headers.get("if-none-match", "").split(",")
    ]
    return info.etag in known or known == ["*"]


@router.get(
    "/images/{picture_id}/{name}",
    response_class=Response,
    summary="A stored picture",
    responses={
        200: {
            "description": "The picture.",
            "content": {
                kind.media_type: {"schema": {"type": "string", "format": "binary"}} for kind in ImageFormat
            },
        },
        304: {"description": "The client's copy is still good."},
        **error_responses(ErrorBody, 404, 503),
        "default": {"model": ErrorBody, "description": "Any other refusal."},
    },
)
async def picture(picture_id: str, name: str, request: Request, service: Service) -> Response:
    """Answers with a picture for as long as it is kept."""
    if "if-none-match" in request.headers:
        info = await service.store.head(picture_id, name)
        if _is_unchanged(request, info):
            return Response(status_code=304, headers=_headers(info))
    info, data = await service.store.get(picture_id, name)
    return Response(data, media_type=info.media_type, headers=_headers(info))


@router.head("/images/{picture_id}/{name}", response_class=Response, include_in_schema=False)
async def picture_head(picture_id: str, name: str, service: Service) -> Response:
    """The headers alone."""
    info = await service.store.head(picture_id, name)
    headers = {**_headers(info), "Content-Length": str(info.size)}
    return Response(media_type=info.media_type, headers=headers)
