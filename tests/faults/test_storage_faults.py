"""Disks that are full, fail, or lose power in the middle of a publication: cases 4, 5, 6, 10 of the catalogue.

Cases 7 and 8, HDF5 on a full disk and a killed HDF5 writer, are in `tests/integration/test_prepare_faults.py`.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from fault_stage import newest
from plant import Plant

from helpers import eventually
from regraft.storage import is_published

PUBLISH = (
    "import sys; from pathlib import Path; from fault_stage import save; from regraft.ports import NullProgress;"
    "save(Path(sys.argv[1]), int(sys.argv[2]), 'state', NullProgress())"
)


def published_under(run: Path, step: int, *inject: str) -> int:
    """Publish a checkpoint with strace injecting faults; its exit status."""
    strace = [part for rule in inject for part in ("-e", f"inject={rule}")]
    command = ["strace", "-f", "-qq", "-o", os.devnull, *strace, sys.executable, "-c", PUBLISH, str(run), str(step)]
    path = os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parents[1])])
    return subprocess.run(command, env={**os.environ, "PYTHONPATH": path}, capture_output=True, check=False).returncode


def can_trace() -> bool:
    found = shutil.which("strace")
    return found is not None and subprocess.run(["strace", "-o", os.devnull, "true"], check=False).returncode == 0


needs_strace = pytest.mark.skipif(not can_trace(), reason="strace is not here or may not trace")


@needs_strace
@pytest.mark.parametrize(
    "rule",
    [f"fsync:signal=KILL:when={n}" for n in (1, 2, 4)]
    + ["rename:signal=KILL:when=1", "mkdir:signal=KILL:when=1", "fsync:error=EIO:when=2"],
)
def test_a_publication_cut_short_anywhere_leaves_the_last_whole_one(tmp_path: Path, rule: str) -> None:
    assert published_under(tmp_path, 5) == 0
    assert published_under(tmp_path, 10, rule) != 0
    assert newest(tmp_path)[0] == 5 or rule.startswith("rename")
    assert published_under(tmp_path, 10) == 0
    assert newest(tmp_path)[0] == 10
    assert not list(tmp_path.glob(".tmp-*"))


def test_a_damaged_checkpoint_is_not_gone_on_from(plant: Plant) -> None:
    plant.start_worker(FAULT_STEP_SECONDS="0.1")
    job = plant.submit()
    plant.await_step(job, 11)
    os.kill(plant.children()[0], 9)
    run = Path(plant.settings.storage_root.removeprefix("file://")) / "jobs" / job / "train"
    state = run / "step-00000010" / "state"
    state.write_bytes(bytes([state.read_bytes()[0] ^ 1]) + state.read_bytes()[1:])
    assert not is_published(state.parent)
    plant.check(job)


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
    subprocess.run(["mount", "-o", "remount,size=64m", str(small_disk)], check=True)
    plant.check(job)
    assert plant.stage(job).attempts[0].reason_class == "capacity"
