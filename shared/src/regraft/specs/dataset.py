"""What to train on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, field_validator, model_validator

from regraft.specs.base import Spec
from regraft.specs.cleaning import CORRECTED, DROP_INVALID, CleaningStep, NearDuplicatesStep, gives_raw_texts
from regraft.specs.dataset_presets import Preset, filled_in


def _names_something(value: str | tuple[str, ...]) -> str | tuple[str, ...]:
    if not value or not all(value):
        raise ValueError("give one or several, none of them empty")
    return value


Text = Annotated[str, Field(min_length=1)]
OneOrSeveral = Annotated[str | tuple[str, ...], AfterValidator(_names_something)]
Share = Annotated[float, Field(ge=0.0, le=1.0)]
SpecialTokens = Literal["text", "recognised"]


class ValidationSpec(Spec):
    """Which documents are held out."""

    fraction: float = Field(0.1, gt=0.0, lt=1.0)
    """Share of the documents that is held out; not used with `uri`."""
    order: Literal["chronological", "hashed", "last"] = "chronological"
    """`chronological`: the latest documents, of undated ones the last. `hashed`: by a hash of the document's id (of its
    text where it has none), so that a document stays on its side when the corpus grows. `last`: the last ones in the
    order of the corpus, whatever their dates, their number rounded down."""
    uri: OneOrSeveral | None = None
    """Files of documents to hold out, in the same format; all of `dataset.uri` is then trained on."""
    near_duplicates: float | None = Field(0.8, gt=0.0, le=1.0)
    """Estimated share of common token triples (Jaccard) from which on a held-out document counts as one that is trained
    on as well, and is trained on; with `uri` it is dropped. Null: not looked for."""

    @property
    def uris(self) -> tuple[str, ...]:
        """`uri` as a list, whichever way it was given."""
        return () if self.uri is None else (self.uri,) if isinstance(self.uri, str) else self.uri


class PackingSpec(Spec):
    """How token streams become windows of `max_sequence_length` tokens."""

    pack_sequences: bool = True
    """Documents follow one another, parted by EOS, and are cut wherever a window is full. False: every document has
    windows of its own, the last of them padded."""
    remainder: Literal["pad", "drop"] = "pad"
    """What becomes of the last, short window of a split: padded under mask 0, or dropped as the reference tools do."""
    short_seq_prob: float = Field(0.0, ge=0.0, lt=1.0)
    """Share of windows that are cut to a random length, and padded; what is cut off starts the next window."""
    seed: int = Field(0, ge=0, lt=2**63)
    """Of the random lengths."""
    document_boundaries: bool = False
    """Adds two rows to every window, attention_span and position_ids, for attention that stays within documents."""

    @model_validator(mode="after")
    def _apart_means_whole(self) -> PackingSpec:
        if not self.pack_sequences and (self.remainder == "drop" or self.short_seq_prob):
            raise ValueError("remainder: drop and short_seq_prob are for packed sequences; set pack_sequences to true")
        return self


class RequirementsSpec(Spec):
    """What the corpus must prove to be, or the stage fails before anything is trained on it."""

    min_train_tokens: int | None = Field(None, ge=1)
    """Least number of tokens in the train split."""
    max_dropped_share: Share | None = None
    """Largest share of documents that cleaning may drop, empty ones included."""
    max_duplicate_share: Share | None = None
    """Largest share of documents that are dropped as duplicates, exact or near."""
    max_padding_share: Share | None = None
    """Largest share of padding in the train split."""
    max_eval_overlap: Share | None = None
    """Largest share of the held-out text (sampled spans of 13 tokens) that stands in the train split too."""
    max_tokens_per_word: float | None = Field(None, gt=0.0)
    """Largest number of tokens a word takes: a tokenizer that does not suit the language takes many."""
    languages: tuple[Text, ...] = ()
    """ISO 639-1 codes; the most frequent language guessed must be one of them. Empty: any."""


class ReadingSpec(Spec):
    """How the records of a corpus are read; each source uses what it has use for (see docs/sources.md)."""

    text_key: OneOrSeveral | None = None
    """Column or JSON key of the text; several are joined by a newline. Null: `text`; for csv `headline` and `story`."""
    id_key: Text | None = None
    """Column or JSON key of the document's id. Null: documents have none."""
    date_key: Text | None = None
    """Column or JSON key of an ISO 8601 date or time. Null: undated, in file order; for csv `date`, if there is one."""
    documents: Literal["file", "paragraph", "shard"] = "file"
    """For text: a document per file, or per paragraph that blank lines set apart. For trc2 `shard`: a document per
    `lines_per_shard` lines of the file, wherever its stories begin and end, and the last of them is lost, as the
    documented split of TRC2 has it; otherwise a document per story."""
    lines_per_shard: int = Field(10_000, ge=1)
    """Lines in one document of `documents: shard`."""
    max_bad_records: int = Field(0, ge=0)
    """Records that may be unreadable and are left out; one more fails the stage."""

    @field_validator("text_key")
    @classmethod
    def _one_key_is_itself(cls, value: str | tuple[str, ...] | None) -> str | tuple[str, ...] | None:
        """The same reading has one spelling, and so one dataset."""
        return value[0] if isinstance(value, tuple) and len(value) == 1 else value

    @model_validator(mode="after")
    def _shards_have_lines(self) -> ReadingSpec:
        if self.documents != "shard" and self.lines_per_shard != type(self).model_fields["lines_per_shard"].default:
            raise ValueError("lines_per_shard is for documents: shard")
        return self


