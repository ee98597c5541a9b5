"""Two seeds of `benchmarks/chaos.py`; figures for many are in docs/reliability.md."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

CHAOS = Path(__file__).parents[2] / "benchmarks" / "chaos.py"


def test_two_seeds_violate_nothing() -> None:
    command = [sys.executable, str(CHAOS), "--seeds", "2", "--faults", "4"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["faults"] == 8
