"""Documents to arrays of token ids: gigatoken where its ids are those of Hugging Face `tokenizers`, else the latter.

`tokenizers` defines the ids. gigatoken gives the same ones at 50 times its speed (English, GPT-2 size vocabulary), but
it is young, so nothing is taken on trust: its ids are compared for a list of awkward strings when it is loaded, and
for a sample of every corpus while it is encoded (the first documents of each part of it, then every 997th, about 3 % of
the time). The first difference raises `DifferentIdsError`, and the dataset is then made again by `tokenizers` alone.

The trade-off: a difference in a document outside of the sample would not be seen. Where that is too little, use
`TextEncoder.encode`, which is `tokenizers` itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import NamedTuple, Protocol

import gigatoken
import numpy as np
import numpy.typing as npt
import orjson
from tokenizers import Tokenizer

from regraft.ports import Progress
from regraft_dataprep.tokenize import TextEncoder

Ids = npt.NDArray[np.int32]
"""Shape (tokens,)."""


class Encoded(NamedTuple):
    """Ids of several texts, one after the other."""

    ids: Ids
    lengths: npt.NDArray[np.int64]
    """Tokens of each text."""

    def rows(self) -> list[Ids]:
        """Each text's own: views."""
        ends = np.cumsum(self.lengths)
        return [self.ids[end - length : end] for end, length in zip(ends, self.lengths, strict=True)]


FIRST_DOCUMENTS = 4
EVERY = 997  # a prime: in step with no period that a corpus has
_LEAST_BATCH = 262_144  # bytes: less is not worth a thread
_MAX_BYTES = 65_536  # of a sampled document: a whole book would take `tokenizers` a second

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

    def encode(self, texts: Sequence[bytes]) -> Encoded:
        """Ids of each text, which is UTF-8."""


class DifferentIdsError(Exception):
    """The fast encoder and `tokenizers` disagree about a text. The message says which; it travels between processes."""


class ReferenceEncoder:
    """The `tokenizers` library. Uses all cores (`RAYON_NUM_THREADS` or `TOKENIZERS_PARALLELISM` limit that)."""

    name = "tokenizers"

    def __init__(self, encoder: TextEncoder) -> None:
        self._encoder = encoder

    def encode(self, texts: Sequence[bytes]) -> Encoded:
        """Ids of each text."""
        rows = self._encoder.encode([text.decode() for text in texts])
        lengths = np.fromiter(map(len, rows), dtype=np.int64, count=len(rows))
        return Encoded(np.fromiter(chain.from_iterable(rows), dtype=np.int32, count=int(lengths.sum())), lengths)


class GigatokenEncoder:
    """The gigatoken library. Uses all cores, or with `one_core` that of its caller, and then starts no thread.

    Raises:
        RuntimeError: it cannot load this tokenizer; it knows byte-level BPE and little else.
    """

    name = "gigatoken"

    def __init__(self, tokenizer: Tokenizer, *, one_core: bool = False) -> None:
        self._one_core = one_core
        self._definition = _for_gigatoken(tokenizer)
        self._fast: gigatoken.Tokenizer = gigatoken.Tokenizer.from_json(self._definition)

    def forget(self) -> None:
        """Load it again: it remembers every word that it has met, 100 bytes each, for ever."""
        del self._fast  # or both would be there for a moment
        self._fast = gigatoken.Tokenizer.from_json(self._definition)

    def encode(self, texts: Sequence[bytes]) -> Encoded:
        """Ids of each text."""
        if self._one_core or sum(map(len, texts)) < _LEAST_BATCH:
            return self._one_by_one(texts)
        rows = self._fast.encode_batch(list(texts)).layout
        return Encoded(rows.content.data.view(np.int32), np.diff(np.asarray(rows.offsets.data, dtype=np.int64)))

    def _one_by_one(self, texts: Sequence[bytes]) -> Encoded:
        """On one core as fast as a batch, whose result asks for a library that takes half a second to import."""
        rows = [self._fast.encode(text) for text in texts]
        lengths = np.fromiter(map(len, rows), dtype=np.int64, count=len(rows))
        return Encoded(np.concatenate([np.empty(0, np.uint32), *rows]).view(np.int32), lengths)


