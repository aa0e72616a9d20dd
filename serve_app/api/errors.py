"""From domain and validation errors to statuses and each wire format's own error shape.

A wire format has one `WireErrors`; `WireErrors.route_class` gives the APIRoute class of its router, so every
request is let in by `serve_app.api.access.Access`, and every refusal takes this one way out. What is raised outside of
any route (no such path, body too large) is answered in the plain shape by `install_fallbacks`.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from serve_app import errors as domain
from serve_app.api.access import CHALLENGE
from serve_app.api.deps import request_id_of
from serve_app.api.middleware import SAFE_HEADERS, request_id_header

log = logging.getLogger(__name__)

CLIENT_CLOSED_REQUEST = 499
"""For a caller that has gone away: nobody reads it but the access log."""

# The first class that fits decides, so subclasses stand before their base.
_STATUSES: tuple[tuple[type[domain.ImagineError], int, str], ...] = (
    (domain.UnknownModel, HTTPStatus.UNPROCESSABLE_ENTITY, "unknown_model"),
    (domain.UnsupportedRequest, HTTPStatus.UNPROCESSABLE_ENTITY, "unsupported"),
    (domain.InvalidRequest, HTTPStatus.UNPROCESSABLE_ENTITY, "invalid_request"),
    (domain.InvalidApiKey, HTTPStatus.UNAUTHORIZED, "invalid_api_key"),
    (domain.NotFound, HTTPStatus.NOT_FOUND, "not_found"),
    (domain.LimitReached, HTTPStatus.TOO_MANY_REQUESTS, "rate_limit_exceeded"),
    (domain.TooManyJobs, HTTPStatus.TOO_MANY_REQUESTS, "too_many_jobs"),
    (domain.JobsUnavailable, HTTPStatus.SERVICE_UNAVAILABLE, "unavailable"),
    (domain.Overloaded, HTTPStatus.SERVICE_UNAVAILABLE, "overloaded"),
    (domain.PoolUnavailable, HTTPStatus.SERVICE_UNAVAILABLE, "unavailable"),
    (domain.StoreUnavailable, HTTPStatus.SERVICE_UNAVAILABLE, "store_unavailable"),
    (domain.PictureRefused, HTTPStatus.UNPROCESSABLE_ENTITY, "picture_refused"),
    (domain.DeadlineExceeded, HTTPStatus.GATEWAY_TIMEOUT, "deadline_exceeded"),
    (domain.GenerationCancelled, CLIENT_CLOSED_REQUEST, "cancelled"),
    (domain.GenerationFailed, HTTPStatus.INTERNAL_SERVER_ERROR, "generation_failed"),
    (domain.ImagineError, HTTPStatus.INTERNAL_SERVER_ERROR, "internal"),
)


class ErrorDetail(BaseModel):
    """Why a request was not answered.

    Attributes:
        code: For programs.
        message: For people; says what is allowed.
        field: The client's own name of the field at fault, or null.
        request_id: To find the request in the log.
    """

    code: str = Field(examples=["invalid_request"])
    message: str = Field(examples=["width: Input should be less than or equal to 4096"])
    field: str | None = Field(default=None, examples=["width"])
    request_id: str = ""


class ErrorBody(BaseModel):
    """The plain error shape."""

    error: ErrorDetail


@dataclass(frozen=True, slots=True)
class Problem:
    """A refusal, before a wire format gives it its shape.

    Attributes:
        status: HTTP status.
        detail: What to say.
        headers: Headers of the answer.
    """

    status: int
    detail: ErrorDetail
    headers: Mapping[str, str] = field(default_factory=dict)


def plain_body(problem: Problem) -> dict[str, Any]:
    """The plain shape: ``{"error": {code, message, field, request_id}}``."""
    return {"error": problem.detail.model_dump()}


def as_it_is(problem: Problem) -> Problem:
    """For formats that keep the statuses and headers of all the others."""
    return problem


def same_field(canonical: str, request: Request) -> str:
    """For formats whose fields are named as `RequestDraft`'s."""
    return canonical


