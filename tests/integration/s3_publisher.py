"""Publishes a folder and says how far it is, for a test that kills it; arguments: root, folder, URI, notes,
bytes of a part."""

from __future__ import annotations

import sys
from pathlib import Path

from regraft.storage.depot import Depot

root, folder, uri, notes, part_bytes = sys.argv[1:]


def tick(count: int) -> None:
    if count:
        print(count, flush=True)
        sys.stdin.readline()  # no further before the test says so


Depot(root, notes=Path(notes), part_bytes=int(part_bytes)).publish(Path(folder), uri, tick=tick)
