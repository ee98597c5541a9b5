"""A small form of `benchmarks/fleet.py`, to its end; the figures of a large one are in docs/scale.md."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

FLEET = Path(__file__).parents[2] / "benchmarks" / "fleet.py"


def test_a_small_fleet_drains_its_queue_to_the_end() -> None:
    small = ("--workers", "10", "--jobs", "5", "--processes", "1", "--samples", "3")
    done = subprocess.run([sys.executable, str(FLEET), *small], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    said = {line["what"]: line for line in map(json.loads, done.stdout.splitlines())}
    drain = said["drain"]
    assert (drain["stages"], drain["left"], drain["deadlocks"]) == (25, 0, 0)
    assert drain["heartbeats"] > 0
    assert {"ready", "claim", "report", "renew", "finish"} <= set(drain["milliseconds"])
    assert drain["wal_bytes_per_stage"] > 1000
    assert said["seed"]["stages"] == 25
    assert said["claim_queued"]["ready"] == 10
