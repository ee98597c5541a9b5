"""Moving tensors between the three namings: this project's decoder, Hugging Face, Cerebras Model Zoo.

Most tensors only change their name. Two things move values, both bit for bit and without arithmetic:

- GPT-NeoX keeps q, k and v in one matrix whose rows are (head, q/k/v, head_dim); the other two namings keep three.
- Its rotary embedding pairs row i of a head with row i + rotary_dim/2 (half-split). This project's decoder does so
  too; the Cerebras model pairs 2i with 2i + 1 (interleaved), so the rows of q and k are permuted for it.

Everything works tensor by tensor, so that no caller needs a whole model in memory. Names that belong to no row are
refused, never dropped: buffers of old files are removed by the readers before they come here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import torch

from regraft.errors import InvalidDataError
from regraft.families import Architecture, Family
from regraft.keymap import Row, find_hf, rows, without_prefix

Named = tuple[str, torch.Tensor]


def hf_to_own(family: Family, architecture: Architecture, name: str, tensor: torch.Tensor) -> list[Named]:
    """One Hugging Face tensor under its names in this project's decoder; none for a head that is tied."""
    row = _row(family, architecture, name)
    if row.is_head and architecture.tied_embeddings:
        return []
    if row.tensor.transform == "fused_qkv":
        return list(zip(row.own, split_qkv(tensor, architecture), strict=True))
    return [(row.own[0], tensor)]


def own_to_hf(family: Family, architecture: Architecture, state: Mapping[str, torch.Tensor]) -> Iterator[Named]:
    """All Hugging Face tensors of a decoder's state, ordered by name; a tied head is left out."""
    known = {name for row in rows(family, architecture) for name in row.own}
    _refuse_unknown(state, known)
    for row in _stored(family, architecture):
        parts = [_take(state, name) for name in row.own]
        fused = row.tensor.transform == "fused_qkv"
        yield row.hf, merge_qkv(parts, architecture) if fused else parts[0]


def hf_to_cs(family: Family, architecture: Architecture, name: str, tensor: torch.Tensor) -> list[Named]:
    """One Hugging Face tensor under its Cerebras names (without `model.`); the final norm comes twice."""
    row = _row(family, architecture, name)
    if row.tensor.transform == "fused_qkv":
        q, k, v = split_qkv(tensor, architecture)
        return list(zip(row.cs, (_to_cs_rotary(q, architecture), _to_cs_rotary(k, architecture), v), strict=True))
    return [(cs, tensor) for cs in row.cs]


def cs_to_hf(family: Family, architecture: Architecture, state: Mapping[str, torch.Tensor]) -> Iterator[Named]:
    """All Hugging Face tensors of a Cerebras state, ordered by name; a tied head is left out.

    Names may carry the prefix `model.`; of a tensor that Cerebras stores twice, one suffices.

    Raises:
        InvalidDataError: a tensor is missing or unknown, or the two copies of one differ.
    """
    state = _without_prefixes(state)
    _refuse_unknown(state, {name for row in rows(family, architecture) for name in row.cs})
    for row in _stored(family, architecture):
        yield row.hf, cs_row_to_hf(row, architecture, state)


