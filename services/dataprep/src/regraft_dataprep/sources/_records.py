"""From the fields of one record to a document: shared by the sources whose records have named fields.

Texts are taken as they are; only blank ones become empty, and the pipeline drops those. The trade-off: a field of the
wrong type is a bad record and never converted, as a number where a text should be is more often a wrong column.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime

from regraft.errors import InvalidDataError
from regraft.specs.dataset import ReadingSpec
from regraft_dataprep.document import Document
from regraft_dataprep.sources._files import FIELD, File

MAX_ID_BYTES = 255
"""Every document's id is kept, and written into the dataset's index."""


class _UnusableError(Exception):
    """Why a record is no document."""


@dataclass(frozen=True, slots=True)
class Keys:
    """Which fields to use."""

    text: tuple[str, ...]
    id: str | None
    date: str | None

    @property
    def all(self) -> list[str]:
        return list(dict.fromkeys((*self.text, *(key for key in (self.id, self.date) if key))))


def keys_of(reading: ReadingSpec, *, text: tuple[str, ...] = ("text",)) -> Keys:
    """Those that were asked for; `text` where none were."""
    wanted = reading.text_key
    chosen = text if wanted is None else (wanted,) if isinstance(wanted, str) else wanted
    return Keys(chosen, reading.id_key, reading.date_key)


def keys_in_effect(reading: ReadingSpec, *, text: tuple[str, ...] = ("text",)) -> ReadingSpec:
    """The keys alone; those of the text as null where they are the ones that null stands for."""
    keys = keys_of(reading, text=text)
    text_key = None if keys.text == text else reading.text_key
    return ReadingSpec(text_key=text_key, id_key=keys.id, date_key=keys.date)


def check_columns(columns: list[str], *, keys: Keys, file: File) -> None:
    """Raises InvalidDataError when a file lacks a column, or has it twice: every row would be bad."""
    missing = [key for key in keys.all if columns.count(key) != 1]
    if missing:
        names, found = (", ".join(map(repr, some)) for some in (missing, columns))
        raise InvalidDataError(
            f"the file has not exactly one column {names}; it has {found or 'none'}",
            field=FIELD,
            value=file.uri,
            remedy="Name the columns with dataset.reading.text_key, id_key and date_key.",
            reason="corpus_malformed",
        )


def document_of(values: Mapping[str, object], *, keys: Keys) -> Document | str:
    """The document that a record's fields make, or what is wrong with it."""
    try:
        if len(keys.text) == 1:
            text = _text(values, keys.text[0])
        else:
            text = "\n".join(filter(None, (_text(values, key) for key in keys.text)))
        if keys.id is None and keys.date is None:
            return Document(text)
        own_id = _id(_value(values, keys.id)) if keys.id else ""
        return Document(text, own_id, _moment(_value(values, keys.date)) if keys.date else None)
    except _UnusableError as error:
        return str(error)


def is_unicode(text: str) -> bool:
    """False with lone surrogates, which broken UTF-8 may be decoded to."""
    if text.isascii():  # known without a look at the text
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _value(values: Mapping[str, object], key: str) -> object:
    if key not in values:
        raise _UnusableError(f"it has no {key!r}")
    return values[key]


def _text(values: Mapping[str, object], key: str) -> str:
    """Empty when it is blank."""
    value = _value(values, key)
    if not isinstance(value, str):
        raise _UnusableError(f"{key!r} is {_kind(value)}, not a text")
    return "" if value.isspace() else value


def _id(value: object) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str) or not value:
        raise _UnusableError(f"the id is {_kind(value)}, not a text or a whole number")
    if len(value.encode()) > MAX_ID_BYTES:
        raise _UnusableError(f"the id is longer than {MAX_ID_BYTES} bytes")
    return value


def _moment(value: object) -> datetime:
    """Whole seconds, in UTC when it names its zone."""
    try:
        moment = datetime.fromisoformat(value.strip()) if isinstance(value, str) else value
        if isinstance(moment, date) and not isinstance(moment, datetime):
            moment = datetime(moment.year, moment.month, moment.day)
        if not isinstance(moment, datetime):
            raise _UnusableError(f"the date is {_kind(value)}, not an ISO 8601 date or time")
        moment = moment.astimezone(UTC) if moment.tzinfo else moment
        return moment.replace(microsecond=0, tzinfo=None)
    except (ValueError, OverflowError) as error:
        raise _UnusableError(f"the date {str(value)[:40]!r} is no ISO 8601 date or time") from error


def _kind(value: object) -> str:
    return "empty" if value in (None, "") else f"of type {type(value).__name__}"
