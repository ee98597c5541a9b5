"""Checkpoint files of every encoding, opened for reading: which tensors they hold, and their rows when asked for.

The encoding is told by the first bytes, never by the name. Everything in a file is a stranger's word: it is checked
before anything of it is used, pickles and HDF5 structures in a child process with limits, so that a hostile file ends
as an `InvalidDataError` and as nothing else. The trade-off is that child: opening costs a tenth of a second and more.

When not to use it: for folders, which are `regraft.checkpoint_files`' matter.

Importing this package imports no reader and no torch: the child processes are modules of it.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from regraft_worker.conversion.containers.base import Container

_HEAD_BYTES = 32
_LEGACY_MAGIC = b"\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."  # LONG1 0x1950a86a20f9469cfc6c, STOP
_ENCODINGS = "safetensors, torch's zip or legacy pickle, HDF5"


def open_container(path: Path) -> Container:
    """Open a checkpoint file of any encoding.

    Raises:
        InvalidDataError: it cannot be read (`unreadable_checkpoint`), would do harm (`unsafe_checkpoint`), or is of
            a kind that is not read (`unsupported_checkpoint`).
    """
    from regraft_worker.conversion.containers import hdf5, safetensors, torch_legacy, torch_zip
    from regraft_worker.conversion.containers.base import UNSUPPORTED, refused

    head = _head(path)
    if head.startswith(b"\x89HDF\r\n\x1a\n"):
        return hdf5.open_hdf5(path)
    if head.startswith(b"PK\x03\x04"):
        return torch_zip.open_torch_zip(path)
    if head[:1] == b"\x80" and _LEGACY_MAGIC in head:
        return torch_legacy.open_torch_legacy(path)
    if head[8:9] == b"{":
        return safetensors.open_safetensors(path)
    raise refused(path, UNSUPPORTED, f"its first bytes are those of none of {_ENCODINGS}")


def _head(path: Path) -> bytes:
    from regraft_worker.conversion.containers.base import UNREADABLE, refused

    if not path.is_file():  # a pipe or a device would block or never end
        raise refused(path, UNREADABLE, "it is no file")
    try:
        with path.open("rb") as file:
            return file.read(_HEAD_BYTES)
    except OSError as error:
        raise refused(path, UNREADABLE, f"it cannot be read ({error.strerror})") from error
