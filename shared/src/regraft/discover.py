"""Finds plug-ins by file name: a file dropped into a plug-in package is there, nothing else needs editing.

The only module that imports by name. The trade-off: import-linter cannot follow a name in a string, so whoever needs
a module whose name is known when the code is written imports it with an ordinary statement, and this stays small.
"""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, entry_points, version
from pathlib import Path
from types import ModuleType

from regraft.errors import InvalidInputError


def names(package: str) -> list[str]:
    """The plug-ins of `package`, sorted: its sub-modules, without `base` and those whose names start with `_`."""
    found = pkgutil.iter_modules(importlib.import_module(package).__path__)
    return sorted(module.name for module in found if module.name != "base" and not module.name.startswith("_"))


def load(package: str, name: str, *, field: str = "") -> ModuleType:
    """Import the plug-in `name` of `package`.

    Raises:
        InvalidInputError: there is none of that name; about `field`, listing those there are.
    """
    known = names(package)
    if name not in known:
        raise InvalidInputError(
            "there is no plug-in of this name",
            field=field,
            value=name,
            remedy=f"Available: {', '.join(known)}.",
            reason="unknown_plugin",
        )
    return importlib.import_module(f"{package}.{name}")


def folder_of(package: str) -> Path:
    """The folder an installed package lies in, without importing it.

    Raises:
        ModuleNotFoundError: it is not installed.
    """
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(f"No module named {package!r}", name=package)
    return Path(spec.submodule_search_locations[0])


def commands() -> dict[str, Callable[..., None]]:
    """Command line words (`serve api`, `prepare`) to the functions that installed services offer for them."""
    return {entry.name: entry.load() for entry in sorted(entry_points(group="regraft.commands"))}


def version_of(distribution: str) -> str:
    """The version that is installed; 0.0.0 when none is: run from its sources, as on a machine that is only lent."""
    try:
        return version(distribution)
    except PackageNotFoundError:
        return "0.0.0"
