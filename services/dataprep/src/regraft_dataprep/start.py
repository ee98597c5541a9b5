"""The way into a preparation for programs: hands load while this process imports.

`pipeline.prepare` does the same and starts them a third of a second later. The trade-off: how much there is to do is
guessed from the sizes of local files; for a corpus elsewhere hands are started when it is known. Nothing heavy is
imported here.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from regraft.errors import RegraftError
from regraft.ports import Progress
from regraft.specs.stages import PrepareResult, PrepareTask
from regraft.storage import local_path
from regraft_dataprep.hands import Hands
from regraft_dataprep.resources import PART_BYTES, Resources

_LOOKED_AT = 1000
"""Files: with more than that there is enough to do."""


def prepare(
    task: PrepareTask, progress: Progress | None = None, *, resources: Resources | None = None
) -> PrepareResult:
    """Prepare a dataset, or find it prepared; see `pipeline.prepare`."""
    resources = resources or Resources()
    with Hands(tokenizer_uri=task.tokenizer_uri, special_tokens=task.dataset.special_tokens) as hands:
        if resources.processes_for(_bytes(task) // PART_BYTES) > 1:
            hands.start()
        from regraft_dataprep.pipeline import prepare as run

        return run(task, progress, resources=resources, hands=hands)


def _bytes(task: PrepareTask) -> int:
    """Of local files and of those right in local folders; 0 for all others, and for what is adopted as it is."""
    if task.dataset.source == "hdf5":
        return 0
    return sum(path.stat().st_size for uri in task.dataset.uris for path in islice(_files(uri), _LOOKED_AT))


def _files(uri: str) -> Iterator[Path]:
    try:
        path = local_path(uri, field="dataset.uri")
    except RegraftError:
        return  # elsewhere, or wrong, which is found out in its turn
    yield from (file for file in (path.iterdir() if path.is_dir() else [path]) if file.is_file())
