"""Small things that several tests need."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from regraft.jobstore import Claim, Keys, Leases, Scope, make_engine
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


def claimed(leases: Leases, job_id: str, stage: str) -> Claim:
    """The claim of a stage that is ready."""
    claim = leases.claim(f"{job_id}.{stage}", worker="w")
    assert claim is not None
    return claim


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


def plant(folder: Path, script: str) -> Path:
    """A folder for PYTHONPATH with what every process is to do as it starts."""
    (folder / "planted").mkdir()
    (folder / "planted" / "sitecustomize.py").write_text(script)
    return folder / "planted"


def children(pid: int) -> list[int]:
    """Processes that a process has started, whichever of its threads did; the last one last."""
    found: list[int] = []
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):  # it has ended
            found += map(int, path.read_text().split())
    return sorted(found)


def hands(pid: int) -> list[int]:
    """Those of a data preparation that runs in process `pid`: forked from the one that it has started for them."""
    return [hand for origin in origins(pid) for hand in children(origin)]


def origins(pid: int) -> list[int]:
    """The process that hands are forked from, if process `pid` has one now; it may have other children."""
    return [child for child in children(pid) if b"regraft_dataprep.origin" in _command(child)]


def has_origin(pid: int) -> bool:
    """True when a data preparation in process `pid` has left a process behind."""
    return bool(origins(pid))


def _command(pid: int) -> bytes:
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""
