"""What every wire format asks of its surroundings: the service, the request's id, a JSON body."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Annotated, Any, TypeVar, cast

from fastapi import Depends, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError

from serve_app.service import ImageService

Model = TypeVar("Model", bound=BaseModel)


async def get_service() -> ImageService:
    """The running ingress. Tests override this dependency with a fake."""
    from ray import serve

    return cast(ImageService, serve.get_replica_context().servable_object)


Service = Annotated[ImageService, Depends(get_service)]


def request_id_of(request: Request) -> str:
    """The id under which this HTTP request is logged and answered."""
    return str(request.scope.get("state", {}).get("request_id", ""))


def json_body(model: type[Model]) -> Callable[[Request], Awaitable[Model]]:
    """A dependency that reads `model` from the body as JSON, whatever the Content-Type says.

    ``curl -d`` without a header labels JSON as a form, and the documented commands do just that.

    Args:
        model: The body's type.

    Returns:
        The dependency; it raises `RequestValidationError` for FastAPI's error path.
    """

    async def parse(request: Request) -> Model:
        data = _load_json(await request.body())
        try:
            return model.model_validate(data)
        except ValidationError as error:
            problems = [{**problem, "loc": ("body", *problem["loc"])} for problem in error.errors()]
            raise RequestValidationError(problems) from error

    return parse


def body_schema(model: type[BaseModel]) -> dict[str, Any]:
    """The OpenAPI part that describes a body read by `json_body`."""
    return {
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": inlined_schema(model)}},
        }
    }


def inlined_schema(model: type[BaseModel]) -> dict[str, Any]:
    """The JSON schema of `model` with nested models written out: references would not lead anywhere in OpenAPI."""
    schema = model.model_json_schema()
    definitions = schema.pop("$defs", {})

    def inlined(part: Any) -> Any:
        if isinstance(part, dict):
            if "$ref" in part:
                return inlined(definitions[part["$ref"].rpartition("/")[2]])
            return {key: inlined(value) for key, value in part.items()}
        return [inlined(value) for value in part] if isinstance(part, list) else part

    return cast(dict[str, Any], inlined(schema))


def _load_json(body: bytes) -> dict[str, Any]:
    try:
        # NaN and Infinity pass here, so that the refusal can name the field that holds them.
        data = json.loads(body.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise _malformed("the body is not UTF-8") from error
    except json.JSONDecodeError as error:
        reason = f"the body is not JSON: {error.msg} at line {error.lineno}, column {error.colno}"
        raise _malformed(reason if body.strip() else "the body is empty; send a JSON object") from error
    except ValueError as error:
        raise _malformed("the body holds a number with too many digits") from error
    except RecursionError as error:
        raise _malformed("the body is nested too deeply") from error
    if not isinstance(data, dict):
        raise _malformed('the body must be a JSON object, such as {"prompt": "a red fox"}')
    return data


def _malformed(reason: str) -> RequestValidationError:
    return RequestValidationError([{"type": "json_invalid", "loc": ("body",), "msg": reason, "input": None}])
