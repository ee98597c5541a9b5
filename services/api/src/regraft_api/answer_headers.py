"""What the headers of answers mean, for the API's description."""

from __future__ import annotations

from typing import Any

_TEXTS = {
    "Accept-Ranges": ("`bytes`: a part can be asked for with `Range`", "bytes"),
    "Content-Range": ("Which bytes these are, and of how many", "bytes 0-1023/81920"),
    "ETag": ("Names this state of it", '"v3"'),
    "Idempotent-Replayed": ("`true`: an earlier request with this Idempotency-Key has created the job", "true"),
    "Location": ("Where the job is", "/jobs/job-7c0ffee5eed1234a"),
    "Retry-After": ("Seconds after which to ask again", "5"),
    "WWW-Authenticate": ("Which kind of key is asked for (RFC 6750)", 'Bearer realm="regraft"'),
}
_Names = dict[str, tuple[str, ...]]
_OPTIONAL = {"Idempotent-Replayed"}
_CREATED: _Names = {"202": ("ETag", "Idempotent-Replayed", "Location")}
_ALWAYS: _Names = {
    "401": ("WWW-Authenticate",),
    "403": ("WWW-Authenticate",),
    "429": ("Retry-After",),
    "503": ("Retry-After",),
}
_OF: dict[str, _Names] = {
    "createJob": _CREATED,
    "cloneJob": _CREATED,
    "getJob": {"200": ("ETag",)},
    "updateJob": {"200": ("ETag",)},
    "getCheckpointFile": {
        "200": ("Accept-Ranges", "ETag"),
        "206": ("Accept-Ranges", "Content-Range", "ETag"),
        "304": ("ETag",),
    },
    "getJobLog": {
        "200": ("Accept-Ranges",),
        "206": ("Accept-Ranges", "Content-Range"),
        "416": ("Content-Range",),
    },
}


def headers_of(operation_id: str, status: str) -> dict[str, Any]:
    """Descriptions of the headers that an operation's answer of this status has."""
    names = (_ALWAYS | _OF.get(operation_id, {})).get(status, ())
    return {name: _described(name) for name in names}


def _described(name: str) -> dict[str, Any]:
    text, example = _TEXTS[name]
    required = {} if name in _OPTIONAL else {"required": True}
    return {"description": text, "schema": {"type": "string"}, "example": example, **required}
