"""Where the checkpoints of a run lie: `<run>/step-<8 digits>`."""

from __future__ import annotations

import re
from pathlib import Path

STATE = "training_state/state.json"
OPTIMIZER = "training_state/optimizer.safetensors"
REPORTS = "training_state/reports.jsonl"

_FOLDER = re.compile(r"step-(\d{8,})")


def step_folder(run: Path, step: int) -> Path:
    """Where the checkpoint of a step is."""
    return run / f"step-{step:08d}"


def steps_in(run: Path) -> list[tuple[int, Path]]:
    """Step and folder of every checkpoint that is there, whole or not, in no order."""
    if not run.is_dir():
        return []
    matches = ((_FOLDER.fullmatch(folder.name), folder) for folder in run.iterdir() if folder.is_dir())
    return [(int(match[1]), folder) for match, folder in matches if match]
