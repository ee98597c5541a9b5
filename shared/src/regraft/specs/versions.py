"""What a worker of the minor version before can read of a job.

A worker refuses a spec with a field that it does not know, because it cannot know what it would leave undone. So that
an API that was upgraded first stops no job, a field that is new in this minor version carries `since` and is not
written while it has its default: what the older worker does without it is what the default means.

    buckets: int = Field(1, json_schema_extra={"since": "0.2"})

A job that sets such a field needs workers of this version; older ones end it as `spec_unreadable`.
"""

from __future__ import annotations

from typing import Any

from pydantic.fields import FieldInfo

from regraft.specs.base import Spec

SINCE = "since"


def minor(version: str) -> tuple[int, int]:
    """The part of a version by which compatibility goes: `0.10.3` is (0, 10)."""
    first, second = version.split(".")[:2]
    return int(first), int(second)


def readable_before(spec: Spec, content: dict[str, Any], *, version: str) -> dict[str, Any]:
    """`content` (the spec as JSON, by alias) without new fields of `version`'s minor that have their default."""
    kept = dict(content)
    for name, field in type(spec).model_fields.items():
        key = field.serialization_alias or field.alias or name
        if key not in kept:
            continue
        value = getattr(spec, name)
        if _is_new(field, version) and value == field.get_default(call_default_factory=True):
            del kept[key]
        else:
            kept[key] = _inner(value, kept[key], version)
    return kept


def _is_new(field: FieldInfo, version: str) -> bool:
    extra = field.json_schema_extra
    since = extra.get(SINCE) if isinstance(extra, dict) else None
    return isinstance(since, str) and minor(since) >= minor(version)


def _inner(value: object, content: Any, version: str) -> Any:
    if isinstance(value, Spec) and isinstance(content, dict):
        return readable_before(value, content, version=version)
    if isinstance(value, (list, tuple)) and isinstance(content, list) and len(value) == len(content):
        return [_inner(one, part, version) for one, part in zip(value, content, strict=True)]
    return content
