"""Manifests against the schemas of a Kubernetes version, strictly: a field that does not exist is an error."""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
from custom_resources import SCHEMAS
from referencing import Registry, Resource

OLDEST, NEWEST = "1.25.0", "1.37.0"
"""The oldest that the chart admits, and the newest whose schemas there are."""
FOLDER = Path(kubernetes_validate.__file__).parent / "kubernetes-json-schema"


def problems(manifest: dict[str, Any], version: str = NEWEST) -> list[str]:
    """What is wrong with a manifest: path and message."""
    key = (manifest["apiVersion"], manifest["kind"])
    found = (_custom(*key) if key in SCHEMAS else _validator(*key, version)).iter_errors(manifest)
    return [f"{'.'.join(map(str, error.absolute_path))}: {error.message}" for error in found]


@cache
def _custom(api_version: str, kind: str) -> Any:
    return jsonschema.Draft202012Validator(SCHEMAS[api_version, kind])


@cache
def _validator(api_version: str, kind: str, version: str) -> Any:
    # The package reads a megabyte of definitions for every manifest; here they are read once.
    group = re.sub(r"^([^./]*)(?:\.[^/]*)?/", r"\1-", api_version)
    schema = json.loads((FOLDER / f"v{version}-local-strict/{kind.lower()}-{group}.json").read_text())
    registry = Resource.from_contents(schema) @ _definitions(version)
    return jsonschema.Draft202012Validator(schema, registry=registry)


@cache
def _definitions(version: str) -> Registry[Any]:
    content = json.loads((FOLDER / f"v{version}-local-strict/_definitions.json").read_text())
    return Resource.from_contents(content) @ Registry()
