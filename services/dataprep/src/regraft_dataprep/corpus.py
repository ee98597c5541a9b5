"""The files of a dataset: those to train on, and those to hold out where the dataset names them apart."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from itertools import chain

from regraft.specs.cleaning import gives_raw_texts
from regraft.specs.dataset import DatasetSpec
from regraft_dataprep.document import Document
from regraft_dataprep.sources import open_source
from regraft_dataprep.sources.base import PART_BYTES, BadRecord, Inventory, Part, Source


class CorpusFiles:
    """One or two sources, cut into stretches of about `part_bytes`: parts of a large file, or some small files."""

    def __init__(self, spec: DatasetSpec, *, part_bytes: int = PART_BYTES) -> None:
        uris = [spec.uris, spec.validation.uris] if spec.validation.uri else [spec.uris]
        raw = gives_raw_texts(spec.cleaning)
        self.sources: list[Source] = [open_source(spec.source, uri=uri, reading=spec.reading, raw=raw) for uri in uris]
        self.stretches = [
            (source, parts) for source in self.sources for parts in _together(source, part_bytes=part_bytes)
        ]
        """All parts, in the order of the corpus."""

    @property
    def held_out(self) -> list[bool] | None:
        """Whether each stretch was named to be held out; None when the split decides."""
        return [source is not self.sources[0] for source, _ in self.stretches] if len(self.sources) > 1 else None

    @property
    def stray_lines(self) -> int:
        """Lines outside of any document, in all parts read so far."""
        return sum(source.stray_lines for source in self.sources)

    def read(self, number: int) -> Iterator[Document | BadRecord]:
        """The documents of a stretch."""
        source, parts = self.stretches[number]
        return chain.from_iterable(map(source.read, parts))

    def name(self, number: int) -> str:
        """A stretch, for messages."""
        source, parts = self.stretches[number]
        name = source.files[parts[0].file].name
        return f"{name} from {parts[0].start} on" if parts[0].start else name

    def inventory(self) -> Inventory:
        """Of all files."""
        found = [source.inventory() for source in self.sources]
        if len(found) == 1:
            return found[0]
        digest = hashlib.sha256("\n\n".join(one.sha256 for one in found).encode()).hexdigest()
        digests = tuple(chain.from_iterable(one.digests for one in found))
        return Inventory(digest, sum(one.bytes for one in found), len(digests), digests)

    def check_unchanged(self) -> None:
        """Raises InvalidDataError when a file was changed since this object was made."""
        for source in self.sources:
            source.check_unchanged()


def _together(source: Source, *, part_bytes: int) -> Iterator[list[Part]]:
    """Neighbouring small files in one stretch: a corpus of a million files is not a million units of work."""
    group: list[Part] = []
    held = 0
    for part in source.parts(part_bytes=part_bytes):
        whole = part.start == 0 and part.end is None
        size = (source.files[part.file].size() if whole else None) or part_bytes
        if group and held + size > part_bytes:
            yield group
            group, held = [], 0
        group.append(part)
        held += size
    if group:
        yield group
