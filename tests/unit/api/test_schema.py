"""Every route against its own description: what `schemathesis` makes up from the OpenAPI document, good and bad.

No answer is a 5xx, and every answer has a status, a type and a shape that the document announces.
`IMAGINE_FUZZ_EXAMPLES` is the number of cases of each kind for each route; the default makes some
thousands of them.
"""

from __future__ import annotations

import os
from typing import Any

import pytest
import schemathesis
from fastapi import FastAPI
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
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

EXAMPLES = int(os.environ.get("IMAGINE_FUZZ_EXAMPLES", "100"))
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
    tried = 0
    for found in api.get_all_operations():
        operation = found.ok()  # type: ignore[union-attr]  # a broken description raises here, as it should

        @hypothesis_settings(
            max_examples=EXAMPLES,
            deadline=None,
            # Fixed in CI; a long run looks elsewhere each time.
            derandomize="IMAGINE_FUZZ_EXAMPLES" not in os.environ,
            database=None,
            suppress_health_check=list(HealthCheck),
        )
        @given(case=operation.as_strategy(generation_mode=mode))
        def check(case: Any) -> None:
            nonlocal tried
            tried += 1
            response = case.call()
            case.validate_response(response, checks=CHECKS)
            assert response.headers["x-request-id"]

        try:
            check()
        except Unsatisfiable:
            continue  # no way to get this route's request wrong
    assert tried > EXAMPLES * 10