def cs_row_to_hf(row: Row, architecture: Architecture, state: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """One Hugging Face tensor out of a Cerebras state whose names have no prefix."""
    if row.stored_twice:
        return _agreed(row, state)
    parts = [_take(state, name) for name in row.cs]
    if row.tensor.transform == "fused_qkv":
        q, k, v = parts
        return merge_qkv([_from_cs_rotary(q, architecture), _from_cs_rotary(k, architecture), v], architecture)
    return parts[0]


def split_qkv(fused: torch.Tensor, architecture: Architecture) -> list[torch.Tensor]:
    """(3H, ...) with rows (head, q/k/v, head_dim) to q, k and v, each (H, ...)."""
    heads, size, rest = architecture.num_heads, architecture.head_dim, fused.shape[1:]
    _check_rows(fused, 3 * heads * size)
    by_head = fused.reshape(heads, 3, size, *rest)
    return [by_head[:, part].reshape(heads * size, *rest) for part in range(3)]


def merge_qkv(parts: Iterable[torch.Tensor], architecture: Architecture) -> torch.Tensor:
    """q, k and v, each (H, ...), to (3H, ...); the inverse of `split_qkv`."""
    heads, size = architecture.num_heads, architecture.head_dim
    by_head = []
    for part in parts:
        _check_rows(part, heads * size)
        by_head.append(part.reshape(heads, size, *part.shape[1:]))
    merged = torch.stack(by_head, dim=1)
    return merged.reshape(3 * heads * size, *merged.shape[3:])


def same_bits(left: torch.Tensor, right: torch.Tensor) -> bool:
    """True when dtype, shape and every bit agree (0.0 and -0.0 differ, equal NaNs do not)."""
    if left.dtype != right.dtype or left.shape != right.shape:
        return False
    return torch.equal(_bytes(left), _bytes(right))


def _bytes(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous().reshape(-1).view(torch.uint8)


def _to_cs_rotary(tensor: torch.Tensor, architecture: Architecture) -> torch.Tensor:
    """Rows of q or k, (H, ...): in each head, half-split to interleaved; rows past rotary_dim stay."""
    return _permute(tensor, architecture, _interleaving(architecture))


def _from_cs_rotary(tensor: torch.Tensor, architecture: Architecture) -> torch.Tensor:
    return _permute(tensor, architecture, torch.argsort(_interleaving(architecture)))


def _interleaving(architecture: Architecture) -> torch.Tensor:
    """For each row of a head in Cerebras' order, where it is in Hugging Face's: 0, r/2, 1, r/2 + 1, ..."""
    rotary = architecture.rotary_dim
    order = torch.arange(architecture.head_dim)
    if not architecture.rotary_interleaved:
        order[:rotary] = torch.arange(rotary).reshape(2, rotary // 2).T.reshape(-1)
    return order


def _permute(tensor: torch.Tensor, architecture: Architecture, order: torch.Tensor) -> torch.Tensor:
    _check_rows(tensor, architecture.hidden_size)
    by_head = tensor.reshape(architecture.num_heads, architecture.head_dim, *tensor.shape[1:])
    return by_head[:, order].reshape(tensor.shape)


def _row(family: Family, architecture: Architecture, name: str) -> Row:
    row = find_hf(family, architecture, name)
    if row is None:
        raise _not_as_expected(f"the model has no tensor '{name}'", value=name)
    return row


def _stored(family: Family, architecture: Architecture) -> Iterator[Row]:
    """The rows that a Hugging Face checkpoint holds."""
    for row in rows(family, architecture):
        if not (row.is_head and architecture.tied_embeddings):
            yield row


def _without_prefixes(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    bare = {without_prefix(name): tensor for name, tensor in state.items()}
    if len(bare) != len(state):
        raise _not_as_expected("tensors are there both with and without the prefix 'model.'", value=len(state))
    return bare


def _refuse_unknown(state: Mapping[str, torch.Tensor], known: set[str]) -> None:
    unknown = sorted(state.keys() - known)
    if unknown:
        more = f" and {len(unknown) - 3} more" if len(unknown) > 3 else ""
        raise _not_as_expected(f"the model has no tensors {', '.join(unknown[:3])}{more}", value=len(unknown))


def _agreed(row: Row, state: Mapping[str, torch.Tensor]) -> torch.Tensor:
    copies = [state[name] for name in row.cs if name in state]
    if not copies:
        return _take(state, row.cs[0])
    if not all(same_bits(copies[0], copy) for copy in copies):
        raise _not_as_expected(f"{' and '.join(row.cs)} are one tensor and have different values", value=row.cs[0])
    return copies[0]


def _take(state: Mapping[str, torch.Tensor], name: str) -> torch.Tensor:
    if name not in state:
        raise _not_as_expected(f"the tensor '{name}' is missing", value=name)
    return state[name]


def _check_rows(tensor: torch.Tensor, expected: int) -> None:
    if tensor.shape[0] != expected:
        raise _not_as_expected(
            f"a tensor has {tensor.shape[0]} rows where the config asks for {expected}", value=list(tensor.shape)
        )


def _not_as_expected(message: str, *, value: object) -> InvalidDataError:
    return InvalidDataError(
        message,
        field="checkpoint",
        value=value,
        remedy="Use the config that was saved with these weights.",
        reason="config_tensors_disagree",
    )
