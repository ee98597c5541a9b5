"""What to train on."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from regraft.specs.base import Spec


class ValidationSpec(Spec):
    """Which documents are held out."""

    fraction: float = Field(0.1, gt=0.0, lt=1.0)
    """Share of the documents that is held out."""
    order: Literal["chronological"] = "chronological"
    """`chronological`: the latest documents are held out."""


class DatasetSpec(Spec):
    """A corpus and how it becomes token windows."""

    source: str = "trc2"
    """Reader of the corpus: the name of a file in `regraft_dataprep/sources`."""
    uri: str = Field(min_length=1)
    """Where the corpus lies: `file:///...` or a path."""
    tokenizer: str = "checkpoint"
    """`checkpoint` (the base checkpoint's own), or a path or URI of a tokenizer directory or `tokenizer.json`."""
    max_sequence_length: int = Field(512, ge=2, le=1_048_576)
    """Tokens in a training window (MSL); at most the model's own number of positions."""
    validation: ValidationSpec = ValidationSpec()
    """The held-out part."""
    examples_per_file: int = Field(50_000, ge=1)
    """Windows in one HDF5 file."""
