"""Reading and writing Hugging Face checkpoint folders, one tensor at a time.

Reading maps the files into memory, so that a tensor costs memory only while it is used; `.bin` files are opened with
torch's weights-only unpickler and nothing else. Writing collects one shard (5 GB unless told otherwise) before it
goes to disk: that is the memory this needs. Dtypes stay as stored.

When not to use it: to look into a folder without torch; that is `regraft.checkpoint_info`.
"""

from __future__ import annotations

import json
import pickle
import shutil
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from regraft.checkpoint_files import Weights, find_weights, read_config
from regraft.checkpoint_info import EXTRA_FILES, check_tensors, read_architecture
from regraft.errors import InvalidDataError
from regraft.families import Architecture, Family, detect
from regraft.keymap import embedding_row, is_ignored, rows
from regraft_worker.conversion.tensors import Named, same_bits

MAX_SHARD_BYTES = 5_000_000_000
_FIELD = "checkpoint"
_FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
# Written by whoever saved the source; wrong or meaningless in what is written here.
_DROPPED_KEYS = frozenset({"torch_dtype", "auto_map", "_name_or_path"})


def load_config(folder: Path) -> dict[str, object]:
    """The folder's `config.json`."""
    return read_config(folder, field=_FIELD)


def read_tensors(folder: Path) -> Iterator[Named]:
    """Every tensor of a checkpoint folder, ordered by name; buffers of old files and a tied head are left out.

    Raises:
        InvalidDataError: the folder holds no usable checkpoint, or its tensors do not match its config.
    """
    family, architecture = read_architecture(load_config(folder))
    return read_weights(find_weights(folder, field=_FIELD), family, architecture)


def read_weights(weights: Weights, family: Family, architecture: Architecture) -> Iterator[Named]:
    """Like `read_tensors`, for weight files that are known already."""
    with ExitStack() as stack:
        files = [_Safetensors(path, stack) if weights.kind == "safetensors" else _Bin(path) for path in weights.files]
        where = {name: file for file in files for name in file.names if not is_ignored(family, name)}
        shapes = {name: file.shape(name) for name, file in where.items()}
        check_tensors(family, architecture, shapes, field=_FIELD)
        for name in sorted(where):
            tensor = where[name].read(name)
            _check_dtype(name, tensor)
            if not _is_tied_head(family, architecture, name):
                yield name, tensor
            else:
                embedding = embedding_row(family).hf
                _check_tied(name, tensor, where[embedding].read(embedding))


