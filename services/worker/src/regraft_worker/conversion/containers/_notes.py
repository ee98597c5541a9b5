"""What the restricted unpickler makes of the few things it knows: descriptions, never the things themselves."""

from __future__ import annotations

from dataclasses import dataclass

ITEM_BYTES = {
    "bool": 1,
    "uint8": 1,
    "int8": 1,
    "int16": 2,
    "int32": 4,
    "int64": 8,
    "float16": 2,
    "bfloat16": 2,
    "float32": 4,
    "float64": 8,
}
"""Bytes of a value, by torch's name of its type."""


@dataclass(frozen=True, slots=True)
class Name:
    """A known name that the pickle asks for; nothing was imported."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


@dataclass(frozen=True, slots=True)
class Storage:
    """A run of values that lies elsewhere in the file."""

    key: str
    dtype: str
    numel: int


@dataclass(frozen=True, slots=True)
class Tensor:
    """Where in its storage a tensor lies; `offset` and `stride` count values."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


@dataclass(slots=True)
class NumpyType:
    """A numpy dtype of plain numbers, as `struct` calls it."""

    code: str
    order: str = "<"
