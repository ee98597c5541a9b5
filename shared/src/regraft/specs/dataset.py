"""What to train on."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, field_validator

from regraft.specs.base import Spec
from regraft.specs.cleaning import CORRECTED, CleaningStep


class ValidationSpec(Spec):
    """Which documents are held out."""

    fraction: float = Field(0.1, gt=0.0, lt=1.0)
    """Share of the documents that is held out."""
    order: Literal["chronological"] = "chronological"
    """`chronological`: the latest documents are held out."""


def _names_something(value: str | tuple[str, ...]) -> str | tuple[str, ...]:
    if not value or not all(value):
        raise ValueError("give one or several, none of them empty")
    return value


Text = Annotated[str, Field(min_length=1)]
OneOrSeveral = Annotated[str | tuple[str, ...], AfterValidator(_names_something)]


class ReadingSpec(Spec):
    """How the records of a corpus are read; each source uses what it has use for (see docs/sources.md)."""

    text_key: OneOrSeveral | None = None
    """Column or JSON key of the text; several are joined by a newline. Null: `text`; for csv `headline` and `story`."""
    id_key: Text | None = None
    """Column or JSON key of the document's id. Null: documents are numbered."""
    date_key: Text | None = None
    """Column or JSON key of an ISO 8601 date or time. Null: undated, in file order; for csv `date`, if there is one."""
    documents: Literal["file", "paragraph"] = "file"
    """For text: a document per file, or per paragraph that blank lines set apart."""
    max_bad_records: int = Field(0, ge=0)
    """Records that may be unreadable and are left out; one more fails the stage."""

    @field_validator("text_key")
    @classmethod
    def _one_key_is_itself(cls, value: str | tuple[str, ...] | None) -> str | tuple[str, ...] | None:
        """The same reading has one spelling, and so one dataset."""
        return value[0] if isinstance(value, tuple) and len(value) == 1 else value


class DatasetSpec(Spec):
    """A corpus and how it becomes token windows."""

    source: str = "trc2"
    """Reader of the corpus: the name of a file in `regraft_dataprep/sources`."""
    uri: OneOrSeveral
    """Where the corpus lies, or a list of such places: a file, a folder, a glob, each as a path or an fsspec URL."""
    reading: ReadingSpec = ReadingSpec()
    """How its records are read."""
    cleaning: tuple[CleaningStep, ...] = CORRECTED
    """Steps that every document goes through, in this order; none: texts stay as the source gives them."""
    tokenizer: str = "checkpoint"
    """`checkpoint` (the base checkpoint's own), or a path or URI of a tokenizer directory or `tokenizer.json`."""
    max_sequence_length: int = Field(512, ge=2, le=1_048_576)
    """Tokens in a training window (MSL); at most the model's own number of positions."""
    validation: ValidationSpec = ValidationSpec()
    """The held-out part."""
    examples_per_file: int = Field(50_000, ge=1)
    """Windows in one HDF5 file."""

    @property
    def uris(self) -> tuple[str, ...]:
        """`uri` as a list, whichever way it was given."""
        return (self.uri,) if isinstance(self.uri, str) else self.uri
