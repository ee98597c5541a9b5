"""Documents to arrays of token ids: gigatoken where its ids are those of Hugging Face `tokenizers`, else the latter.

`tokenizers` defines the ids. gigatoken gives the same ones at 50 times its speed (English, GPT-2 size vocabulary), but
it is young, so nothing is taken on trust: its ids are compared for a list of awkward strings when it is loaded, and
for a sample of every corpus while it is encoded (the first 64 documents, then every 997th, about 3 % of the time).
The first difference raises `DifferentIdsError`, and the dataset is then made again by `tokenizers` alone.

The trade-off: a difference in a document outside of the sample would not be seen. Where that is too little, use
`TextEncoder.encode`, which is `tokenizers` itself.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import pairwise
from typing import Protocol

import gigatoken
import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from regraft.ports import Progress
from regraft_dataprep.document import Document
from regraft_dataprep.tokenize import TextEncoder

Ids = npt.NDArray[np.int32]
"""Shape (tokens,)."""

FIRST_DOCUMENTS = 64
EVERY = 997  # a prime: in step with no period that a corpus has
_MAX_CHARACTERS = 65_536  # of a sampled document: a whole book would take `tokenizers` a second

AWKWARD = (
    "",
    " ",
    "\0",
    "\0\x01\x7f",
    "a\r\nb\r\n\r\n\tc\x0b\x0c d",
    "  two  blanks   before and after  ",
    "\n\n\n \n\t\n",
    "it's IT'S they'll WE'VE I'd 'tis 's''re",
    "1234567890 3.14 1,000,000 \u00bd \u00b2 \u0663\u0664 \u216b",
    "caf\u00e9 cafe\u0301 \u1e69\u0323 \ufb01 na\u00efve \u01c5",
    "\u65e5\u672c\u8a9e\u3002 \ud55c\uad6d\uc5b4 \u0627\u0644\u0639 \u05e9\u05dc \u0e44\u0e17\u0e22 \u0939\u093f\u0928",
    "\U0001f468\u200d\U0001f469\u200d\U0001f467 \U0001f1e9\U0001f1ea \U0001d4b3 \U00020bb7 \U0010ffff",
    "\u00a0no\u2003break\u200bzero\u2028line\u2029par\u3000wide\ufeffmark\u0085next",
    "\u00ad \ufffd \ufffe \ue000 \u202edda \u0300alone",
    "http://example.com/?q=a&b=%20#x <b>bold</b> {}[]()|\\^~`",
    "a" * 1000 + " " + "ab" * 500,
    " " * 300 + "x" + "\n" * 300,
    "0123456789" * 100,
    "=-" * 300 + "_" * 100,
    "\U0001f600" * 200,
)


class Encoder(Protocol):
    """Text to ids: no special tokens added, none recognised."""

    name: str

    def encode(self, texts: Sequence[str]) -> list[Ids]:
        """Ids of each text."""


class DifferentIdsError(Exception):
    """The fast encoder and `tokenizers` disagree about a text."""

    def __init__(self, text: str, *, position: int) -> None:
        super().__init__(f"gigatoken and tokenizers differ on {text} from token {position} on")
        self.position = position


class ReferenceEncoder:
    """The `tokenizers` library. Uses all cores (`RAYON_NUM_THREADS` or `TOKENIZERS_PARALLELISM` limit that)."""

    name = "tokenizers"

    def __init__(self, encoder: TextEncoder) -> None:
        self._encoder = encoder

    def encode(self, texts: Sequence[str]) -> list[Ids]:
        """Ids of each text."""
        return [np.array(ids, dtype=np.int32) for ids in self._encoder.encode(texts)]


class GigatokenEncoder:
    """The gigatoken library. Uses all cores (`RAYON_NUM_THREADS` limits that).

    Raises:
        RuntimeError: it cannot load this tokenizer; it knows byte-level BPE and little else.
    """

    name = "gigatoken"

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._fast = gigatoken.Tokenizer.from_json(_without_special_tokens(tokenizer))

    def encode(self, texts: Sequence[str]) -> list[Ids]:
        """Ids of each text: views into one array."""
        rows = self._fast.encode_batch([text.encode() for text in texts]).layout
        ids: Ids = rows.content.data.view(np.int32)  # from uint32, without a copy
        return [ids[start:end] for start, end in pairwise(rows.offsets.data.tolist())]


class DatasetEncoder:
    """Encodes the documents of one dataset in their order, and compares a sample. Made by `open_encoder`."""

    def __init__(self, encoder: Encoder, reference: Encoder) -> None:
        self.name = encoder.name
        self._encoder = encoder
        self._reference = reference
        self._seen = 0

    def encode(self, documents: Sequence[Document]) -> list[Ids]:
        """Ids of each document's text.

        Raises:
            DifferentIdsError: those of a document in the sample are wrong.
        """
        ids = self._encoder.encode([document.text for document in documents])
        if self._encoder is not self._reference:
            self._check(documents, ids)
        self._seen += len(documents)
        return ids

    def _check(self, documents: Sequence[Document], ids: Sequence[Ids]) -> None:
        numbers = range(self._seen, self._seen + len(documents))
        sample = [at for at, number in enumerate(numbers) if number < FIRST_DOCUMENTS or number % EVERY == 0]
        names = [f"document {documents[at].id} (number {numbers[at] + 1})" for at in sample]
        texts = [documents[at].text[:_MAX_CHARACTERS] for at in sample]
        found = [
            ids[at] if len(text) == len(documents[at].text) else self._encoder.encode([text])[0]
            for at, text in zip(sample, texts, strict=True)
        ]
        _compare(names, found, self._reference.encode(texts))


def open_encoder(encoder: TextEncoder, progress: Progress) -> DatasetEncoder:
    """The fastest encoder with the ids of `encoder`; the job's history says which one it is."""
    reference = ReferenceEncoder(encoder)
    chosen = _fast_encoder(encoder, reference, progress) or reference
    progress.event(f"text is encoded by {chosen.name}")
    return DatasetEncoder(chosen, reference)


