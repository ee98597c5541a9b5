"""Disks that are full, fail, or lose power in the middle of a publication: cases 4, 5, 6, 10 of the catalogue.

Cases 7 and 8, HDF5 on a full disk and a killed HDF5 writer, are in `test_dataset_faults.py`.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from bounds import WITHIN
from fault_stage import newest
from plant import Plant

from helpers import eventually
from regraft.storage import is_published


def can_trace() -> bool:
    found = shutil.which("strace")
    return found is not None and subprocess.run(["strace", "-o", os.devnull, "true"], check=False).returncode == 0


needs_strace = pytest.mark.skipif(not can_trace(), reason="strace is not here or may not trace")

KILLED_AT = [
    "mkdir:signal=KILL:when=3",  # the draft
    *(f"write:signal=KILL:when={n}" for n in (7, 8, 9)),  # the state, the manifest, the word that it is there
    *(f"fsync:signal=KILL:when={n}" for n in (1, 3, 4, 5)),  # a file, the manifest, the draft, the folder around it
    *(f"rename:signal=KILL:when={n}" for n in (1, 2)),
]
FAILING = ["fsync:error=EIO:when=2", "write:error=EIO:when=8"]


@needs_strace
def test_a_publication_cut_short_anywhere_is_made_again_and_the_last_whole_one_kept(plant: Plant) -> None:
    """One job, whose every attempt but the last meets a fault at another system call of a publication."""
    patient = plant.settings.model_copy(update={"max_attempts": 100, "retry_max_seconds": 0.1})
    rules = [*KILLED_AT, *FAILING]
    plant.start_worker(patient, FAULT_STRACE=" ".join(["train", *rules]), FAULT_STEP_SECONDS="0.001")
    plant.struck()
    job = plant.submit(steps=100)
    plant.check(job, steps=100, within=min(WITHIN[4], WITHIN[5]))
    *disturbed, last = plant.stage(job).attempts
    assert [attempt.signal for attempt in disturbed] == [9] * len(KILLED_AT) + [None] * len(FAILING)
    assert [attempt.exit_status for attempt in disturbed[-len(FAILING) :]] == [1] * len(FAILING)
    assert last.status == "succeeded"


def test_a_damaged_checkpoint_is_not_gone_on_from(plant: Plant) -> None:
    plant.start_worker(FAULT_HOLD="12")
    job = plant.submit()
    plant.await_step(job, 12)
    plant.struck()
    os.kill(plant.children()[0], 9)
    run = Path(plant.settings.storage_root.removeprefix("file://")) / "jobs" / job / "train"
    state = run / "step-00000010" / "state"
    state.write_bytes(bytes([state.read_bytes()[0] ^ 1]) + state.read_bytes()[1:])
    assert not is_published(state.parent)
    plant.check(job, within=WITHIN[10])


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("mounting a tmpfs needs root")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_is_waited_for_and_what_was_saved_is_kept(plant: Plant, small_disk: Path) -> None:
    plant.settings = plant.settings.model_copy(update={"storage_uri": small_disk.as_uri()})
    plant.start_worker(FAULT_BALLAST=str(1 << 20))
    job = plant.submit()
    eventually(lambda: plant.stage(job).reason == "disk_full", what="the disk being full")
    kept = newest(small_disk / "jobs" / job / "train")[0]
    assert kept >= 5
    plant.struck()
    subprocess.run(["mount", "-o", "remount,size=64m", str(small_disk)], check=True)
    plant.check(job, within=WITHIN[6])
    assert plant.stage(job).attempts[0].reason_class == "capacity"
