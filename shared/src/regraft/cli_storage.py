"""`regraft storage clean`: what was begun in the bucket and never published."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated

import typer


def clean(
    older_than_days: Annotated[
        float, typer.Option(min=0.0, help="How long ago it must have been begun; longer than any upload takes.")
    ] = 7.0,
) -> None:
    """Delete unfinished uploads and objects that belong to no artifact; storage in a folder needs no cleaning."""
    from regraft.settings import Settings
    from regraft.storage import is_remote
    from regraft.storage.depot import Depot

    settings = Settings()
    if not is_remote(settings.storage_root):
        typer.echo("storage is a folder, which every start cleans itself")
        return
    depot = Depot(settings.storage_root, notes=settings.cache_folder / ".uploads")
    count = depot.remove_unfinished(older_than=timedelta(days=older_than_days))
    typer.echo(f"{count} unfinished uploads and left objects were deleted from {depot.root}")
