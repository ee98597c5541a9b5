"""A Hugging Face checkpoint in one file, or in several with an index, named as `transformers` names them.

Which tensor goes where is known from the sizes alone. With a `source` given, writing can be taken up again: a shard
gets its final name when it is whole and on the disk, and a state file says which ones are, for which plan; of the one
that is being written a journal says which tensors are. After a kill the same call writes only what is missing, or no
longer has the digests it was written with. The price: a name for the
source, without which shards of another checkpoint of the same shapes could be taken for its own; the caller makes it
(an address, or path, size and time).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Literal, NamedTuple

from regraft_worker.conversion.lazy import Lazy
from regraft_worker.conversion.writers.base import Tick, copies_of, named
from regraft_worker.conversion.writers.finished import Finished
from regraft_worker.conversion.writers.journal import Journal
from regraft_worker.conversion.writers.nesting import flat
from regraft_worker.conversion.writers.safetensors import write_safetensors
from regraft_worker.conversion.writers.torch_zip import write_torch_zip

STATE = ".shards.json"
_PARTIAL = ".partial"
Weights = Literal["safetensors", "bin"]
_STEMS: Mapping[Weights, str] = {"safetensors": "model", "bin": "pytorch_model"}


class Shard(NamedTuple):
    """One file of weights."""

    name: str
    tensors: tuple[Lazy, ...]

    @property
    def nbytes(self) -> int:
        """Of the values in it."""
        return sum(lazy.nbytes for lazy in self.tensors)


def write_sharded(
    folder: Path,
    tensors: Iterable[Lazy],
    max_shard_bytes: int,
    *,
    weights: Weights = "safetensors",
    aliases: Mapping[str, str] = {},
    source: str = "",
    finished: Finished | None = None,
    numbered: bool = False,
    tick: Tick,
) -> dict[str, str]:
    """Write the weights into an existing folder; the sha256 of every tensor by name.

    `tick` is told of the bytes of shards that were there already, too. Without `source` an exception leaves nothing;
    with it, finished shards stay for the next call, which must have the same `source`. A caller that keeps the record
    itself gives it as `finished`. `numbered`: a single file has a number and an index, too.

    Raises:
        InvalidInputError: a dtype that the encoding cannot hold.
    """
    by_name = named(tensors, aliases)
    shards = plan([*by_name.values(), *copies_of(by_name, aliases)], max_shard_bytes, weights, numbered=numbered)
    whole = finished or Finished(folder, plan=_plan_digest(shards, source) if source else "", state=folder / STATE)
    try:
        for shard in shards:
            if shard.name in whole.digests:
                tick(shard.nbytes)
            else:
                _write(folder / shard.name, shard, weights, whole, tick)
    except BaseException:
        if not source and finished is None:
            whole.forget()
        raise
    if len(shards) > 1 or numbered:
        _write_index(folder / f"{_STEMS[weights]}.{weights}.index.json", shards)
    (folder / STATE).unlink(missing_ok=True)
    return {name: digest for shard in shards for name, digest in whole.digests[shard.name].items()}


def plan(
    tensors: Iterable[Lazy], max_shard_bytes: int, weights: Weights = "safetensors", *, numbered: bool = False
) -> list[Shard]:
    """Tensors in order, as many to a file as fit; one that is larger than a file has its own."""
    groups: list[list[Lazy]] = []
    current: list[Lazy] = []
    size = 0
    for lazy in tensors:
        if lazy.nbytes > max_shard_bytes:
            groups.append([lazy])
            continue
        if size + lazy.nbytes > max_shard_bytes:
            groups.append(current)
            current, size = [], 0
        current.append(lazy)
        size += lazy.nbytes
    if current or not groups:
        groups.append(current)
    names = _names(len(groups), weights, numbered=numbered)
    return [Shard(name, tuple(group)) for name, group in zip(names, groups, strict=True)]


def _names(count: int, weights: Weights, *, numbered: bool) -> list[str]:
    stem = _STEMS[weights]
    if count == 1 and not numbered:
        return [f"{stem}.{weights}"]
    return [f"{stem}-{number:05d}-of-{count:05d}.{weights}" for number in range(1, count + 1)]


def _write(path: Path, shard: Shard, weights: Weights, whole: Finished, tick: Tick) -> None:
    def write(partial: Path, journal: Journal | None) -> dict[str, str]:
        if weights == "safetensors":
            return write_safetensors(partial, shard.tensors, journal=journal, tick=tick)
        return write_torch_zip(partial, shard.tensors, nest=flat, journal=journal, tick=tick)

    whole.make(path, path.with_name(path.name + _PARTIAL), write)


def _plan_digest(shards: Iterable[Shard], source: str) -> str:
    layout = [(shard.name, [(lazy.name, str(lazy.dtype), lazy.shape) for lazy in shard.tensors]) for shard in shards]
    return hashlib.sha256(json.dumps([source, layout]).encode()).hexdigest()


def _write_index(path: Path, shards: Iterable[Shard]) -> None:
    weight_map = {lazy.name: shard.name for shard in shards for lazy in shard.tensors}
    total = sum(shard.nbytes for shard in shards)
    content = {"metadata": {"total_size": total}, "weight_map": weight_map}
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")
