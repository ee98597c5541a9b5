"""Pieces of a corpus: from lists of ids in memory, or from texts by the real writer and a tokenizer of whole words."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tokenizers import Tokenizer, models, pre_tokenizers

from regraft.specs.cleaning import CleaningStep
from regraft_dataprep.cleaning import Cleaner
from regraft_dataprep.decide import Corpus, Sides
from regraft_dataprep.document import Document
from regraft_dataprep.encoders import CheckedEncoder, ReferenceEncoder
from regraft_dataprep.piece_writer import PieceOptions, PieceWriter
from regraft_dataprep.pieces import DOCUMENT, Piece, open_piece
from regraft_dataprep.sources.base import BadRecord
from regraft_dataprep.stream import SplitStream
from regraft_dataprep.tokenize import TextEncoder

EOS = 0
WORDS = 5000


class Row(NamedTuple):
    """A document, or a part of a long one, in a piece."""

    ids: list[int]
    """With EOS, unless it continues."""
    side: int
    continues: bool = False


def in_memory(rows: Sequence[Row]) -> tuple[Piece, Sides]:
    """A piece as `open_piece` gives it, and where its documents go."""
    documents = np.zeros(len(rows), dtype=DOCUMENT)
    documents["tokens"] = [len(row.ids) for row in rows]
    documents["continues"] = [row.continues for row in rows]
    ids = np.array([token for row in rows for token in row.ids], dtype="<u4")
    return Piece(ids, documents, np.empty(0, "<u8"), None, {}), np.array([row.side for row in rows], np.uint8)


def stream_of(pieces: Sequence[Sequence[Row]], *, side: int) -> SplitStream:
    """The tokens of one side of pieces in memory."""
    opened = [in_memory(rows) for rows in pieces]
    tokens = [sum(len(row.ids) for row in rows if row.side == side) for rows in pieces]
    return SplitStream(lambda number: opened[number], side=side, tokens=tokens)


@cache
def word_encoder() -> TextEncoder:
    """Every word `w0`, `w1` and so on is a token; all others are the unknown one."""
    vocabulary = {"<|endoftext|>": EOS, "<unk>": 1, **{f"w{number}": number + 2 for number in range(WORDS)}}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.encode_special_tokens = True
    return TextEncoder(tokenizer, len(vocabulary), EOS, digest="words", path=Path())


def words(numbers: Iterable[int]) -> str:
    """A text of these words."""
    return " ".join(f"w{number}" for number in numbers)


def write_piece(
    folder: Path,
    records: Sequence[Document | BadRecord],
    *,
    steps: Sequence[CleaningStep] = (),
    with_signatures: bool = True,
) -> Piece:
    """A piece on the disk."""
    folder.mkdir(parents=True)
    encoder = word_encoder()
    reference = ReferenceEncoder(encoder)
    options = PieceOptions(eos_id=EOS, vocab_size=encoder.vocab_size, with_signatures=with_signatures)
    checked = CheckedEncoder(reference, reference, part=folder.name)
    with PieceWriter(folder, cleaner=Cleaner(steps), encoder=checked, options=options) as writer:
        writer.write(records, tick=lambda documents, tokens: None, bad=lambda record, count: None)
        writer.finish()
    return open_piece(folder, vocab_size=encoder.vocab_size)


def corpus_of(
    folder: Path,
    parts: Sequence[Sequence[Document]],
    *,
    steps: Sequence[CleaningStep] = (),
    held_out: Sequence[bool] | None = None,
) -> Corpus:
    """A corpus of pieces on the disk."""
    folders = [folder / f"piece-{number}" for number in range(len(parts))]
    pieces = [write_piece(path, part, steps=steps) for path, part in zip(folders, parts, strict=True)]
    return Corpus(pieces, folders, held_out)
