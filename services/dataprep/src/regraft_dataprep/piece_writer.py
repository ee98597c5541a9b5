"""One part of the corpus to a piece: read, clean, tokenise, sketch, write. Runs in any process, needs no other part.

Documents go through in batches, so memory is that of a batch whatever the part's size. What is dropped and why is
kept per document, because later steps count by it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from datetime import UTC
from itertools import repeat
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import orjson

from regraft_dataprep.clean import ESCAPED
from regraft_dataprep.cleaning import Cleaned, Cleaner
from regraft_dataprep.document import Document
from regraft_dataprep.encoders import CheckedEncoder
from regraft_dataprep.pieces import DOCUMENT, NO_DATE, SIGNATURE, token_dtype
from regraft_dataprep.sketches import sampled_spans, signatures, triples
from regraft_dataprep.sources.base import BadRecord

BATCH_DOCUMENTS = 1000
BATCH_CHARACTERS = 2 * 2**20
BAD_SHOWN = 20
EXAMPLES = 5
_EXAMPLE_CHARACTERS = 300

Tick = Callable[[int, int], None]
"""Told after every batch how many documents and tokens the part has come to."""


@dataclass(frozen=True, slots=True)
class PieceOptions:
    """What the writing of a piece depends on, beside its part."""

    eos_id: int
    vocab_size: int
    with_signatures: bool


@dataclass(slots=True)
class _Facts:
    """Counts of a piece; the content of facts.json."""

    records: int = 0
    """Documents in the source, those without text among them."""
    empty: int = 0
    rows: int = 0
    tokens: int = 0
    spans: int = 0
    bad: int = 0
    bad_first: list[dict[str, Any]] = field(default_factory=list)
    examples: list[dict[str, str]] = field(default_factory=list)
    """Texts that cleaning has changed, before and after, around the first difference."""
    stray_lines: int = 0
    sizes: int = 0
    """Columns of sizes.bin; 0: there is none."""


class PieceWriter:
    """Writes the files of a piece into a folder."""

    def __init__(self, folder: Path, *, cleaner: Cleaner, encoder: CheckedEncoder, options: PieceOptions) -> None:
        self.facts = _Facts(sizes=cleaner.sizes)
        self._folder, self._cleaner, self._encoder, self._options = folder, cleaner, encoder, options
        self._dtype = token_dtype(options.vocab_size)
        self._named = self._within = False
        self._files = ExitStack()
        self._ids, self._documents, self._spans = (self._open(name) for name in ("ids", "documents", "spans"))
        self._signatures = self._open("signatures") if options.with_signatures else None
        self._sizes = self._open("sizes") if cleaner.sizes else None
        self._names = self._open("names", kind="json")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._files.close()

    def write(
        self, records: Iterable[Document | BadRecord], *, tick: Tick, bad: Callable[[BadRecord, int], None]
    ) -> None:
        """All documents of a part; `bad` is told each bad record and their number, and may raise."""
        for batch in _batches(self._with_text(records, bad)):
            self._write_batch(batch)
            tick(self.facts.records, self.facts.tokens)

    def finish(self) -> None:
        """What is known only at the end. The folder is a whole piece after it."""
        self._files.close()
        if not self._named:
            (self._folder / "names.json").unlink()
        (self._folder / "facts.json").write_bytes(orjson.dumps(asdict(self.facts)))

    def _open(self, name: str, *, kind: str = "bin") -> Any:
        return self._files.enter_context((self._folder / f"{name}.{kind}").open("wb"))

    def _with_text(
        self, records: Iterable[Document | BadRecord], bad: Callable[[BadRecord, int], None]
    ) -> Iterator[Document]:
        facts = self.facts
        for record in records:
            if isinstance(record, BadRecord):
                facts.bad += 1
                if len(facts.bad_first) < BAD_SHOWN:
                    facts.bad_first.append(asdict(record))
                bad(record, facts.bad)
                continue
            facts.records += 1
            if record.text:
                yield record
            else:
                facts.empty += 1

    def _write_batch(self, batch: list[Document]) -> None:
        cleaned = [self._clean(document) for document in batch]
        self._keep_examples(batch, cleaned)
        raw = [one.text.encode(errors=ESCAPED) for one in cleaned]
        rows = np.zeros(len(batch), dtype=DOCUMENT)
        rows["read"] = [len(document.text) for document in batch]
        rows["characters"] = [len(one.text) for one in cleaned]
        rows["bytes"] = [len(text) for text in raw]
        rows["dropped"] = [one.dropped for one in cleaned]
        rows["timestamp"] = [_seconds(document) for document in batch]
        rows["continues"] = [document.continues for document in batch]
        digests = [_digest(one, text) for one, text in zip(cleaned, raw, strict=True)]
        rows["digest"] = np.frombuffer(b"".join(digests), dtype="<u8").reshape(-1, 2)
        rows["key"] = rows["digest"][:, 0]
        self._name(batch, rows)
        self._encode(rows, raw)
        self._documents.write(rows.data)  # `tofile` says nothing of a full disk
        if self._sizes is not None:
            padded = [(*one.sizes, *repeat(0, self.facts.sizes - len(one.sizes))) for one in cleaned]
            self._sizes.write(np.array(padded, dtype="<u4").data)
        self.facts.rows += len(rows)

    def _clean(self, document: Document) -> Cleaned:
        cleaned = self._cleaner.clean(document.text)
        rest, self._within = self._within, document.continues
        # The last piece of a long document brings its EOS, whatever becomes of the piece.
        return Cleaned("", 0, "", cleaned.sizes) if cleaned.dropped and rest and not document.continues else cleaned

    def _name(self, batch: list[Document], rows: npt.NDArray[np.void]) -> None:
        for row, document in enumerate(batch):
            if document.id:
                rows["key"][row] = int.from_bytes(hashlib.sha256(document.id.encode()).digest()[:8], "little")
                self._named = True
        self._names.write(orjson.dumps([document.id for document in batch], option=orjson.OPT_APPEND_NEWLINE))

    def _encode(self, rows: npt.NDArray[np.void], raw: list[bytes]) -> None:
        """Tokens and sketches of the documents that were not dropped; fills in `tokens` and `spans`."""
        kept = np.flatnonzero(rows["dropped"] == 0)
        encoded = self._encoder.encode([raw[row] for row in kept])
        ended = ~rows["continues"][kept]
        lengths = encoded.lengths + ended
        ids = np.insert(encoded.ids, np.cumsum(encoded.lengths)[ended], self._options.eos_id).astype(self._dtype)
        rows["tokens"][kept] = lengths
        hashes = triples(ids, lengths)
        spans, counts = sampled_spans(ids, hashes, lengths)
        rows["spans"][kept] = counts
        if self._signatures is not None:
            signed = np.zeros((len(rows), SIGNATURE), dtype="<u4")
            signed[kept] = signatures(hashes, lengths)
            self._signatures.write(signed.data)
        self._ids.write(ids.data)
        self._spans.write(spans.data)
        self.facts.tokens += len(ids)
        self.facts.spans += len(spans)

    def _keep_examples(self, batch: list[Document], cleaned: list[Cleaned]) -> None:
        for document, one in zip(batch, cleaned, strict=True):
            if len(self.facts.examples) >= EXAMPLES:
                return
            if one.text is not document.text and one.text != document.text:
                self.facts.examples.append(_example(document.text, one.text))


def _batches(documents: Iterable[Document]) -> Iterator[list[Document]]:
    """Documents in their order, limited in number and in characters."""
    batch: list[Document] = []
    characters = 0
    for document in documents:
        batch.append(document)
        characters += len(document.text)
        if len(batch) >= BATCH_DOCUMENTS or characters >= BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


def _digest(cleaned: Cleaned, raw: bytes) -> bytes:
    """128 bits of the text that documents are compared by."""
    return hashlib.sha256(
        raw if cleaned.compared is cleaned.text else cleaned.compared.encode(errors=ESCAPED)
    ).digest()[:16]


def _seconds(document: Document) -> int:
    return NO_DATE if document.timestamp is None else int(document.timestamp.replace(tzinfo=UTC).timestamp())


def _example(before: str, after: str) -> dict[str, str]:
    shorter = min(len(before), len(after))
    same = next((at for at, (one, two) in enumerate(zip(before, after, strict=False)) if one != two), shorter)
    start = max(0, same - _EXAMPLE_CHARACTERS // 3)
    return {
        "before": _shown(before[start : start + _EXAMPLE_CHARACTERS]),
        "after": after[start : start + _EXAMPLE_CHARACTERS],
    }


def _shown(text: str) -> str:
    """Bytes that are no UTF-8 as the sign for such."""
    return text.encode(errors=ESCAPED).decode(errors="replace")
