"""Weights of a new model, drawn as the `model` section says; the same section and seed give the same bits.

Without an initialiser matrices come from a normal distribution cut off at two standard deviations, the head's from one
that is not; norms are 1, biases 0. Every tensor has random numbers of its own, by its name and in blocks of rows, so
that a model of any size is drawn in memory for a block. They are not the Model Zoo's numbers, whose generator runs
through the whole model at once. When not to use it: continued pre-training, which replaces every weight.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, cast

import torch
from torch import Tensor, nn

from regraft.errors import InvalidInputError
from regraft.families import Architecture, Family
from regraft_worker.conversion.lazy import Lazy
from regraft_worker.conversion.own import own_to_hf
from regraft_worker.model.decoder import Decoder
from regraft_worker.zoo.keys import Section, number, sort_keys, unknown_key

_ROWS = 1024
_OUTPUT = "output_layer_initializer"
# The keys of the section that a matrix looks at, the first that is given wins.
_SOURCES: Mapping[str, tuple[str, ...]] = {
    "embedding": ("embedding_initializer",),
    "q": ("initializer",),
    "k": ("initializer",),
    "v": ("initializer",),
    "out": (_OUTPUT,),
    "up": ("ffn_initializer", _OUTPUT),
    "down": ("ffn_output_layer_initializer", _OUTPUT),
}
# What each kind is told.
_OPTIONS: Mapping[str, tuple[str, ...]] = {
    "truncated_normal": ("mean", "std", "a", "b"),
    "normal": ("mean", "std"),
    "uniform": ("a", "b"),
    "constant": ("val",),
    "zeros": (),
    "ones": (),
}
_Kind = Literal["truncated_normal", "normal", "uniform", "constant"]


@dataclass(frozen=True, kw_only=True)
class Initializer:
    """One distribution."""

    kind: _Kind
    mean: float = 0.0
    """Or the value of a constant."""
    std: float = 1.0
    low: float = 0.0
    """Where a truncated normal is cut, or a uniform distribution begins."""
    high: float = 1.0

    def fill(self, tensor: Tensor, generator: torch.Generator) -> Tensor:
        """Draw the tensor in place."""
        if self.kind == "constant":
            return tensor.fill_(self.mean)
        if self.kind == "uniform":
            return tensor.uniform_(self.low, self.high, generator=generator)
        if self.kind == "normal":
            return tensor.normal_(self.mean, self.std, generator=generator)
        return nn.init.trunc_normal_(tensor, self.mean, self.std, self.low, self.high, generator=generator)


def initializers_of(section: Section, *, initializer_range: float) -> dict[str, Initializer]:
    """The initialiser of every kind of matrix, by the last part of its module's name.

    Raises:
        InvalidInputError: a kind, option or value that is not offered.
    """
    usual = _truncated(initializer_range)
    keys = {key for sources in _SOURCES.values() for key in sources}
    given = {key: _named(section[key], f"model.{key}") for key in sorted(keys) if section.get(key) is not None}
    found = {kind: next((given[key] for key in keys if key in given), usual) for kind, keys in _SOURCES.items()}
    return found | {"head": Initializer(kind="normal", std=initializer_range)}


def initial_weights(
    initializers: Mapping[str, Initializer], *, family: Family, architecture: Architecture, seed: int
) -> list[Lazy]:
    """Fp32 tensors under Hugging Face names, drawn when they are read."""
    with torch.device("meta"):
        shapes = {name: tuple(tensor.shape) for name, tensor in Decoder(architecture).state_dict().items()}
    drawn = {name: _drawn(name, shape, _initializer(name, initializers), seed) for name, shape in shapes.items()}
    return own_to_hf(family, architecture, drawn)


def _initializer(name: str, initializers: Mapping[str, Initializer]) -> Initializer:
    module, _, parameter = name.rpartition(".")
    if "norm" in module or parameter == "bias":
        return Initializer(kind="constant", mean=1.0 if parameter == "weight" else 0.0)
    return initializers[module.rpartition(".")[2]]


def _drawn(name: str, shape: tuple[int, ...], initializer: Initializer, seed: int) -> Lazy:
    def read_rows(start: int, stop: int) -> Tensor:
        first = start // _ROWS
        blocks = [_block(name, number, shape, initializer, seed) for number in range(first, -(-stop // _ROWS))]
        return torch.cat(blocks)[start - first * _ROWS : stop - first * _ROWS]

    return Lazy(name, torch.float32, shape, read_rows)


def _block(name: str, number: int, shape: tuple[int, ...], initializer: Initializer, seed: int) -> Tensor:
    digest = hashlib.sha256(f"{seed}:{name}:{number}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "little"))
    rows = min(_ROWS, shape[0] - number * _ROWS)
    return initializer.fill(torch.empty((rows, *shape[1:])), generator)


def _named(found: object, where: str) -> Initializer:
    """`{name: ..., std: ...}`, or the name alone."""
    options = {"name": found} if isinstance(found, str) else found
    if not isinstance(options, dict) or "name" not in options:
        raise InvalidInputError("must be a section with a name", field=where, value=found)
    name = options["name"]
    if name not in _OPTIONS:
        raise unknown_key(name, f"{where}.name", _OPTIONS)
    sort_keys(options, where, used=("name", *_OPTIONS[name]))
    given = {key: value for key in _OPTIONS[name] if (value := number(options, key, where)) is not None}
    if name in ("constant", "zeros", "ones"):
        return Initializer(kind="constant", mean=given.get("val", float(name == "ones")))
    return _checked(_distribution(cast("_Kind", name), given), where, options)


def _distribution(kind: _Kind, given: Mapping[str, float]) -> Initializer:
    mean, std = given.get("mean", 0.0), given.get("std", 1.0)
    usual = _truncated(std) if kind == "truncated_normal" else Initializer(kind=kind)
    low, high = given.get("a", usual.low), given.get("b", usual.high)
    return Initializer(kind=kind, mean=mean, std=std, low=low, high=high)


def _truncated(std: float) -> Initializer:
    return Initializer(kind="truncated_normal", std=std, low=-2 * std, high=2 * std)


def _checked(made: Initializer, where: str, options: Section) -> Initializer:
    if made.std <= 0 or made.low >= made.high:
        raise InvalidInputError(
            "needs a std above 0, and a below b", field=where, value=dict(options), remedy="Change it, or remove it."
        )
    return made
