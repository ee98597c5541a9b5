"""Whether the places that a run names are there, and where the cluster can see them.

What cannot be seen from here is whether the cluster really mounts a folder; that it is said to is checked.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from regraft.errors import InvalidInputError
from regraft_worker.cerebras.given import Asked


def check_places(asked: Asked) -> None:
    """Refuse a run that cannot go well.

    Raises:
        InvalidInputError: naming the setting, its value, and what to do.
    """
    cluster = asked.cluster
    for name in ("mgmt_address", "mgmt_namespace"):
        if not cluster.get(name):
            raise InvalidInputError(
                "must be given: what the client finds by itself may be another cluster",
                field=f"--{name}",
                remedy=f"Give it, in the file too, or set REGRAFT_CEREBRAS_{name.upper()}.",
            )
    for name in ("mount_dirs", "python_paths"):
        for folder in cluster.get(name, ()):
            if not Path(folder).is_dir():
                raise InvalidInputError("there is no such folder", field=f"--{name}", value=folder)
    for name, path in (("credentials_path", cluster.get("credentials_path")), _checkpoint(asked)):
        if path and not Path(str(path)).is_file():
            raise InvalidInputError("there is no such file", field=f"--{name}", value=path)
    for where, folder in _folders(asked):
        _check_data(folder, where, asked)
    _check_batches(asked)


def _checkpoint(asked: Asked) -> tuple[str, object]:
    return "checkpoint_path", asked.control.get("checkpoint_path")


def _folders(asked: Asked) -> Iterator[tuple[str, Path]]:
    for where, section in asked.inputs:
        parts = section.get("mixture") or [section]
        for part in parts if isinstance(parts, list) else []:
            found = part.get("data_dir") if isinstance(part, dict) else None
            for folder in found if isinstance(found, list) else [found] if found else []:
                yield f"{where}.data_dir", Path(str(folder))


def _check_data(folder: Path, where: str, asked: Asked) -> None:
    if not folder.is_dir():
        raise InvalidInputError("there is no such folder", field=where, value=str(folder))
    if next(folder.glob("*.h5"), None) is None:
        raise InvalidInputError("there are no .h5 files directly in this folder", field=where, value=str(folder))
    mounted = [Path(place).resolve() for place in asked.cluster.get("mount_dirs", ())]
    if not any(folder.resolve().is_relative_to(place) for place in mounted):
        raise InvalidInputError(
            "is in none of the folders that the cluster mounts",
            field=where,
            value=str(folder),
            remedy="Add its folder with --mount_dirs; the cluster must see it at the same path.",
        )


def _check_batches(asked: Asked) -> None:
    systems = asked.cluster.get("num_csx", 1)
    if not isinstance(systems, int) or systems < 1:
        raise InvalidInputError("must be a whole number of at least 1", field="--num_csx", value=systems)
    for where, section in asked.inputs:
        size = section.get("batch_size")
        if isinstance(size, int) and size % systems:
            raise InvalidInputError(
                f"is not divided evenly among {systems} systems",
                field=f"{where}.batch_size",
                value=size,
                remedy="Change it, or --num_csx.",
            )
