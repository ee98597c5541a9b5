"""`regraft recipes`: the named defaults that come with Regraft."""

from __future__ import annotations

from typing import Annotated

import typer

from regraft import recipes
from regraft.errors import NotFoundError


def list_() -> None:
    """Name every recipe and say what it is."""
    width = max(map(len, recipes.names()))
    for name in recipes.names():
        typer.echo(f"{name:<{width}}  {recipes.about(name)}")


def show(name: Annotated[str, typer.Argument(help="A name from `regraft recipes list`.")]) -> None:
    """Print a recipe with its comments, ready to be copied into a job file."""
    if name not in recipes.names():
        raise NotFoundError(
            "no such recipe", field="recipe", value=name, remedy=f"There is: {', '.join(recipes.names())}."
        )
    typer.echo(recipes.text(name), nl=False)
