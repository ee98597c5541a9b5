"""What `torch.save` wrote before 1.6 (or was told to): pickles, and behind them the storages, each after its length."""

from __future__ import annotations

from pathlib import Path

from regraft_worker.conversion.containers._torch_file import open_torch
from regraft_worker.conversion.containers.base import Container


def open_torch_legacy(path: Path) -> Container:
    """Open one file; its pickles are read by a child process that can make plain containers and tensors only.

    Raises:
        InvalidDataError: it asks for anything else, or is damaged.
    """
    return open_torch(path, "torch-legacy")
