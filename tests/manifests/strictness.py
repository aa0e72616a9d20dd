"""Strict schema checks: every object of a known kind, unknown fields refused everywhere."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import jsonschema_rs

from tests.manifests.rendering import Manifest

SCHEMAS = Path(__file__).parent / "schemas"
KUBERNETES_VERSIONS = ("1.30", "1.36")
"""The oldest that the guides ask for, and the newest that was tried."""


def problems(item: Manifest) -> list[str]:
    """Everything that a schema has against an object; an unknown kind is a problem too."""
    version, kind = item["apiVersion"], item["kind"]
    if version == "ray.io/v1":
        return _against(_crd_schema(f"ray.io_v1_{kind.lower()}.json"), item)
    if version in ("gateway.networking.k8s.io/v1", "monitoring.coreos.com/v1"):
        schemas = json.loads((SCHEMAS / f"{version.replace('/', '_')}.json").read_text())
        return _against(_closed({"$defs": schemas["$defs"], **schemas[kind]}), item)
    return _builtin_problems(json.dumps(item, sort_keys=True))  # overlays share most of theirs


@functools.cache
def _builtin_problems(item_as_json: str) -> list[str]:
    import kubernetes_validate

    found: list[str] = []
    item = json.loads(item_as_json)
    for version in KUBERNETES_VERSIONS:
        try:
            kubernetes_validate.validate(item, version, strict=True)
        except (kubernetes_validate.ValidationError, kubernetes_validate.SchemaNotFoundError) as error:
            found.append(f"Kubernetes {version}: {error}")
    return found


def _against(schema: dict[str, Any], item: Manifest) -> list[str]:
    validator = jsonschema_rs.Draft202012Validator(schema)
    return [f"{error.instance_path}: {error.message}" for error in validator.iter_errors(item)]


@functools.cache
def _crd_schema(name: str) -> dict[str, Any]:
    schema: dict[str, Any] = _closed(json.loads((SCHEMAS / name).read_text()))
    # A CRD leaves these to the API server.
    schema["properties"]["metadata"] = {
        "type": "object",
        "required": ["name", "namespace"],
        "properties": {
            "name": {"type": "string", "pattern": "^[a-z]([a-z0-9-]{0,40}[a-z0-9])?$"},
            "namespace": {"type": "string"},
            "labels": {"type": "object", "additionalProperties": {"type": "string"}},
            "annotations": {"type": "object", "additionalProperties": {"type": "string"}},
        },
        "additionalProperties": False,
    }
    return schema


def _closed(schema: Any) -> Any:
    """OpenAPI v3 as JSON Schema that refuses unknown fields wherever a schema names those it knows.

    Raises:
        ValueError: A schema leaves something open, which no check would then see.
    """
    if isinstance(schema, list):
        return [_closed(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    if schema.get("x-kubernetes-preserve-unknown-fields"):
        raise ValueError("a part of the schema is open")
    closed = {
        name: {key: _closed(value) for key, value in part.items()}
        if name in ("properties", "$defs")
        else _closed(part)
        for name, part in schema.items()
    }
    if schema.get("type") == "object" and "properties" in schema and "additionalProperties" not in schema:
        closed["additionalProperties"] = False
    if schema.get("x-kubernetes-int-or-string"):
        closed.pop("anyOf", None)
        closed["type"] = ["integer", "string"]
        if "pattern" in schema:  # of the text; patterns do not apply to numbers
            closed["pattern"] = schema["pattern"]
    return closed
