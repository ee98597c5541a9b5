"""Making checkpoint files, honest and hostile ones, and what must hold after a refusal."""

from __future__ import annotations

import io
import os
import pickle
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import pytest
import torch

from regraft.errors import InvalidDataError
from regraft_worker.conversion.containers import open_container
from regraft_worker.conversion.containers.base import Container
from regraft_worker.conversion.lazy import Lazy

REASONS = {"unreadable_checkpoint", "unsafe_checkpoint", "unsupported_checkpoint"}


class Saved:
    """Pickled as a persistent id."""

    def __init__(self, *words: object) -> None:
        self.words = words


class Call:
    """Pickled as a call of `function`, with a state if one is given."""

    def __init__(self, function: object, *arguments: object, state: object = None) -> None:
        self.parts = (function, arguments) if state is None else (function, arguments, state)

    def __reduce__(self) -> Any:
        return self.parts


class _Pickler(pickle.Pickler):
    def persistent_id(self, obj: Any) -> Any:
        return obj.words if isinstance(obj, Saved) else None


def pickled(tree: object, protocol: int = 2) -> bytes:
    file = io.BytesIO()
    _Pickler(file, protocol).dump(tree)
    return file.getvalue()


def storage(key: str = "0", numel: int = 4, kind: object = torch.FloatStorage) -> Saved:
    return Saved("storage", kind, key, "cpu", numel)


def rebuilt(*arguments: object) -> Call:
    return Call(torch._utils._rebuild_tensor_v2, *arguments)


def torch_zip(
    path: Path,
    content: bytes,
    *,
    storages: Mapping[str, bytes] | None = None,
    order: bytes | None = None,
    packed: int = 0,
) -> Path:
    """A zip as torch writes it, with any pickle; `packed`: the compression of its storages."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", content)
        if order is not None:
            archive.writestr("archive/byteorder", order)
        for key, data in ({"0": bytes(16)} if storages is None else storages).items():
            archive.writestr(f"archive/data/{key}", data, compress_type=packed)
        archive.writestr("archive/version", b"3\n")
    return path


def torch_tree() -> dict[str, Any]:
    """Everything an honest checkpoint may have."""
    shared = torch.arange(24, dtype=torch.float32).reshape(4, 6)
    return {
        "model": {
            "lm_head.weight": shared,
            "tied.weight": shared,
            "rows": shared[1:3],
            "columns": shared[:, 1:4],
            "turned": shared.t(),
            "parameter": torch.nn.Parameter(torch.randn(3, 5)),
            "nothing": torch.empty(0, 7),
            "flat nothing": torch.empty(3, 0),
            "number": torch.tensor(2.5),
            "cube": torch.randn(2, 3, 4),
        },
        "types": [
            torch.ones(3).to(dtype)
            for dtype in (torch.bfloat16, torch.float16, torch.float64, torch.int64, torch.int32, torch.int16)
        ],
        "small": (torch.tensor([1, 2], dtype=torch.int8), torch.tensor([250], dtype=torch.uint8), torch.tensor([True])),
        "optimizer": {"state": {0: {"step": 3}}, "param_groups": [{"lr": 0.1, "betas": (0.9, 0.95), "fused": None}]},
        "global_step": 7,
        "name": "text",
        "flag": False,
        "size": torch.Size([2, 3]),
        "device": torch.device("cpu"),
        "dtype": torch.bfloat16,
        "seed": b"\x01\x02",
    }


def hdf5(path: Path, version: float | None = 0.5, *, finished: bool = True) -> h5py.File:
    file = h5py.File(path, "w")
    if version is not None:
        file.attrs["__version__"] = version
    if version == 0.5 and finished:
        file.attrs["__SUCCESS__"] = True
    return file


def same(lazy: Lazy, tensor: torch.Tensor) -> bool:
    """Bit for bit, read whole and read in blocks of some rows."""
    whole, blocks = lazy.whole(), list(lazy.blocks(16))
    rejoined = torch.cat(blocks).reshape(lazy.shape) if blocks else lazy.whole()
    return all(
        found.dtype == tensor.dtype
        and found.shape == tensor.shape
        and torch.equal(found.contiguous().view(-1).view(torch.uint8), tensor.contiguous().view(-1).view(torch.uint8))
        if tensor.dim()
        else torch.equal(found, tensor) and found.dtype == tensor.dtype
        for found in (whole, rejoined)
    )


def assert_refused(path: Path, reason: str, cause: str) -> InvalidDataError:
    with pytest.raises(InvalidDataError) as caught, nothing_left(path.parent):
        open_container(path)
    assert caught.value.reason == reason, caught.value.message
    assert cause in caught.value.message
    assert path.name in caught.value.message
    assert caught.value.value == str(path)
    return caught.value


def opened_or_refused(path: Path) -> Container | None:
    """None when it is refused as it should be; anything else than a refusal or a container is an error."""
    try:
        return open_container(path)
    except InvalidDataError as error:
        assert error.reason in REASONS
        assert path.name in error.message
        return None


@contextmanager
def nothing_left(folder: Path) -> Iterator[None]:
    """No file, no child process and no descriptor of a file there more than before."""
    before = _state(folder)
    try:
        yield
    finally:
        assert _state(folder) == before


def _state(folder: Path) -> tuple[list[Path], list[str], list[str]]:
    targets = [str(link.readlink()) for link in Path("/proc/self/fd").iterdir() if link.is_symlink()]
    descriptors = sorted(target for target in targets if target.startswith(str(folder)))
    return sorted(folder.rglob("*")), descriptors, _children()


def _children() -> list[str]:
    mine = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            number, _, rest = stat.read_text().partition(" (")
        except (FileNotFoundError, ProcessLookupError):
            continue  # it has ended meanwhile
        if rest.rpartition(") ")[2].split()[1] == str(os.getpid()):
            mine.append(number)
    return sorted(mine)
