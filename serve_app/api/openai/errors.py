"""OpenAI's error shape and statuses."""

from __future__ import annotations

from typing import Any

from fastapi import Request
from pydantic import BaseModel, Field

from serve_app.api.errors import ErrorDetail, Problem, WireErrors


class OpenAIErrorDetail(BaseModel):
    """Why a request was not answered.

    Attributes:
        message: For people; says what is allowed.
        type: ``invalid_request_error``, ``server_error`` and so on.
        param: The field at fault, or null.
        code: For programs.
    """

    message: str
    type: str = Field(examples=["invalid_request_error"])
    param: str | None = Field(examples=["size"])
    code: str | None = Field(examples=["invalid_value"])


class OpenAIError(BaseModel):
    """OpenAI's error shape."""

    error: OpenAIErrorDetail


def _client_field(canonical: str, request: Request) -> str:
    return {
        "width": "size",
        "height": "size",
        "num_images": "n",
        "scheduler_name": "scheduler",
    }.get(canonical, canonical)


def _adapt(problem: Problem) -> Problem:
    """OpenAI's statuses and codes, and what its clients read to decide on a retry."""
    status, detail, headers = problem.status, problem.detail, dict(problem.headers)
    if detail.code == "unknown_model" and detail.field == "model":
        status, detail = 404, detail.model_copy(update={"code": "model_not_found"})
    elif detail.code == "picture_refused":
        status, detail = 400, detail.model_copy(update={"code": "content_policy_violation"})
    elif status == 422:
        status = 400
        if "Extra inputs are not permitted" in detail.message:
            detail = detail.model_copy(update={"code": "unknown_parameter"})
    # The client retries twice on 408, 409, 429 and every 5xx unless it is told better.
    headers["x-should-retry"] = "true" if status in (429, 503) else "false"
    if "Retry-After" in headers:
        headers["retry-after-ms"] = str(int(headers["Retry-After"]) * 1000)
    return Problem(status=status, detail=detail, headers=headers)


def _render(problem: Problem) -> dict[str, Any]:
    detail: ErrorDetail = problem.detail
    kind = "invalid_request_error" if problem.status < 500 else "server_error"
    if detail.code == "content_policy_violation":
        kind = "image_generation_user_error"
    if problem.status == 429:
        kind = "requests"  # as OpenAI calls what a limit is of
    shaped = OpenAIErrorDetail(message=detail.message, type=kind, param=detail.field, code=detail.code)
    return OpenAIError(error=shaped).model_dump()


ERRORS = WireErrors(client_field=_client_field, render=_render, adapt=_adapt)
"""From domain errors to what OpenAI's clients read."""
