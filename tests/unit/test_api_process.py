"""`regraft serve api` as a process."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import gc, uvicorn
from regraft_api.server import serve
uvicorn.run = lambda *_, **__: print(gc.get_freeze_count(), len(gc.get_objects()))
serve()
"""


def test_what_is_loaded_at_the_start_is_not_looked_through_for_garbage_between_requests() -> None:
    urls = {"REGRAFT_DATABASE_URL": "postgresql://nowhere/x", "REGRAFT_REDIS_URL": "redis://nowhere"}
    done = subprocess.run([sys.executable, "-c", PROGRAM], env=urls, capture_output=True, text=True, check=True)
    frozen, left = map(int, done.stdout.split())
    assert frozen > 50_000
    assert left < frozen / 10