class DatasetSpec(Spec):
    """A corpus and how it becomes token windows."""

    preset: Preset = "corrected"
    """Named defaults for what is not given below. `corrected`: those that are shown. `reference`, for source trc2: the
    arrays that the documented steps for TRC2 make, their losses included (docs/data-preparation.md)."""
    source: str = "trc2"
    """Reader of the corpus: the name of a file in `regraft_dataprep/sources`."""
    uri: OneOrSeveral
    """Where the corpus lies, or a list of such places: a file, a folder, a glob, each as a path or an fsspec URL."""
    reading: ReadingSpec = ReadingSpec()
    """How its records are read."""
    cleaning: tuple[CleaningStep, ...] = CORRECTED
    """Steps that every document goes through, in this order; none: texts stay as the source gives them. Source trc2
    gives cleaned stories, unless a rule of its cleaning is among the steps."""
    tokenizer: str = "checkpoint"
    """`checkpoint` (the base checkpoint's own), or a path or URI of a tokenizer directory or `tokenizer.json`."""
    special_tokens: SpecialTokens = "text"
    """Special tokens that are spelt out in a document: `text`, encoded as its letters, or `recognised`."""
    max_sequence_length: int = Field(512, ge=2, le=1_048_576)
    """Tokens in a training window (MSL); at most the model's own number of positions."""
    validation: ValidationSpec = ValidationSpec()
    """The held-out part."""
    packing: PackingSpec = PackingSpec()
    """How windows are made of documents."""
    require: RequirementsSpec = RequirementsSpec()
    """Bounds on what the corpus turns out to be."""
    examples_per_file: int = Field(50_000, ge=1)
    """Windows in one HDF5 file."""

    @model_validator(mode="before")
    @classmethod
    def _fill_in_the_preset(cls, raw: object) -> object:
        return filled_in(raw) if isinstance(raw, Mapping) else raw

    @model_validator(mode="after")
    def _suits_the_source(self) -> DatasetSpec:
        if self.preset == "reference" and self.source != "trc2":
            raise ValueError("the preset reference is for source trc2")
        if self.reading.documents == "shard" and (self.source != "trc2" or not gives_raw_texts(self.cleaning)):
            raise ValueError("reading.documents: shard is for source trc2, with the rules of its cleaning as steps")
        return self

    @field_validator("cleaning")
    @classmethod
    def _text_in_the_end(cls, steps: tuple[CleaningStep, ...]) -> tuple[CleaningStep, ...]:
        if gives_raw_texts(steps) and DROP_INVALID not in steps:
            raise ValueError(f"rules for TRC2 need {DROP_INVALID} too: bytes that are no UTF-8 are no text")
        return steps

    @field_validator("cleaning")
    @classmethod
    def _compared_once(cls, steps: tuple[CleaningStep, ...]) -> tuple[CleaningStep, ...]:
        exact = sum(step == "drop_duplicates" for step in steps)
        near = sum(isinstance(step, NearDuplicatesStep) for step in steps)
        if exact > 1 or near > 1:
            raise ValueError("documents are compared once: name drop_duplicates and drop_near_duplicates once each")
        return steps

    @property
    def uris(self) -> tuple[str, ...]:
        """`uri` as a list, whichever way it was given."""
        return (self.uri,) if isinstance(self.uri, str) else self.uri
