"""Where the windows of a split begin and how long they are, and cutting them out of the token stream.

Every document of a split is closed by EOS, all of them form one stream, and a window at `start` of `length` pairs has
the tokens start to start + length - 1 as inputs and those one further on as labels. Windows follow one another without
gap or overlap, so each token of the stream but the very first is a label exactly once. This is the packing of the
Cerebras tool's `LMData` mode, except that the last, short window is padded and kept unless it is to be dropped, and
what `short_seq_prob` cuts off a window starts the next one and is not lost.

All of it follows from lengths, so any process can cut any window. The trade-off: attention crosses document borders
inside a window unless the two rows of `document_boundaries` are asked for and the model heeds them.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from regraft.specs.dataset import PackingSpec

FEATURES = ("input_ids", "attention_mask", "labels", "attention_span", "position_ids")

Block = npt.NDArray[np.int32]
"""Shape (windows, 3 or 5, M)."""


class Windows(NamedTuple):
    """Consecutive windows of a stream."""

    starts: npt.NDArray[np.int64]
    lengths: npt.NDArray[np.int64]
    """Pairs of input and label: M, or fewer."""

    @property
    def span(self) -> tuple[int, int]:
        """First and last token that they need, the last excluded."""
        return int(self.starts[0]), int(self.starts[-1] + self.lengths[-1] + 1)


class Evenly:
    """Windows of M pairs one after the other; the last one has what is left."""

    def __init__(self, tokens: int, *, max_sequence_length: int, drop: bool) -> None:
        pairs = max(tokens - 1, 0)
        self._length = max_sequence_length
        self.count = pairs // max_sequence_length if drop else -(-pairs // max_sequence_length)
        self.pairs = min(pairs, self.count * max_sequence_length)
        """Labels that count, over all windows."""

    def part(self, first: int, last: int) -> Windows:
        """Windows `first` to `last`, the last excluded."""
        starts = np.arange(first, last, dtype=np.int64) * self._length
        return Windows(starts, np.minimum(self._length, self.pairs - starts))


class Listed:
    """Windows of any lengths."""

    def __init__(self, windows: Windows) -> None:
        self.windows = windows
        self.count = len(windows.starts)
        self.pairs = int(windows.lengths.sum())

    def part(self, first: int, last: int) -> Windows:
        """Windows `first` to `last`, the last excluded."""
        return Windows(self.windows.starts[first:last], self.windows.lengths[first:last])


def plan_windows(
    documents: npt.NDArray[np.integer], packing: PackingSpec, *, max_sequence_length: int, stream: int
) -> Evenly | Listed:
    """The windows of a split whose documents have these numbers of tokens, EOS included.

    Args:
        documents: shape (documents,).
        stream: number of the split, so that two splits draw different random lengths.
    """
    tokens = int(documents.sum(dtype=np.int64))
    drop = packing.remainder == "drop"
    if not packing.pack_sequences:
        return Listed(_apart(documents.astype(np.int64), max_sequence_length))
    if not packing.short_seq_prob:
        return Evenly(tokens, max_sequence_length=max_sequence_length, drop=drop)
    lengths = _drawn(tokens - 1, packing, max_sequence_length, np.random.default_rng([packing.seed, stream]))
    starts = np.cumsum(lengths) - lengths
    short = bool(drop and len(lengths) and int(starts[-1] + lengths[-1]) > tokens - 1)
    lengths = np.minimum(lengths, tokens - 1 - starts)
    return Listed(Windows(starts[: len(starts) - short], lengths[: len(lengths) - short]))


def cut(tokens: npt.NDArray[np.int32], windows: Windows, *, max_sequence_length: int, eos_id: int) -> Block:
    """Inputs, mask and labels of windows; `tokens` are those of their span. Padding is EOS under mask 0."""
    size = (len(windows.starts), max_sequence_length)
    used = size[0] * size[1]
    block = np.empty((size[0], 3, size[1]), dtype=np.int32)
    if len(tokens) == used + 1 and int(windows.lengths.sum()) == used:  # all of them full, and one after the other
        block[:, 0], block[:, 1], block[:, 2] = tokens[:used].reshape(size), 1, tokens[1 : used + 1].reshape(size)
        return block
    places, inside = _places(windows, max_sequence_length)
    block[:, 0] = np.where(inside, tokens[places], eos_id)
    block[:, 1] = inside
    block[:, 2] = np.where(inside, tokens[places + inside], eos_id)
    return block


def boundaries(starts: npt.NDArray[np.int64], windows: Windows, *, max_sequence_length: int) -> Block:
    """attention_span and position_ids, shape (windows, 2, M); `starts` of documents, from the first window's start on.

    A position counts from its document's first token in the window; the span is the number of later tokens of that
    document in the window, those that may attend to it. EOS is its document's last token. Both are 0 on padding.
    """
    places, inside = _places(windows, max_sequence_length)
    begin = (windows.starts - windows.starts[0])[:, None]
    end = begin + windows.lengths[:, None]
    edges = np.concatenate([[0], starts, [np.iinfo(np.int64).max]])
    owner = np.searchsorted(edges, places, side="right")
    block = np.empty((len(places), 2, max_sequence_length), dtype=np.int32)
    block[:, 0] = np.where(inside, np.minimum(edges[owner], end) - 1 - places, 0)
    block[:, 1] = np.where(inside, places - np.maximum(edges[owner - 1], begin), 0)
    return block


def _places(windows: Windows, length: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """Where in the span's tokens each input stands, and whether it is none but padding; shape (windows, M)."""
    offsets = np.arange(length)
    inside = offsets < windows.lengths[:, None]
    return np.where(inside, (windows.starts - windows.starts[0])[:, None] + offsets, 0), inside


def _apart(documents: npt.NDArray[np.int64], length: int) -> Windows:
    """Each document's own windows: its pairs, cut every `length`."""
    pairs = np.maximum(documents - 1, 0)
    counts = -(-pairs // length)
    owners = np.repeat(np.arange(len(documents)), counts)
    within = (np.arange(len(owners)) - np.repeat(np.cumsum(counts) - counts, counts)) * length
    first = np.cumsum(documents) - documents
    return Windows(first[owners] + within, np.minimum(length, pairs[owners] - within))


def _drawn(pairs: int, packing: PackingSpec, length: int, random: np.random.Generator) -> npt.NDArray[np.int64]:
    """Lengths until `pairs` are covered: M, or with `short_seq_prob` anything from 2 to M - 1."""
    drawn, covered = [], 0
    while covered < pairs:
        count = (pairs - covered) // length + 1
        short = random.random(count) < packing.short_seq_prob
        lengths = np.where(short, random.integers(2, max(length, 3), count), length)
        drawn.append(lengths)
        covered += int(lengths.sum())
    lengths = np.concatenate(drawn) if drawn else np.empty(0, dtype=np.int64)
    return lengths[: int(np.searchsorted(np.cumsum(lengths), pairs)) + 1] if len(lengths) else lengths
