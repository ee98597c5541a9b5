"""One split's folder: packs documents, writes the shards, and reads them again before anybody else does.

The trade-off: reading back costs a few per cent of the time, and a full disk or a flipped bit shows here, with the
file's name, and not in the middle of a training run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from regraft.errors import InvalidDataError
from regraft.hdf5 import ShardWriter, validate_shard
from regraft_dataprep.document import Document
from regraft_dataprep.encoders import Ids
from regraft_dataprep.pack import Packer
from regraft_dataprep.stats import TextStats


@dataclass(frozen=True, slots=True)
class SplitTotals:
    """What went into a split and what came out."""

    documents: int
    characters: int
    bytes: int
    """Of the text in UTF-8."""
    tokens: int
    """Of the stream, each document's EOS among them."""
    examples: int
    loss_tokens: int
    """Labels that count in the loss: all of `tokens` but the first."""
    stats: dict[str, Any]
    """Words, lengths: see `regraft_dataprep.stats`."""


class SplitWriter:
    """Takes documents with their token ids, leaves a folder of verified shards. Memory: one batch."""

    def __init__(self, folder: Path, *, max_sequence_length: int, eos_id: int, examples_per_file: int) -> None:
        folder.mkdir()
        self.folder = folder
        self._packer = Packer(max_sequence_length, eos_id)
        self._shards = ShardWriter(folder, max_sequence_length=max_sequence_length, examples_per_file=examples_per_file)
        self._stats = TextStats()
        self._documents = 0
        self._characters = 0
        self._bytes = 0

    @property
    def tokens(self) -> int:
        """Tokens taken so far."""
        return self._packer.tokens

    @property
    def examples(self) -> int:
        """Windows written so far."""
        return self._shards.examples

    def add(self, documents: Sequence[Document], ids: Sequence[Ids]) -> None:
        """Append documents; `ids` has each one's tokens without EOS."""
        self._documents += len(documents)
        self._characters += sum(len(document.text) for document in documents)
        self._bytes += sum(_utf8_bytes(document.text) for document in documents)
        self._stats.add([document.text for document in documents], [len(one) for one in ids])
        self._shards.write(self._packer.add(ids))

    def finish(self, *, vocab_size: int) -> SplitTotals:
        """Write the last window, close, and verify every file by reading it.

        Raises:
            InvalidDataError: nothing to train on came out, or a file does not hold what was written.
        """
        self._shards.write(self._packer.finish())
        self._shards.close()
        loss_tokens = self._verified_labels(vocab_size=vocab_size)
        return SplitTotals(
            documents=self._documents,
            characters=self._characters,
            bytes=self._bytes,
            tokens=self._packer.tokens,
            examples=self._shards.examples,
            loss_tokens=loss_tokens,
            stats=self._stats.summary(),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._shards.close()

    def _verified_labels(self, *, vocab_size: int) -> int:
        length = self._packer.max_sequence_length
        labels = sum(
            validate_shard(path, max_sequence_length=length, vocab_size=vocab_size) for path in self._shards.paths
        )
        if not labels or labels != self._packer.tokens - 1:
            raise InvalidDataError(
                f"the {self.folder.name} files hold {labels} labels for {self._packer.tokens} tokens",
                value=str(self.folder),
                remedy="Check the disk (or, with 0 labels, the tokenizer) and prepare the dataset again.",
                reason="verification_failed",
            )
        return labels


def _utf8_bytes(text: str) -> int:
    # Python knows without looking whether a string is ASCII, as most are.
    return len(text) if text.isascii() else len(text.encode())
