"""Tensors of one naming to the other, Hugging Face and Cerebras, read only when they are written.

Most keep their values and change their name. GPT-NeoX's fused q, k and v are split and merged, and rows of q and k
change between half-split and interleaved rotary order (see `regraft.keymap`): rows of a result read the heads they
need of the source and no others. What holds for a weight holds for anything of its shape, so the moments of an
optimizer go through the same functions under their parameters' names.

Names that belong to no tensor of the model are refused unless the caller has them dropped; buffers of old Hugging Face
files that carry no weights are always dropped.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch

from regraft.errors import InvalidDataError
from regraft.families import Architecture, Family, tensor_shape
from regraft.keymap import Row, embedding_row, find_hf, is_ignored, rows
from regraft_worker.conversion.bits import same_values
from regraft_worker.conversion.buffers import legacy_buffers, new_head
from regraft_worker.conversion.lazy import Lazy, ReadRows

_PREFIX = re.compile(r"^(model\.){0,2}")  # the entry of the file, and the wrapper of a trainer
_HEAD_NAMES = ("head.weight", "head.bias")
_Head = tuple[torch.Tensor, torch.Tensor]
"""Rows as they are stored, and the order in which they are wanted."""


class Mapped(NamedTuple):
    """Tensors under their new names, and what became of the others."""

    tensors: list[Lazy]
    aliases: dict[str, str]
    """Further names, each of one of the tensors."""
    dropped: list[str]
    """Names of the source that belong to no tensor of the model."""


def hf_to_cs(
    family: Family,
    architecture: Architecture,
    tensors: Mapping[str, Lazy],
    *,
    headless: bool = False,
    drop_unmatched: bool = False,
    seed: int = 0,
) -> Mapped:
    """Hugging Face tensors under Cerebras names without `model.`, in the order they come in.

    Of a headless model (names without `transformer.` or `gpt_neox.`) the head is made: zero bias, and a weight that
    is drawn with `seed`, or the embedding when the config ties the two.

    Raises:
        InvalidDataError: tensors are missing, unknown or of another shape than the config says.
    """
    prefix = stem(family) if headless else ""
    matched, dropped = _match_hf(family, architecture, {prefix + name: lazy for name, lazy in tensors.items()})
    dropped = [name.removeprefix(prefix) for name in dropped]
    _refuse_unmatched(dropped, drop_unmatched)
    _refuse_missing(_stored(family, architecture, headless=headless), set(matched))
    embedding = embedding_row(family)
    mapped = Mapped([], {}, dropped)
    for row, lazy in matched.items():
        if row.is_head and architecture.tied_embeddings:
            _check_same(row.hf, lazy, matched[embedding])
        else:
            _add_cs(mapped, row, lazy, architecture)
    if headless:
        _add_head(mapped, family, architecture, matched[embedding].dtype, seed)
    if architecture.tied_embeddings:
        mapped.aliases.update({row.cs[0]: embedding.cs[0] for row in heads(family, architecture) if row.is_head})
    return mapped


def cs_to_hf(
    family: Family,
    architecture: Architecture,
    tensors: Mapping[str, Lazy],
    *,
    headless: bool = False,
    drop_unmatched: bool = False,
    with_buffers: bool = False,
) -> Mapped:
    """Cerebras tensors under Hugging Face names, ordered by name; a tied head is left out, a headless model's too.

    Names may carry `model.` once or twice; of a tensor that is stored twice, one suffices. `with_buffers` adds the
    masks that old releases of `transformers` kept in a checkpoint, as the Model Zoo's converter does.

    Raises:
        InvalidDataError: tensors are missing, unknown or of another shape than the config says, or copies differ.
    """
    state = without_prefixes(tensors)
    known = {name for row in rows(family, architecture) for name in row.cs}
    dropped = sorted(state.keys() - known)
    _refuse_unmatched(dropped, drop_unmatched)
    _check_shapes(family, architecture, state)
    _check_tied(family, architecture, state)
    wanted = _stored(family, architecture, headless=headless)
    _refuse_missing(wanted, {row for row in wanted if _is_there(row, state)})
    found = [_hf(row, state, architecture) for row in wanted]
    found += legacy_buffers(family, architecture) if with_buffers else []
    prefix = stem(family) if headless else ""
    return Mapped([replace(lazy, name=lazy.name.removeprefix(prefix)) for lazy in found], {}, dropped)


def without_prefixes(tensors: Mapping[str, Lazy]) -> dict[str, Lazy]:
    """A Cerebras state under names without `model.`."""
    bare = {_PREFIX.sub("", name): lazy for name, lazy in tensors.items()}
    if len(bare) != len(tensors):
        raise not_as_expected("tensors are there both with and without the prefix 'model.'", value=len(tensors))
    return bare


def not_as_expected(message: str, *, value: object) -> InvalidDataError:
    """What is said when tensors and config do not belong together."""
    return InvalidDataError(
        message,
        field="checkpoint",
        value=value,
        remedy="Use the config that was saved with these weights.",
        reason="config_tensors_disagree",
    )


def heads(family: Family, architecture: Architecture) -> list[Row]:
    """The output projection, weight and bias."""
    return [row for row in rows(family, architecture) if row.own[0] in _HEAD_NAMES]


def stem(family: Family) -> str:
    """What a model with a head has before its other names, `transformer.`; a headless one has not."""
    return embedding_row(family).hf.partition(".")[0] + "."


def _match_hf(
    family: Family, architecture: Architecture, tensors: Mapping[str, Lazy]
) -> tuple[dict[Row, Lazy], list[str]]:
    matched: dict[Row, Lazy] = {}
    unmatched: list[str] = []
    for name, lazy in tensors.items():
        row = find_hf(family, architecture, name)
        if row is not None:
            _check_shape(name, lazy, tensor_shape(row.tensor, architecture))
            matched[row] = lazy
        elif not is_ignored(family, name):
            unmatched.append(name)
    return matched, unmatched


def _add_cs(mapped: Mapped, row: Row, lazy: Lazy, architecture: Architecture) -> None:
    if row.tensor.transform == "fused_qkv":
        mapped.tensors.extend(_split(row.cs[part], lazy, architecture, part) for part in range(3))
        return
    first, *others = row.cs
    mapped.tensors.append(replace(lazy, name=first))
    mapped.aliases.update(dict.fromkeys(others, first))


def _add_head(mapped: Mapped, family: Family, architecture: Architecture, dtype: torch.dtype, seed: int) -> None:
    for row in heads(family, architecture):
        if not (row.is_head and architecture.tied_embeddings):
            shape = tensor_shape(row.tensor, architecture)
            mapped.tensors.append(new_head(row.cs[0], shape, dtype, seed))


def _hf(row: Row, state: Mapping[str, Lazy], architecture: Architecture) -> Lazy:
    if row.tensor.transform == "fused_qkv":
        return _merged(row.hf, [state[name] for name in row.cs], architecture)
    copies = [state[name] for name in row.cs if name in state]
    for copy in copies[1:]:
        _check_same(" and ".join(row.cs), copy, copies[0])
    return replace(copies[0], name=row.hf)


def _split(name: str, fused: Lazy, architecture: Architecture, part: int) -> Lazy:
    """q (0), k (1) or v (2) of a fused tensor whose rows are (head, q/k/v, head_dim)."""
    size = architecture.head_dim
    order = _interleaving(architecture) if part < 2 else torch.arange(size)

    def head(number: int) -> _Head:
        start = (3 * number + part) * size
        return fused.read_rows(start, start + size), order

    shape = (architecture.num_heads * size, *fused.shape[1:])
    return Lazy(name, fused.dtype, shape, _byheads(head, size, fused))


def _merged(name: str, parts: list[Lazy], architecture: Architecture) -> Lazy:
    """The inverse of `_split`."""
    size = architecture.head_dim
    back = torch.argsort(_interleaving(architecture))
    orders = (back, back, torch.arange(size))

    def head(number: int) -> _Head:
        start, part = number // 3 * size, number % 3
        return parts[part].read_rows(start, start + size), orders[part]

    shape = (3 * architecture.num_heads * size, *parts[0].shape[1:])
    return Lazy(name, parts[0].dtype, shape, _byheads(head, size, parts[0]))


def _byheads(head: Callable[[int], _Head], size: int, like: Lazy) -> ReadRows:
    """Rows of a tensor that is made head by head, `size` rows each.

    numpy copies the rows: torch would use several threads, which wait for each other longer than the copy takes.
    """

    def read_rows(start: int, stop: int) -> torch.Tensor:
        made = torch.empty((stop - start, *like.shape[1:]), dtype=like.dtype)
        reached = 0
        for number in range(start // size, -(-stop // size)):
            source, order = head(number)
            chosen = order[max(start - number * size, 0) : stop - number * size].numpy()
            target = made[reached : reached + len(chosen)]
            np.take(_row_bytes(source), chosen, axis=0, out=_row_bytes(target), mode="clip")
            reached += len(chosen)
        return made

    return read_rows


def _row_bytes(tensor: torch.Tensor) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """The bytes of each row, shape (rows, bytes), not copied."""
    return tensor.reshape(len(tensor), -1).view(torch.uint8).numpy()


def _interleaving(architecture: Architecture) -> torch.Tensor:
    """For each row of a head in Cerebras' order, where it is in Hugging Face's: 0, r/2, 1, r/2 + 1, ..."""
    rotary = architecture.rotary_dim
    order = torch.arange(architecture.head_dim)
    if not architecture.rotary_interleaved:
        order[:rotary] = torch.arange(rotary).reshape(2, rotary // 2).T.reshape(-1)
    return order


def _stored(family: Family, architecture: Architecture, *, headless: bool) -> list[Row]:
    """The rows that a Hugging Face checkpoint holds."""
    left_out = {row.hf for row in heads(family, architecture)} if headless else set()
    return [
        row
        for row in rows(family, architecture)
        if row.hf not in left_out and not (row.is_head and architecture.tied_embeddings)
    ]


def _is_there(row: Row, state: Mapping[str, Lazy]) -> bool:
    present = [name in state for name in row.cs]
    return any(present) if row.stored_twice else all(present)


def _check_shapes(family: Family, architecture: Architecture, state: Mapping[str, Lazy]) -> None:
    for row in rows(family, architecture):
        first, *rest = tensor_shape(row.tensor, architecture)
        for name in row.cs:
            if name in state:
                _check_shape(name, state[name], (first // len(row.own), *rest))


def _check_shape(name: str, lazy: Lazy, expected: tuple[int, ...]) -> None:
    if lazy.shape != expected:
        raise not_as_expected(f"'{name}' should have shape {list(expected)}", value=list(lazy.shape))


def _check_tied(family: Family, architecture: Architecture, state: Mapping[str, Lazy]) -> None:
    (embedding,) = embedding_row(family).cs
    for row in heads(family, architecture):
        if row.is_head and architecture.tied_embeddings and row.cs[0] in state and embedding in state:
            _check_same(row.cs[0], state[row.cs[0]], state[embedding])


def _check_same(what: str, left: Lazy, right: Lazy) -> None:
    """Bit for bit, block by block."""
    if not same_values(left, right):
        raise not_as_expected(f"{what}: copies of one tensor, with different values", value=what)


def _refuse_unmatched(unmatched: list[str], drop: bool) -> None:
    if unmatched and not drop:
        raise not_as_expected(f"the model has no tensors {_few(unmatched)}", value=len(unmatched))


def _refuse_missing(wanted: list[Row], found: set[Row]) -> None:
    missing = [row.hf for row in wanted if row not in found]
    if missing:
        raise not_as_expected(f"tensors are missing: {_few(missing)}", value=len(missing))


def _few(names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more
