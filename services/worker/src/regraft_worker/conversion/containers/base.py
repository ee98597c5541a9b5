"""What every reader returns, and the one way in which they all refuse."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from regraft.errors import InvalidDataError
from regraft_worker.conversion.lazy import Lazy

UNREADABLE = "unreadable_checkpoint"
UNSAFE = "unsafe_checkpoint"
UNSUPPORTED = "unsupported_checkpoint"

_REMEDIES = {
    UNREADABLE: "Download or write the file again.",
    UNSAFE: "Use a file from a source you trust, or save its tensors as safetensors where it was made.",
    UNSUPPORTED: "Save the tensors as safetensors, or as a plain dictionary with torch.save.",
}


@dataclass(frozen=True, slots=True)
class Opaque:
    """A leaf that is no tensor and no plain value: it is known to be there, and is never loaded."""

    what: str


@dataclass(frozen=True)
class Container:
    """An open checkpoint file. Names are those of the file, nested ones joined by dots.

    Rows are views of the mapped file where they lie there as they are: copy them before changing them.
    """

    path: Path
    encoding: str
    """`safetensors`, `torch-zip`, `torch-legacy`, `hdf5-0.1` to `hdf5-0.5`."""
    tensors: Mapping[str, Lazy]
    """Every tensor under every name it has, in the order of the file."""
    values: Mapping[str, object]
    """Every other leaf: int, float, bool, str, None or `Opaque`."""
    aliases: Mapping[str, str]
    """Of a tensor that is there under several names, each later name to the first one: same values, stored once."""
    release: Callable[[], None]

    def close(self) -> None:
        """Let go of the file; rows that were handed out stay valid, others can no longer be read."""
        self.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def refused(path: Path, reason: str, cause: str) -> InvalidDataError:
    """The error for a file that is not read."""
    return InvalidDataError(
        f"the checkpoint file {path.name} is not read: {cause}",
        field="checkpoint",
        value=str(path),
        remedy=_REMEDIES[reason],
        reason=reason,
    )
