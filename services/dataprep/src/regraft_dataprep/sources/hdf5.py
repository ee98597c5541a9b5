"""HDF5 files that are tokenised already: windows, not documents, so nothing is cleaned, tokenised or packed.

What this source finds is checked and taken over as it is by `regraft_dataprep.adopt`. Files of every layout that
`regraft.hdf5.Dataset` reads are read.
"""

from __future__ import annotations

from collections.abc import Iterator

from regraft.errors import InvalidInputError
from regraft.specs.dataset import ReadingSpec
from regraft_dataprep.document import Document
from regraft_dataprep.sources._files import Uris
from regraft_dataprep.sources.base import BadRecord, Part, Source


class Hdf5Source(Source):
    """Windows in HDF5 files."""

    suffixes = (".h5", ".hdf5")

    def read(self, part: Part) -> Iterator[Document | BadRecord]:
        """Raises InvalidInputError: there are no documents here."""
        raise InvalidInputError("HDF5 files hold windows, and no documents", field="dataset.source", value="hdf5")


def open_source(uri: Uris, *, reading: ReadingSpec | None = None) -> Source:
    """The plug-in's entry."""
    return Hdf5Source(uri, reading=reading)