def reference_encoder(encoder: TextEncoder) -> DatasetEncoder:
    """The `tokenizers` library, however slow."""
    reference = ReferenceEncoder(encoder)
    return DatasetEncoder(reference, reference)


def _fast_encoder(encoder: TextEncoder, reference: Encoder, progress: Progress) -> Encoder | None:
    try:
        fast = GigatokenEncoder(encoder.tokenizer)
    except RuntimeError:
        return None  # a kind of tokenizer that gigatoken does not know, which is no fault
    texts = _awkward_texts(encoder.tokenizer)
    try:
        _compare([f"the text {text[:40]!a}" for text in texts], fast.encode(texts), reference.encode(texts))
    except DifferentIdsError as error:
        progress.event(f"{error}; this tokenizer is left to tokenizers", level="warn")
        return None
    return fast


def _without_special_tokens(tokenizer: Tokenizer) -> str:
    # What gigatoken does not know as special is text to it. Nothing is lost: `tokenizers` is told the same by
    # `encode_special_tokens`, and neither is to add anything to a text, which is the post-processor's business.
    content = json.loads(tokenizer.to_str())
    content["added_tokens"] = [token for token in content["added_tokens"] if not token["special"]]
    return json.dumps({**content, "post_processor": None})


def _awkward_texts(tokenizer: Tokenizer) -> list[str]:
    added = sorted(token.content for token in tokenizer.get_added_tokens_decoder().values())
    return [*AWKWARD, "\n".join(AWKWARD), *(f"a{token}b {token} {token}{token}" for token in added)]


def _compare(names: Sequence[str], found: Sequence[Ids], expected: Sequence[Ids]) -> None:
    for name, ids, right in zip(names, found, expected, strict=True):
        if not np.array_equal(ids, right):
            raise DifferentIdsError(name, position=_first_difference(ids, right))


def _first_difference(ids: Ids, right: Ids) -> int:
    common = min(len(ids), len(right))
    places = np.flatnonzero(ids[:common] != right[:common])
    return int(places[0]) if places.size else common
