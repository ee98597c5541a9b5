"""The files of a conversion, in the encoding that the target format is written in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

from regraft_worker.conversion.carried import Carried, named
from regraft_worker.conversion.formats import Format
from regraft_worker.conversion.mapping import Mapped
from regraft_worker.conversion.writers import (
    below_first,
    flat,
    trained,
    trained_kind,
    write_hdf5_05,
    write_safetensors,
    write_sharded,
    write_torch_zip,
)
from regraft_worker.conversion.writers.base import Tick
from regraft_worker.conversion.writers.finished import Finished, Write
from regraft_worker.conversion.writers.journal import Journal
from regraft_worker.conversion.writers.nesting import by_keys
from regraft_worker.conversion.writers.sharded import Weights

_WRAPPER = "model."


def write_cs(
    path: Path,
    mapped: Mapped,
    state: Carried,
    *,
    target: Format,
    prefix: str,
    h5: bool,
    journal: Journal | None = None,
    tick: Tick,
) -> dict[str, str]:
    """Write a `.mdl`, digests of its tensors; `h5` asks for HDF5 where the release reads what can be written here."""
    assert target.release is not None, "a Cerebras format"
    before = _WRAPPER + prefix
    tensors = [*(replace(lazy, name=before + lazy.name) for lazy in mapped.tensors), *named(state.tensors)]
    aliases = {before + name: before + of for name, of in mapped.aliases.items()} | state.aliases
    nest, kind = (trained, trained_kind) if state.tensors or state.values else (below_first, by_keys)
    write: Callable[..., dict[str, str]] = write_torch_zip
    if encoding(target, h5=h5) != "torch-zip":
        write = partial(write_hdf5_05, release=".".join(str(number) for number in (*target.release, 0)))
    values = state.values
    return write(path, tensors, values=values, aliases=aliases, nest=nest, kind=kind, journal=journal, tick=tick)


def encoding(target: Format, *, h5: bool) -> str:
    """The encoding of a `.mdl` of this release."""
    return (target.writes_on_request if h5 else "") or target.writes


def why_not_h5(target: Format) -> str:
    """What to say when HDF5 was asked for and a torch file is written; empty when it is HDF5."""
    if encoding(target, h5=True).startswith("hdf5"):
        return ""
    newest = target.reads[-1].removeprefix("hdf5-")
    return (
        f"written as a torch file in spite of --export-h5-checkpoint: {target.name} reads HDF5 up to format {newest}, "
        "which is not written here, and reads torch files as well"
    )


def write_one_hf(
    path: Path, mapped: Mapped, *, safetensors: bool, journal: Journal | None = None, tick: Tick
) -> dict[str, str]:
    """Write all tensors into one file, as the releases before 2.0 did; digests of them."""
    if safetensors:
        return write_safetensors(path, mapped.tensors, journal=journal, tick=tick)
    return write_torch_zip(path, mapped.tensors, nest=flat, journal=journal, tick=tick)


def write_hf_folder(
    folder: Path, mapped: Mapped, *, shard_bytes: int, safetensors: bool, finished: Finished, tick: Tick
) -> None:
    """Write shards and their index; the original numbers a single shard, too. Shards that are `finished` are kept."""
    weights: Weights = "safetensors" if safetensors else "bin"
    folder.mkdir(exist_ok=True)
    write_sharded(folder, mapped.tensors, shard_bytes, weights=weights, finished=finished, numbered=True, tick=tick)


def write_once(path: Path, write: Write, *, finished: Finished) -> None:
    """Have a single file made, unless it is `finished` already.

    It gets its name when it is whole; before that it has it in a folder of its own, because torch files hold theirs.
    """
    if path.name in finished.digests:
        return
    place = path.parent / "partial" / path.name
    place.parent.mkdir(exist_ok=True)
    finished.make(path, place, write)
