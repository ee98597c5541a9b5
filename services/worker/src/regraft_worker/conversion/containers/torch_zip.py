"""What `torch.save` has written since 1.6: a zip of stored parts, a pickle that describes and one part per storage."""

from __future__ import annotations

from pathlib import Path

from regraft_worker.conversion.containers._torch_file import open_torch
from regraft_worker.conversion.containers.base import Container


def open_torch_zip(path: Path) -> Container:
    """Open one file; its pickle is read by a child process that can make plain containers and tensors only.

    Raises:
        InvalidDataError: it asks for anything else, is no plain torch zip, or is damaged.
    """
    return open_torch(path, "torch-zip")
