"""Child process: looks into an HDF5 checkpoint on standard input without reading a tensor.

HDF5's parser trusts the structures it finds; a damaged or hostile file may crash it, keep it busy or make it ask for
memory. Here it can do so: the parent gets a description of what lies where, and reads the bytes itself.

A file is flat: one dataset for each leaf (to 0.4), or for each tensor with a JSON attribute of the root for every leaf
(0.5). The `__spec__` beside them, a pickle up to 0.4, is never looked at: names say what it says.
"""

from __future__ import annotations

from typing import Any

import h5py

from regraft_worker.conversion.containers._hdf5_json import described_leaves
from regraft_worker.conversion.containers._hdf5_layout import Places, datasets
from regraft_worker.conversion.containers._hdf5_leaves import Leaves, attribute, read_leaf, unquoted
from regraft_worker.conversion.containers._report import UNREADABLE, UNSUPPORTED, Refusal, answer, limit, shown

_MEMORY = 4 * 2**30
_SECONDS = 60
_FILE = 0
_VERSIONS = ("0.1", "0.2", "0.3", "0.4", "0.5")


def look_into_hdf5() -> dict[str, Any]:
    """What the file holds, and where."""
    with open(_FILE, "rb", buffering=0, closefd=False) as file:
        size = file.seek(0, 2)
        try:
            opened = h5py.File(file, "r")
        except (OSError, ValueError) as error:
            raise Refusal(UNREADABLE, f"it is no whole HDF5 file ({str(error)[:200]})") from error
        with opened:
            return _described(opened, size)


def _described(file: h5py.File, size: int) -> dict[str, Any]:
    version = _version(file)
    if version == "0.5" and not attribute(file, "__SUCCESS__"):
        raise Refusal(UNREADABLE, "it was never finished (no __SUCCESS__)")
    leaves = Leaves()
    places = Places(size)
    found, same = datasets(file)
    for path, dataset in found.items():
        read_leaf(leaves, path if version == "0.5" else unquoted(path), dataset, places)
    for name, target in same.items():
        leaves.links[name if version == "0.5" else unquoted(name)] = target if version == "0.5" else unquoted(target)
    if version == "0.5":
        described_leaves(leaves, file)
    places.check_apart()
    return {"version": version, **leaves.resolved()}


def _version(file: h5py.File) -> str:
    found = attribute(file, "__version__")
    version = "0.1" if found is None else str(found)
    if version not in _VERSIONS:
        raise Refusal(UNSUPPORTED, f"it is of the version {shown(version)}; {', '.join(_VERSIONS)} are read")
    return version


if __name__ == "__main__":
    limit(memory=_MEMORY, seconds=_SECONDS)
    answer(look_into_hdf5)
