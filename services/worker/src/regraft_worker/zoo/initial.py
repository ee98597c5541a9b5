"""Weights of a new model, drawn as the `model` section says; the same section and seed give the same bits.

Every tensor has random numbers of its own, by its name and in blocks of rows, so that a model of any size is drawn in
memory for a block. They are not the Model Zoo's numbers, whose generator runs through the whole model at once.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from regraft.errors import InvalidInputError
from regraft.families import Architecture, Family
from regraft_worker.conversion.lazy import Lazy
from regraft_worker.conversion.own import own_to_hf
from regraft_worker.model.decoder import Decoder
from regraft_worker.zoo.keys import number, sort_keys, unknown_key

_ROWS = 1024
_Fill = Callable[[Tensor, torch.Generator], Tensor]
# The keys of the section that a matrix looks at, the first that is given wins.
_OUTPUT = "output_layer_initializer"
_SOURCES: Mapping[str, tuple[str, ...]] = {
    "embedding": ("embedding_initializer",),
    "q": ("initializer",),
    "k": ("initializer",),
    "v": ("initializer",),
    "out": (_OUTPUT,),
    "up": ("ffn_initializer", _OUTPUT),
    "down": ("ffn_output_layer_initializer", _OUTPUT),
}
_NAMES = ("normal", "truncated_normal", "uniform", "constant", "zeros", "ones")


def initial_weights(
    section: Mapping[str, object], *, family: Family, architecture: Architecture, seed: int
) -> list[Lazy]:
    """Fp32 tensors under Hugging Face names.

    Raises:
        InvalidInputError: an initialiser that is not offered.
    """
    with torch.device("meta"):
        shapes = {name: tuple(tensor.shape) for name, tensor in Decoder(architecture).state_dict().items()}
    drawn = {name: _drawn(name, shape, section, architecture, seed) for name, shape in shapes.items()}
    return own_to_hf(family, architecture, drawn)


def _drawn(name: str, shape: tuple[int, ...], section: Mapping[str, object], a: Architecture, seed: int) -> Lazy:
    fill = _filler(name, section, a)

    def read_rows(start: int, stop: int) -> Tensor:
        first = start // _ROWS
        blocks = [_block(name, number, shape, fill, seed) for number in range(first, -(-stop // _ROWS))]
        return torch.cat(blocks)[start - first * _ROWS : stop - first * _ROWS]

    return Lazy(name, torch.float32, shape, read_rows)


def _block(name: str, number: int, shape: tuple[int, ...], fill: _Fill, seed: int) -> Tensor:
    digest = hashlib.sha256(f"{seed}:{name}:{number}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "little"))
    rows = min(_ROWS, shape[0] - number * _ROWS)
    return fill(torch.empty((rows, *shape[1:])), generator)


def _filler(name: str, section: Mapping[str, object], a: Architecture) -> _Fill:
    module, _, parameter = name.rpartition(".")
    if "norm" in module or parameter == "bias":
        value = 1.0 if parameter == "weight" else 0.0
        return lambda tensor, generator: tensor.fill_(value)
    if module == "head":
        return lambda tensor, generator: tensor.normal_(0.0, a.initializer_range, generator=generator)
    for key in _SOURCES[module.rpartition(".")[2]]:
        if section.get(key) is not None:
            return _named(section[key], f"model.{key}")
    return _truncated(0.0, a.initializer_range, -2 * a.initializer_range, 2 * a.initializer_range)


def _named(found: object, where: str) -> _Fill:
    options: dict[str, Any] = {"name": found} if isinstance(found, str) else found if isinstance(found, dict) else {}
    sort_keys(options, where, used=("name", "mean", "std", "a", "b", "value", "val"))
    name = options.get("name")
    given = {key: number(options, key, where) for key in options if key != "name"}
    mean, std = given.get("mean") or 0.0, given.get("std")
    if name in ("normal", "truncated_normal") and std is None:
        raise InvalidInputError("must be given", field=f"{where}.std")
    if name == "normal":
        return lambda tensor, generator: tensor.normal_(mean, std, generator=generator)  # type: ignore[arg-type]
    if name == "truncated_normal":
        assert std is not None, "checked"
        low, high = given.get("a"), given.get("b")
        return _truncated(mean, std, -2 * std if low is None else low, 2 * std if high is None else high)
    return _simple(str(name), given, where)


def _simple(name: str, given: Mapping[str, float | None], where: str) -> _Fill:
    if name == "uniform":
        low, high = given.get("a") or 0.0, given.get("b")
        return lambda tensor, generator: tensor.uniform_(low, 1.0 if high is None else high, generator=generator)
    if name in ("constant", "zeros", "ones"):
        value = given.get("val") or given.get("value") or float(name == "ones")
        return lambda tensor, generator: tensor.fill_(value)
    raise unknown_key(name, f"{where}.name", _NAMES)


def _truncated(mean: float, std: float, low: float, high: float) -> _Fill:
    assert math.isfinite(std), "a number of YAML"
    return lambda tensor, generator: nn.init.trunc_normal_(tensor, mean, std, low, high, generator=generator)
