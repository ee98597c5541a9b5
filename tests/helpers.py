"""Small things that several tests need."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from regraft.jobstore import Keys, Scope, make_engine
from regraft.settings import Settings
from regraft.specs import JobSpec


def spec(**changes: Any) -> JobSpec:
    """A valid job whose inputs need not exist."""
    job = {
        "name": "test",
        "dataset": {"uri": "/data/corpus"},
        "base_checkpoint": {"uri": "/models/base"},
        "target": {"kind": "cpu"},
    }
    return JobSpec.model_validate({**job, **changes})


def key_for(settings: Settings, scope: Scope = Scope.ADMIN, *, project: str = "default") -> dict[str, str]:
    """The headers of a request with a new key."""
    engine = make_engine(settings)
    try:
        _, key = Keys(engine, project=project).create(name="test", scope=scope)
    finally:
        engine.dispose()
    return {"Authorization": f"Bearer {key}"}


def eventually(condition: Callable[[], object], *, seconds: float = 30.0, what: str = "it") -> Any:
    """Wait for a condition to hold; its value, or an assertion error after `seconds`."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if value := condition():
            return value
        time.sleep(0.05)
    raise AssertionError(f"{what} did not happen within {seconds} s")
