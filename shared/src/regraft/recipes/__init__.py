"""Recipes: named defaults for a job, one YAML file each. What a job says itself always wins."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

FOLDER = Path(__file__).parent


def names() -> list[str]:
    """The recipes there are, sorted."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def text(name: str) -> str:
    """The file of a recipe, with what it says about itself.

    Raises:
        ValueError: there is no such recipe.
    """
    if name not in names():
        raise ValueError(f"no recipe is called {name!r}; there is: {', '.join(names())}")
    return (FOLDER / f"{name}.yaml").read_text(encoding="utf-8")


def about(name: str) -> str:
    """The first sentence of its comment."""
    comment = " ".join(line.removeprefix("# ") for line in text(name).splitlines() if line.startswith("# "))
    return comment.partition(". ")[0].partition(" What differs")[0]


def fill(job: Mapping[str, Any]) -> dict[str, Any]:
    """The job with everything it leaves out taken from its recipe.

    Raises:
        ValueError: there is no such recipe.
    """
    return _merge(yaml.safe_load(text(job["recipe"])), job)


def _merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        old = merged.get(key)
        merged[key] = _merge(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return merged