@dataclass(frozen=True, slots=True)
class WireErrors:
    """How one wire format says no.

    Attributes:
        client_field: From a canonical field name and the request to the client's own name.
        render: From a problem to the JSON body.
        adapt: From a problem to the one with this format's own status, code and headers.
    """

    client_field: Callable[[str, Request], str] = same_field
    render: Callable[[Problem], dict[str, Any]] = plain_body
    adapt: Callable[[Problem], Problem] = as_it_is

    def respond(self, request: Request, error: Exception) -> JSONResponse:
        """The answer to `error`: an `ImagineError`, a `RequestValidationError` or an `HTTPException`."""
        problem = self.adapt(self.problem(request, error))
        return JSONResponse(self.render(problem), status_code=problem.status, headers=dict(problem.headers))

    def problem(self, request: Request, error: Exception) -> Problem:
        """`error` before it gets this format's shape."""
        if isinstance(error, RequestValidationError):
            return _validation_problem(error, request)
        if isinstance(error, HTTPException):
            return _http_problem(error, request)
        return self._domain_problem(error, request)

    def _domain_problem(self, error: Exception, request: Request) -> Problem:
        status, code = next((status, code) for kind, status, code in _STATUSES if isinstance(error, kind))
        message, name = str(error), None
        if isinstance(error, domain.InvalidRequest):
            name = self.client_field(error.field, request)
            message = f"{name}: {error.message}"
        headers = {}
        if isinstance(error, domain.InvalidApiKey):
            headers["WWW-Authenticate"] = CHALLENGE
        if isinstance(error, domain.Overloaded | domain.PoolUnavailable) and error.retry_after_s is not None:
            headers["Retry-After"] = str(max(1, math.ceil(error.retry_after_s)))
        if status == HTTPStatus.INTERNAL_SERVER_ERROR:
            log.error("Request %s failed: %s", request_id_of(request), error)
        detail = ErrorDetail(code=code, message=message, field=name, request_id=request_id_of(request))
        return Problem(status=int(status), detail=detail, headers=headers)

    def route_class(self) -> type[APIRoute]:
        """The APIRoute class for this format's router."""
        wire = self

        class WireRoute(APIRoute):
            def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
                handle = super().get_route_handler()

                async def handle_or_refuse(request: Request) -> Response:
                    try:
                        await request.app.state.access.admit(request)
                        return await handle(request)
                    except (RequestValidationError, HTTPException, domain.ImagineError) as error:
                        return wire.respond(request, error)
                    except ClientDisconnect:  # it left while it sent its body: no fault of ours
                        return Response(status_code=CLIENT_CLOSED_REQUEST)

                return handle_or_refuse

        return WireRoute


def install_fallbacks(app: FastAPI) -> None:
    """Answers what no route catches in the plain shape: unknown paths, wrong methods, our own faults."""
    plain = WireErrors()

    async def refused(request: Request, error: Exception) -> Response:
        if not isinstance(error, HTTPException):
            raise error
        return plain.respond(request, error)

    async def failed(request: Request, error: Exception) -> Response:
        # Starlette logs the traceback itself by raising the error again behind this answer.
        request_id = request_id_of(request)
        detail = ErrorDetail(
            code="internal", message="The service failed; see its log", request_id=request_id
        )
        # This answer is made outside of all middleware, so it takes its headers along itself.
        return JSONResponse(
            plain_body(Problem(status=500, detail=detail)),
            status_code=500,
            headers={**SAFE_HEADERS, **request_id_header(request.scope)},
        )

    app.add_exception_handler(HTTPException, refused)
    app.add_exception_handler(Exception, failed)


def error_responses(model: type[BaseModel], *statuses: int) -> dict[int | str, dict[str, Any]]:
    """OpenAPI's ``responses`` for the statuses a route may refuse with."""
    return {int(status): {"model": model, "description": HTTPStatus(status).phrase} for status in statuses}


DRAWING_STATUSES: Sequence[int] = (408, 413, 422, 429, 500, 503, 504)
"""How a route that draws may refuse; those with a JSON body also with 400."""


def _http_problem(error: HTTPException, request: Request) -> Problem:
    codes = {404: "not_found", 405: "method_not_allowed", 408: "body_timeout", 413: "content_too_large"}
    detail = ErrorDetail(
        code=codes.get(error.status_code, "http_error"),
        message=str(error.detail),
        request_id=request_id_of(request),
    )
    return Problem(status=error.status_code, detail=detail, headers=error.headers or {})


def _validation_problem(error: RequestValidationError, request: Request) -> Problem:
    problems = error.errors()
    malformed = any(problem["type"] == "json_invalid" for problem in problems)
    sentences = []
    for problem in problems:
        name = _field_of(problem)
        message = str(problem["msg"]).removeprefix("Value error, ")
        sentences.append(f"{name}: {message}" if name else message)
    detail = ErrorDetail(
        code="malformed" if malformed else "invalid_request",
        message="; ".join(sentences),
        field=_field_of(problems[0]) if problems else None,
        request_id=request_id_of(request),
    )
    return Problem(status=400 if malformed else 422, detail=detail)


def _field_of(problem: Mapping[str, Any]) -> str | None:
    """The client's name of the field: the location less its first part (``body``, ``query``...)."""
    return ".".join(str(part) for part in problem["loc"][1:]) or None
