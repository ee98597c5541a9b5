"""The JSON in the attributes of an HDF5 checkpoint of format 0.5: the nesting, and what each leaf is."""

from __future__ import annotations

import json
from collections.abc import Mapping

LEAF = "*"
_LEAF_SPEC = {"type": None, "context": None, "children_spec": []}


def nesting_json(tree: object) -> str:
    """`__spec__`: the nesting with leaves as `*`, and the same as torch's serialised tree specification."""
    return json.dumps([_starred(tree), json.dumps([1, _spec(tree)])], indent=4)


def leaf_json(name: str, fields: Mapping[str, object]) -> str:
    """`<name>.__metadata__`: a nesting of the one leaf, and what it is."""
    tree = {name: LEAF}
    content = {
        "__spec__": [tree, json.dumps([1, _spec(tree)])],
        "__objects__": [name],
        f"{name}.__metadata__": dict(fields),
    }
    return json.dumps(content, indent=4)


def _starred(node: object) -> object:
    if isinstance(node, dict):
        return {key: _starred(value) for key, value in node.items()}
    if isinstance(node, list | tuple):
        return [_starred(value) for value in node]
    return LEAF


def _spec(node: object) -> dict[str, object]:
    if not isinstance(node, dict | list | tuple):
        return _LEAF_SPEC
    below = list(node.values()) if isinstance(node, dict) else list(node)
    return {
        "type": f"{type(node).__module__}.{type(node).__qualname__}",
        "context": json.dumps(list(node) if isinstance(node, dict) else None),
        "children_spec": [_spec(child) for child in below],
    }
