"""Opening a file once: the child that looks into it and the mapping that reads it get the same one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from regraft_worker.conversion.containers._mapped import Mapped
from regraft_worker.conversion.containers.base import UNREADABLE, refused


@contextmanager
def opened(path: Path) -> Iterator[tuple[Mapped, int]]:
    """The file mapped, and its descriptor while the context lasts. The mapping outlives it, but not an error."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise refused(path, UNREADABLE, f"it cannot be read ({error.strerror})") from error
    try:
        mapped = Mapped(path, descriptor)
        try:
            yield mapped, descriptor
        except BaseException:
            mapped.close()
            raise
    finally:
        os.close(descriptor)
