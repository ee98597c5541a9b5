"""The files of a conversion, in the encoding that the target format is written in."""

from __future__ import annotations

import json
from dataclasses import replace
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
from regraft_worker.conversion.writers.nesting import by_keys
from regraft_worker.conversion.writers.sharded import Weights

_WRAPPER = "model."


def write_cs(path: Path, mapped: Mapped, state: Carried, *, target: Format, prefix: str, h5: bool, tick: Tick) -> None:
    """Write a `.mdl`; `h5` asks for HDF5 where the release reads what can be written here."""
    assert target.release is not None, "a Cerebras format"
    before = _WRAPPER + prefix
    tensors = [*(replace(lazy, name=before + lazy.name) for lazy in mapped.tensors), *named(state.tensors)]
    aliases = {before + name: before + of for name, of in mapped.aliases.items()} | state.aliases
    nest, kind = (trained, trained_kind) if state.tensors or state.values else (below_first, by_keys)
    if encoding(target, h5=h5) == "torch-zip":
        write_torch_zip(path, tensors, values=state.values, aliases=aliases, nest=nest, kind=kind, tick=tick)
        return
    release = ".".join(str(number) for number in (*target.release, 0))
    write_hdf5_05(path, tensors, values=state.values, aliases=aliases, nest=nest, kind=kind, release=release, tick=tick)


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


def write_one_hf(path: Path, mapped: Mapped, *, safetensors: bool, tick: Tick) -> None:
    """Write all tensors into one file, as the releases before 2.0 did."""
    if safetensors:
        write_safetensors(path, mapped.tensors, tick=tick)
    else:
        write_torch_zip(path, mapped.tensors, nest=flat, tick=tick)


def write_hf_folder(folder: Path, mapped: Mapped, *, shard_bytes: int, safetensors: bool, tick: Tick) -> None:
    """Write shards and their index; the original numbers a single shard, too."""
    weights: Weights = "safetensors" if safetensors else "bin"
    stem = "model" if safetensors else "pytorch_model"
    folder.mkdir()
    write_sharded(folder, mapped.tensors, shard_bytes, weights=weights, tick=tick)
    only = folder / f"{stem}.{weights}"
    if not only.exists():
        return
    numbered = only.rename(folder / f"{stem}-00001-of-00001.{weights}")
    content = {
        "metadata": {"total_size": sum(lazy.nbytes for lazy in mapped.tensors)},
        "weight_map": {lazy.name: numbered.name for lazy in mapped.tensors},
    }
    (folder / f"{stem}.{weights}.index.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
