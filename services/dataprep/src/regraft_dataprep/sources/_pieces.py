"""One document made of the fragments that are read of it; in several pieces when it is long.

A piece has about 16 MiB. It ends right before white space that follows something else, where tokenizers part words, and
no character is lost or added: all pieces together are the text without the white space at its ends. Where there is no
such place within 64 MiB, they are cut between characters. The trade-off: white space at the end of a document stays
where there was such a cut in it or right before it. Not for documents that must be whole.
"""

from __future__ import annotations

import codecs

from regraft_dataprep.document import Document

_PIECE_BYTES = 16 * 2**20
_MAX_PIECE_BYTES = 64 * 2**20
_BOM = "\ufeff"


class BrokenDocumentError(Exception):
    """A long document is no UTF-8."""

    def __init__(self, reason: str, position: int) -> None:
        super().__init__(reason, position)
        self.reason = reason
        self.position = position
        """Of the broken byte in the file."""


class Pieces:
    """A document in the making; `position` is that of its first byte in the file."""

    __slots__ = ("_cut", "_decoder", "_fragments", "_held", "_position", "_target", "_text")

    def __init__(self, position: int = 0) -> None:
        self._position = position
        """Of the fragments that are held."""
        self._fragments: list[bytes] = []
        self._held = 0
        self._target = _PIECE_BYTES
        self._decoder: codecs.IncrementalDecoder | None = None
        """There is one as soon as the document is long."""
        self._text = ""
        """Decoded and not yielded yet."""
        self._cut = False

    def add(self, fragment: bytes) -> Document | None:
        """The next piece, when enough is held and more follows for certain.

        Raises:
            BrokenDocumentError: the document is long and no UTF-8.
        """
        self._fragments.append(fragment)
        self._held += len(fragment)
        return self._piece() if self._held > self._target else None

    def finish(self) -> Document | str:
        """The rest of the document, or what is wrong with a short one."""
        if self._decoder:
            text = self._decoded(final=True)
            return Document(text.rstrip() or (text[:1] if self._cut else ""))
        try:
            text = b"".join(self._fragments).decode()
        except UnicodeDecodeError as error:
            return f"it is not valid UTF-8: {error.reason} at byte {error.start} of the document"
        return Document((text if self._position else text.removeprefix(_BOM)).strip())

    def _piece(self) -> Document | None:
        self._text = text = self._decoded()
        before, *last = text.rsplit(None, 1) or [""]
        if last:
            size = len(before)
        elif self._held > _MAX_PIECE_BYTES and text:
            size = len(text) - 1
        else:  # with nothing but white space so far, nothing is held
            self._target, self._held = (
                (min(2 * self._target, _MAX_PIECE_BYTES), self._held) if text else (_PIECE_BYTES, 0)
            )
            return None
        self._text = text[size:]
        self._held, self._target, self._cut = len(self._text), _PIECE_BYTES, True
        return Document(text[:size], continues=True)

    def _decoded(self, *, final: bool = False) -> str:
        first = self._decoder is None and not self._position
        self._decoder = self._decoder or codecs.getincrementaldecoder("utf-8")()
        data = b"".join(self._fragments)
        undecided = len(self._decoder.getstate()[0])
        try:
            text = self._decoder.decode(data, final)
        except UnicodeDecodeError as error:
            raise BrokenDocumentError(error.reason, self._position - undecided + error.start) from error
        self._fragments = []
        self._position += len(data)
        text = self._text + (text.removeprefix(_BOM) if first else text)
        return text if self._cut else text.lstrip()
