"""A run whose checkpoints are kept in a bucket goes on wherever it is given a machine.

The newest whole checkpoint is brought here, and the best one that it names; of older ones the manifest alone, so that
retention knows them. What lies here of an earlier attempt and is older than the newest in the bucket, but not there,
belongs to a past that others have gone on from, and is deleted.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from regraft.errors import InvalidDataError
from regraft.ports import Progress
from regraft.storage import Mirror
from regraft_worker.trainer.folders import OPTIMIZER, STATE, step_folder, steps_in


def restore(run: Path, mirror: Mirror, progress: Progress) -> None:
    """Bring here what a run goes on from; nothing when nothing of it is kept.

    Raises:
        StorageFailedError: the store cannot be used.
    """
    uri = mirror.uri(run)
    names = [name for name in mirror.depot.artifacts(uri) if name.startswith("step-")]
    newest = next((name for name in reversed(names) if _bring(f"{uri}/{name}", mirror, progress)), None)
    if newest is None:
        return
    best = _best(run / newest)
    if best is not None and best.name in names:
        _bring(mirror.uri(best), mirror, progress, whole=False)
    for name in names:
        if not (run / name).is_dir():
            mirror.fetch_manifest(f"{uri}/{name}")
    for _, folder in steps_in(run):
        if folder.name < newest and folder.name not in names:
            shutil.rmtree(folder)


def _bring(uri: str, mirror: Mirror, progress: Progress, *, whole: bool = True) -> bool:
    """A checkpoint to go on from (`whole`: it has its optimiser's moments); damaged ones are reported."""
    name = uri.rpartition("/")[2]
    try:
        kept = mirror.depot.kept(uri)
        if kept is None or (whole and not any(entry.path == OPTIMIZER for entry in kept.manifest.files)):
            return False
        return mirror.fetch(uri, tick=lambda count: _look(progress))
    except InvalidDataError as error:
        progress.event(f"checkpoint {name} is skipped: {error}", level="warn", data={"checkpoint": name})
        return False


def _look(progress: Progress) -> None:
    progress.should_stop()  # asking says that there is life in here; training stops at its first step


def _best(folder: Path) -> Path | None:
    best = json.loads((folder / STATE).read_bytes()).get("best")
    return None if best is None else step_folder(folder.parent, int(best["step"]))