def write_checkpoint(
    folder: Path,
    tensors: Iterable[Named],
    *,
    config: Mapping[str, object],
    extra_files_from: Path | None = None,
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> None:
    """Write a folder that `transformers` loads: config, safetensors (sharded when large), tokenizer files.

    `config` is a Hugging Face config of any supported family; its `dtype` is set to what is written. Tensors may be
    views; they are on the CPU and their values are not changed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    shards = _Shards(folder, max_shard_bytes)
    for name, tensor in tensors:
        shards.add(name, tensor)
    shards.finish()
    _write_json(folder / "config.json", written_config(config, shards.dtypes))
    if extra_files_from is not None:
        copy_extra_files(extra_files_from, folder)


def written_config(config: Mapping[str, object], dtypes: set[torch.dtype]) -> dict[str, object]:
    """The config that goes beside tensors of these dtypes; several are named by the one that holds them all."""
    assert dtypes, "a checkpoint has tensors"
    widest = dtypes.copy().pop()
    for dtype in dtypes:
        widest = torch.promote_types(widest, dtype)
    kept = {key: value for key, value in config.items() if key not in _DROPPED_KEYS}
    kept |= {"architectures": list(detect(config).architectures), "dtype": str(widest).removeprefix("torch.")}
    return dict(sorted(kept.items()))


def copy_extra_files(source: Path, target: Path) -> None:
    """Copy the tokenizer and the generation config, as far as they are there."""
    for name in EXTRA_FILES:
        if (source / name).is_file():
            shutil.copyfile(source / name, target / name)


class _Safetensors:
    """One safetensors file, mapped."""

    def __init__(self, path: Path, stack: ExitStack) -> None:
        self._file = stack.enter_context(safe_open(path, framework="pt"))
        self.names: list[str] = list(self._file.keys())

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._file.get_slice(name).get_shape())

    def read(self, name: str) -> torch.Tensor:
        tensor: torch.Tensor = self._file.get_tensor(name)
        return tensor


class _Bin:
    """One file of `torch.save`, mapped where its age allows it."""

    def __init__(self, path: Path) -> None:
        self._tensors = load_pickle(path)
        self.names = list(self._tensors)
        for name, tensor in self._tensors.items():
            if not isinstance(tensor, torch.Tensor):
                raise InvalidDataError(
                    f"{path.name} must hold tensors by name; '{name}' is a {type(tensor).__name__}",
                    field=_FIELD,
                    value=str(path),
                    remedy="Save the model's state dict alone.",
                    reason="unsupported_checkpoint",
                )

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._tensors[name].shape)

    def read(self, name: str) -> torch.Tensor:
        return self._tensors[name]


def load_pickle(path: Path) -> dict[str, torch.Tensor]:
    """The dict in a file of `torch.save`, read without running any code of the file.

    Raises:
        InvalidDataError: it is damaged, or holds more than tensors and plain values.
    """
    try:
        with path.open("rb") as file:
            zipped = file.read(2) == b"PK"  # files older than torch 1.6 are not, and cannot be mapped
        if zipped and not zipfile.is_zipfile(path):
            raise EOFError("the end of the archive is missing")
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        raise InvalidDataError(
            "the file cannot be read as a checkpoint of tensors alone",
            field=_FIELD,
            value=str(path),
            remedy="Download the file again; files that hold other Python objects are refused because they run code.",
            reason="unreadable_checkpoint",
        ) from error
    if not isinstance(content, dict):
        raise InvalidDataError(
            f"the file holds a {type(content).__name__}, not tensors by name",
            field=_FIELD,
            value=str(path),
            remedy="Save the model's state dict.",
            reason="unsupported_checkpoint",
        )
    return content


class _Shards:
    """Writes safetensors files of at most so many bytes; their number is known at the end, and so are their names."""

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self.dtypes: set[torch.dtype] = set()
        self._folder = folder
        self._max_bytes = max_bytes
        self._waiting: dict[str, torch.Tensor] = {}
        self._waiting_bytes = 0
        self._total_bytes = 0
        self._written: list[list[str]] = []

    def add(self, name: str, tensor: torch.Tensor) -> None:
        size = tensor.numel() * tensor.element_size()
        if self._waiting and self._waiting_bytes + size > self._max_bytes:
            self._flush()
        # A view of something larger is copied: safetensors refuses memory that two tensors share.
        alone = tensor.is_contiguous() and tensor.untyped_storage().nbytes() == size
        self._waiting[name] = tensor.detach() if alone else tensor.detach().clone(memory_format=torch.contiguous_format)
        self._waiting_bytes += size
        self._total_bytes += size
        self.dtypes.add(tensor.dtype)

    def finish(self) -> None:
        self._flush()
        count = len(self._written)
        if count == 1:
            self._part(0).rename(self._folder / "model.safetensors")
            return
        weight_map: dict[str, str] = {}
        for number, names in enumerate(self._written):
            final = f"model-{number + 1:05d}-of-{count:05d}.safetensors"
            self._part(number).rename(self._folder / final)
            weight_map |= dict.fromkeys(names, final)
        index = {"metadata": {"total_size": self._total_bytes}, "weight_map": dict(sorted(weight_map.items()))}
        _write_json(self._folder / "model.safetensors.index.json", index)

    def _part(self, number: int) -> Path:
        return self._folder / f"part-{number:05d}.safetensors"

    def _flush(self) -> None:
        path = self._part(len(self._written))
        path.touch()
        mode = path.stat().st_mode
        save_file(self._waiting, path, metadata={"format": "pt"})
        path.chmod(mode)  # safetensors makes files that only their owner may read
        self._written.append(list(self._waiting))
        self._waiting, self._waiting_bytes = {}, 0


def _write_json(path: Path, content: Mapping[str, object]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _is_tied_head(family: Family, architecture: Architecture, name: str) -> bool:
    return architecture.tied_embeddings and any(row.is_head and row.hf == name for row in rows(family, architecture))


def _check_dtype(name: str, tensor: torch.Tensor) -> None:
    if tensor.dtype not in _FLOATS:
        raise InvalidDataError(
            f"'{name}' is stored as {tensor.dtype}; quantised weights cannot be trained",
            field=_FIELD,
            value=str(tensor.dtype),
            remedy="Use a checkpoint stored as float32, float16 or bfloat16.",
            reason="unsupported_dtype",
        )


def _check_tied(name: str, head: torch.Tensor, embedding: torch.Tensor) -> None:
    if not same_bits(head, embedding):
        raise InvalidDataError(
            f"config.json ties '{name}' to the embedding, and the file has other values for it",
            field="config.json: tie_word_embeddings",
            value=True,
            remedy="Set tie_word_embeddings to false if the model has a head of its own.",
            reason="config_tensors_disagree",
        )
