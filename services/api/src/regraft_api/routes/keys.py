"""`/keys`: who may call this API. For keys of the scope `admin`."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated

from fastapi import APIRouter, Body
from fastapi import Path as InPath

from regraft_api.dependencies import PLAIN, After, Caller, Limit
from regraft_api.routes.responses import NOT_FOUND
from regraft_api.schemas import Page
from regraft_api.schemas_fleet import KeyRequest, KeyView, NewKeyView
from regraft_api.strict_json import StrictRoute

router = APIRouter(prefix="/keys", tags=["keys"], route_class=StrictRoute)

EXAMPLES = {"reader": {"summary": "For a dashboard", "value": {"name": "dashboard", "scope": "read", "days": 365}}}


@router.post("", operation_id="createKey", status_code=201, summary="Make a key")
def create_key(request: Annotated[KeyRequest, Body(openapi_examples=EXAMPLES)], call: Caller) -> NewKeyView:
    """The answer is the only time that the key is shown: what is kept is its SHA-256."""
    lifetime = None if request.days is None else timedelta(days=request.days)
    row, key = call.keys.create(name=request.name, scope=request.scope, lifetime=lifetime)
    return NewKeyView(**KeyView.of(row).model_dump(), key=key)


@router.get("", operation_id="listKeys", summary="List keys")
def list_keys(call: Caller, after: After = None, limit: Limit = 20) -> Page[KeyView]:
    """Revoked ones too, in the order they were made."""
    rows, more = call.keys.page(after=after, limit=limit)
    return Page[KeyView].of([KeyView.of(row) for row in rows], more)


@router.delete("/{key_id}", operation_id="revokeKey", summary="Revoke a key", responses=NOT_FOUND)
def revoke_key(
    key_id: Annotated[str, InPath(max_length=64, pattern=PLAIN, description="The key's id")], call: Caller
) -> KeyView:
    """From now on it opens nothing."""
    return KeyView.of(call.keys.revoke(key_id))