class CheckedEncoder:
    """Encodes the documents of one part of a corpus in their order, and compares a sample."""

    def __init__(self, encoder: Encoder, reference: Encoder, *, part: str) -> None:
        self._encoder = encoder
        self._reference = reference
        self._part = part
        self._seen = 0

    def encode(self, texts: Sequence[bytes]) -> Encoded:
        """Ids of each document's text.

        Raises:
            DifferentIdsError: those of a document in the sample are wrong.
        """
        encoded = self._encoder.encode(texts)
        if self._encoder is not self._reference:
            self._check(texts, encoded)
        self._seen += len(texts)
        return encoded

    def _check(self, texts: Sequence[bytes], encoded: Encoded) -> None:
        numbers = range(self._seen, self._seen + len(texts))
        sample = [at for at, number in enumerate(numbers) if number < FIRST_DOCUMENTS or number % EVERY == 0]
        names = [f"document {numbers[at] + 1} of {self._part}" for at in sample]
        short = [_cut(texts[at]) for at in sample]
        rows = encoded.rows()
        found = [
            rows[at] if len(text) == len(texts[at]) else self._encoder.encode([text]).ids
            for at, text in zip(sample, short, strict=True)
        ]
        _compare(names, found, self._reference.encode(short).rows())


@dataclass(frozen=True, slots=True)
class Loaded:
    """A tokenizer, loaded for both encoders. Loading starts no thread."""

    tokenizer: TextEncoder
    fast: GigatokenEncoder | None
    """None: a kind of tokenizer that gigatoken does not know, which is no fault."""


def load_both(encoder: TextEncoder, *, one_core: bool = False) -> Loaded:
    """`encoder`, loaded for gigatoken as well where that is possible."""
    try:
        return Loaded(encoder, GigatokenEncoder(encoder.tokenizer, one_core=one_core))
    except RuntimeError:
        return Loaded(encoder, None)


def fastest_encoder(loaded: Loaded, progress: Progress) -> str:
    """The name of the fastest encoder with the ids of `tokenizers`; the job's history says which one it is."""
    reference = ReferenceEncoder(loaded.tokenizer)
    same = loaded.fast is not None and _gives_same_ids(loaded.fast, reference, loaded.tokenizer.tokenizer, progress)
    name = GigatokenEncoder.name if same else reference.name
    progress.event(f"text is encoded by {name}")
    return name


class PartEncoders:
    """The encoder of one name, loaded once for all parts of a corpus."""

    def __init__(self, name: str, loaded: Loaded) -> None:
        self.name = name
        self._reference = ReferenceEncoder(loaded.tokenizer)
        self._fast = None if name == self._reference.name else loaded.fast

    def of(self, part: str) -> CheckedEncoder:
        """One with a fresh sample."""
        return CheckedEncoder(self._fast or self._reference, self._reference, part=part)

    def forget(self) -> None:
        """Give back what it remembers of the texts it has met."""
        if self._fast is not None:
            self._fast.forget()


def _gives_same_ids(fast: Encoder, reference: Encoder, tokenizer: Tokenizer, progress: Progress) -> bool:
    texts = _awkward_texts(tokenizer)
    raw = [text.encode() for text in texts]
    try:
        _compare([f"the text {text[:40]!a}" for text in texts], fast.encode(raw).rows(), reference.encode(raw).rows())
    except DifferentIdsError as error:
        progress.event(f"{error}; this tokenizer is left to tokenizers", level="warn")
        return False
    return True


def _for_gigatoken(tokenizer: Tokenizer) -> bytes:
    # What gigatoken does not know as special is text to it, as `encode_special_tokens` tells `tokenizers`. Neither is
    # to add anything to a text, which is the post-processor's business.
    content = orjson.loads(tokenizer.to_str())
    if tokenizer.encode_special_tokens:
        content["added_tokens"] = [token for token in content["added_tokens"] if not token["special"]]
    return orjson.dumps({**content, "post_processor": None})


def _awkward_texts(tokenizer: Tokenizer) -> list[str]:
    added = sorted(token.content for token in tokenizer.get_added_tokens_decoder().values())
    return [*AWKWARD, "\n".join(AWKWARD), *(f"a{token}b {token} {token}{token}" for token in added)]


def _compare(names: Sequence[str], found: Sequence[Ids], expected: Sequence[Ids]) -> None:
    for name, ids, right in zip(names, found, expected, strict=True):
        if not np.array_equal(ids, right):
            position = _first_difference(ids, right)
            raise DifferentIdsError(f"gigatoken and tokenizers differ on {name} from token {position} on")


def _first_difference(ids: Ids, right: Ids) -> int:
    common = min(len(ids), len(right))
    places = np.flatnonzero(ids[:common] != right[:common])
    return int(places[0]) if places.size else common


def _cut(text: bytes) -> bytes:
    """Its beginning, in whole characters."""
    return text if len(text) <= _MAX_BYTES else text[:_MAX_BYTES].decode(errors="ignore").encode()
