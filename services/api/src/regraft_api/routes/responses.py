"""What may come instead of an answer; `openapi` adds what is common to all, and the form of a problem."""

from __future__ import annotations

from typing import Any

Responses = dict[int | str, dict[str, Any]]

NOT_FOUND: Responses = {404: {"description": "There is no such thing, or it is another project's"}}
CONFLICT: Responses = {
    409: {"description": "The job's state does not allow this, or the same request is being worked on"}
}
CHANGED: Responses = {412: {"description": "The job has been changed since it was looked at"}}
NO_RANGE: Responses = {416: {"description": "There is nothing at this range"}}
GONE: Responses = {410: {"description": "It was deleted by the job's retention"}}
BUSY: Responses = {429: {"description": "A limit is reached; see Retry-After"}}
