"""Two seeds of `benchmarks/chaos.py`; figures for many are in docs/reliability.md."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

CHAOS = Path(__file__).parents[2] / "benchmarks" / "chaos.py"


def chaos(*options: str, **environment: str) -> tuple[int, dict[str, Any]]:
    """Its exit status and its summary."""
    command = [sys.executable, str(CHAOS), *options]
    done = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, check=False)
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout.splitlines()[-1])


def test_two_seeds_violate_nothing() -> None:
    status, summary = chaos("--seeds", "2", "--faults", "4", "--parallel", "2")
    assert (status, summary["violations"]) == (0, [])
    assert summary["faults"] + sum(summary["missed"].values()) == 8


def test_a_fault_that_finds_nobody_to_kill_is_not_counted() -> None:
    """The seed draws the kill of a stage process, twice; there is no job, so there is none."""
    status, summary = chaos("--seeds", "1", "--first-seed", "737", "--jobs", "0", "--faults", "2")
    assert (status, summary["faults"], summary["missed"]) == (0, 0, {"kill_stage_process": 2})


def test_a_computation_that_ends_elsewhere_is_found(tmp_path: Path) -> None:
    small = ("--seeds", "1", "--first-seed", "7", "--jobs", "1", "--faults", "0", "--folder", str(tmp_path))
    status, summary = chaos(*small, FAULT_START="elsewhere")
    assert (status, summary["violations"]) == (1, [7])
    assert (tmp_path / "seed-7" / "worker-0.log").exists()
