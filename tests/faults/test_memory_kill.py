"""A stage process that the kernel kills for want of memory, in a memory cgroup of its own: case 29."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from bounds import WITHIN
from plant import Plant

from helpers import eventually

ROOT = Path("/sys/fs/cgroup")
LIMIT = 384 << 20  # bytes; a worker needs about a quarter of it


@pytest.fixture
def group() -> Iterator[Path]:
    """A memory cgroup (version 1 or 2) with a limit."""
    first_version = (ROOT / "memory").is_dir()
    folder = ROOT / ("memory" if first_version else "") / f"regraft-test-{uuid.uuid4().hex[:8]}"
    limit = folder / ("memory.limit_in_bytes" if first_version else "memory.max")
    try:
        folder.mkdir()
        limit.write_text(str(LIMIT))
    except OSError as error:
        if folder.is_dir():
            folder.rmdir()
        pytest.skip(f"no memory cgroup can be made here: {error}")
    yield folder
    eventually(lambda: not (folder / "cgroup.procs").read_text(), what="the group's last process")
    folder.rmdir()


def test_a_kill_by_the_kernel_is_known_for_one_and_met_with_half_the_batch(plant: Plant, group: Path) -> None:
    worker = plant.start_worker(FAULT_ACT="eat@1")
    (group / "cgroup.procs").write_text(str(worker.pid))  # what it starts is born there
    try:
        plant.struck()
        job = plant.submit()
        plant.check(job, within=WITHIN[29])
        first, second = plant.stage(job).attempts
        assert (first.reason, first.reason_class, first.signal) == ("out_of_memory", "capacity", 9)
        assert second.status == "succeeded"
        assert plant.stage(job).override == {"micro_batch_size": 4}
        assert worker.poll() is None
    finally:
        plant.stop()
