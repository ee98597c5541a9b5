"""Hugging Face checkpoints: their tensors checked against their config, and folders that `transformers` loads.

Tensors are `Lazy` on the way in and on the way out, so a checkpoint of any size needs memory for some blocks. Dtypes
stay as stored. What is read may be of any encoding, what is written is safetensors.

When not to use it: to look into a folder without torch; that is `regraft.checkpoint_info`.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch

from regraft.checkpoint_files import find_weights, read_config
from regraft.checkpoint_info import EXTRA_FILES, check_tensors, read_architecture
from regraft.errors import InvalidDataError
from regraft.families import Architecture, Family, detect
from regraft.keymap import embedding_row, is_ignored, rows
from regraft.specs.stages import SHARD_BYTES
from regraft_worker.conversion.bits import same_values
from regraft_worker.conversion.lazy import Lazy
from regraft_worker.conversion.opened import open_checkpoint
from regraft_worker.conversion.side import Side
from regraft_worker.conversion.writers import write_sharded
from regraft_worker.conversion.writers.base import Tick

_FIELD = "checkpoint"
_FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
# Written by whoever saved the source; wrong or meaningless in what is written here.
_DROPPED_KEYS = frozenset({"torch_dtype", "auto_map", "_name_or_path"})


def load_config(folder: Path) -> dict[str, object]:
    """The folder's `config.json`."""
    return read_config(folder, field=_FIELD)


@contextmanager
def open_folder(folder: Path) -> Iterator[Side]:
    """The model in a checkpoint folder, its tensors as `model_tensors` gives them, while the context lasts.

    Raises:
        InvalidDataError: the folder holds no usable checkpoint, or its tensors do not match its config.
    """
    family, architecture = read_architecture(load_config(folder))
    weights = find_weights(folder, field=_FIELD)
    with open_checkpoint(weights.index or weights.files[0]) as opened:
        tensors = model_tensors(family, architecture, opened.tensors)
        yield Side(family=family, architecture=architecture, naming="hf", tensors=tensors)


def model_tensors(family: Family, architecture: Architecture, tensors: Mapping[str, Lazy]) -> dict[str, Lazy]:
    """The tensors of the model by name, in order of names; buffers of old files and a tied head are left out.

    Raises:
        InvalidDataError: they do not match the config, or are no plain floating-point numbers.
    """
    kept = {name: lazy for name, lazy in sorted(tensors.items()) if not is_ignored(family, name)}
    check_tensors(family, architecture, {name: lazy.shape for name, lazy in kept.items()}, field=_FIELD)
    check_dtypes(kept)
    for name in tensors.keys() - kept.keys():
        _check_buffer(architecture, name, tensors[name])
    for row in rows(family, architecture):
        if row.is_head and architecture.tied_embeddings and row.hf in kept:
            _check_tied(kept.pop(row.hf), kept[embedding_row(family).hf])
    return kept


def check_dtypes(tensors: Mapping[str, Lazy]) -> None:
    """Refuse quantised weights.

    Raises:
        InvalidDataError: naming the first of them.
    """
    for name, lazy in tensors.items():
        if lazy.dtype not in _FLOATS:
            raise InvalidDataError(
                f"'{name}' is stored as {lazy.dtype}; quantised weights cannot be trained",
                field=_FIELD,
                value=str(lazy.dtype),
                remedy="Use a checkpoint stored as float32, float16 or bfloat16.",
                reason="unsupported_dtype",
            )


def write_checkpoint(
    folder: Path,
    tensors: Iterable[Lazy],
    *,
    config: Mapping[str, object],
    extra_files_from: Path | None = None,
    family: Family | None = None,
    max_shard_bytes: int = SHARD_BYTES,
    source: str = "",
    tick: Tick = lambda count: None,
) -> dict[str, str]:
    """Write a folder that `transformers` loads: config, safetensors (sharded when large), tokenizer files.

    `config` is a Hugging Face config of any supported family; its `dtype` is set to what is written. `family` says
    which variant of it the tensors are, when that is not the one with a head. With `source`, a
    name for the tensors, writing goes on where an earlier call was cut short. Returns each tensor's sha256 by name.
    """
    folder.mkdir(parents=True, exist_ok=True)
    listed = list(tensors)
    content = written_config(config, {lazy.dtype for lazy in listed}, family=family)
    (folder / "config.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    if extra_files_from is not None:
        copy_extra_files(extra_files_from, folder)
    return write_sharded(folder, listed, max_shard_bytes, source=source, tick=tick)


def written_config(
    config: Mapping[str, object], dtypes: set[torch.dtype], *, family: Family | None = None
) -> dict[str, object]:
    """The config that goes beside tensors of these dtypes; several are named by the one that holds them all."""
    assert dtypes, "a checkpoint has tensors"
    widest = dtypes.copy().pop()
    for dtype in dtypes:
        widest = torch.promote_types(widest, dtype)
    kept = {key: value for key, value in config.items() if key not in _DROPPED_KEYS}
    kept |= {
        "architectures": list((family or detect(config)).architectures),
        "dtype": str(widest).removeprefix("torch."),
    }
    return dict(sorted(kept.items()))


def copy_extra_files(source: Path, target: Path) -> None:
    """Copy the tokenizer and the generation config, as far as they are there."""
    for name in EXTRA_FILES:
        if (source / name).is_file():
            shutil.copyfile(source / name, target / name)


def _check_buffer(architecture: Architecture, name: str, buffer: Lazy) -> None:
    """Old files keep their rotary frequencies: the only tensors whose shapes tell the rotary dimension."""
    widths = {"inv_freq": architecture.rotary_dim // 2, "embed_positions": architecture.rotary_dim}
    wanted = widths.get(name.rpartition(".")[2])
    if wanted is None or buffer.shape[-1:] == (wanted,):
        return
    raise InvalidDataError(
        f"the weights were saved with another rotary dimension: '{name}' has shape {list(buffer.shape)}",
        field="config.json: rotary dimension",
        value=architecture.rotary_dim,
        remedy="Use the config.json that was saved with these weights.",
        reason="config_tensors_disagree",
    )


def _check_tied(head: Lazy, embedding: Lazy) -> None:
    if not same_values(head, embedding):
        raise InvalidDataError(
            f"config.json ties '{head.name}' to the embedding, and the file has other values for it",
            field="config.json: tie_word_embeddings",
            value=True,
            remedy="Set tie_word_embeddings to false if the model has a head of its own.",
            reason="config_tensors_disagree",
        )
