"""Every route against its own description: what `schemathesis` makes up from the OpenAPI document, good and bad.

No answer is a 5xx, and every answer has a status, a type and a shape that the document announces.
Each answer comes in time, and a known request between them draws what it always did. `make fuzz` tries a hundred
thousand; CI some thousands.
"""

from __future__ import annotations

import time
from typing import Any

import pytest
import schemathesis
from fastapi import FastAPI
from fastapi.testclient import TestClient
from hypothesis import given
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from serve_app.api import build_app
from serve_app.api.deps import get_service
from serve_app.capabilities import Capabilities, ModelDefaults, PoolFacts
from serve_app.fake_service import FakeImageService
from serve_app.settings import Settings, StoreSettings
from tests.unit.fuzzing import examples, fuzzed

EXAMPLES = examples(100)
SLOW_S = 10.0
LOOK_EVERY = 100
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]
# Small pictures, so that the time goes into the requests.
_FACTS = PoolFacts(
    pool="default",
    model="small-sdxl",
    accelerator="fake",
    defaults=ModelDefaults(64, 64, 2, 0.0, "ddim"),
    capabilities=Capabilities(max_rows=8, max_side=128, previews=True, scheduler_names=("ddim", "euler")),
)


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> FastAPI:
    service = FakeImageService(
        Settings(store=StoreSettings(url=str(tmp_path_factory.mktemp("pictures")))), _FACTS
    )
    app = build_app(service.settings)
    app.dependency_overrides[get_service] = lambda: service
    return app


@pytest.mark.parametrize("mode", GenerationMode)
def test_no_route_breaks_its_promise(app: FastAPI, mode: GenerationMode) -> None:
    api = schemathesis.openapi.from_asgi("/openapi.json", app)
    before = drawing(app)
    tried = 0
    for found in api.get_all_operations():
        operation = found.ok()  # type: ignore[union-attr]  # a broken description raises here, as it should

        @fuzzed(EXAMPLES)
        @given(case=operation.as_strategy(generation_mode=mode))
        def check(case: Any) -> None:
            nonlocal tried
            tried += 1
            began = time.monotonic()
            response = case.call()
            assert time.monotonic() - began < SLOW_S
            case.validate_response(response, checks=CHECKS)
            assert response.headers["x-request-id"]
            if tried % LOOK_EVERY == 0:
                assert drawing(app) == before

        try:
            check()
        except Unsatisfiable:
            continue  # no way to get this route's request wrong
    assert tried > EXAMPLES * 10
    print(f"{tried} {mode.value} requests")


def drawing(app: FastAPI) -> tuple[bytes, str]:
    """A known request's picture and seed: whatever was sent before must have left nothing behind."""
    answer = TestClient(app).get("/imagine", params={"prompt": "a fox", "seed": 7})
    assert answer.status_code == 200
    return answer.content, answer.headers["x-seed"]
