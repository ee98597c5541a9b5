"""The windows of a run as a dataset folder: links to the user's files, in the order in which they are to be read.

The trainer reads one folder with `train` and `eval`; a params file names any number of them. Where a set ends within a
file (a last, short batch that is left out; `eval_steps`), that one file is copied up to there.
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path

import h5py

from regraft.errors import InvalidInputError
from regraft.hdf5_reader import read_shard_info
from regraft_worker.zoo.reader import Part, Reader

_BLOCK = 4096  # windows of a copied file that are in memory at a time


def link_part(folder: Path, part: Part) -> int:
    """All files of `part` as links in `folder`; the number of windows, 0 of token streams."""
    files = part.files()
    folder.mkdir(parents=True)
    for number, file in enumerate(files):
        (folder / f"{number:06d}.h5").symlink_to(file)
    described = part.folders[0] / "data_params.json"
    if described.is_file():
        (folder / described.name).symlink_to(described)
    return _windows(files)


def link_train(folder: Path, reader: Reader) -> dict[str, object]:
    """The training windows below `folder`, and what a training specification says of them.

    Raises:
        InvalidInputError: there are none, or fewer than a batch.
    """
    own, *others = reader.parts
    windows = link_part(folder / "train", own)
    mixture = []
    for number, part in enumerate(others):
        link_part(folder / f"mixture-{number}", part)
        found = {"uri": str(folder / f"mixture-{number}"), "weight": part.weight, "data_subset": part.subset}
        mixture.append(found)
    subset = own.subset
    if windows and not reader.map_style and reader.drop_last and not reader.shuffle:
        subset = _whole_batches(windows, reader)
    return {
        "data_subset": subset,
        "mixture": mixture,
        "dataset_weight": own.weight,
        "max_sequence_length": reader.stream_length,
    }


def link_eval(folder: Path, reader: Reader, *, eval_steps: int | None) -> int:
    """The windows to score as `folder/eval`; returns the number of batches.

    Raises:
        InvalidInputError: there are none, or fewer than a batch where short batches are left out.
    """
    if len(reader.parts) > 1 or reader.parts[0].subset:
        raise InvalidInputError("is not offered for windows that are scored", field=f"{reader.where}.mixture")
    files = reader.parts[0].files()
    total = _windows(files)
    batches = total // reader.batch_size if reader.drop_last else -(-total // reader.batch_size)
    batches = batches if eval_steps is None else min(batches, eval_steps)
    if batches == 0:
        raise InvalidInputError(
            f"the {total} windows are fewer than a batch, or are no windows",
            field=f"{reader.where}.batch_size",
            value=reader.batch_size,
            remedy="Score smaller batches.",
        )
    _link_first(folder / "eval", files, min(total, batches * reader.batch_size))
    return batches


def _windows(files: Sequence[Path]) -> int:
    found = [read_shard_info(file) for file in files]
    return sum(info.examples for info in found if info.rows)


def _whole_batches(windows: int, reader: Reader) -> str | None:
    """The subset that ends with the last whole batch; null when that is all."""
    kept = windows - windows % reader.batch_size
    if kept == 0:
        raise InvalidInputError(
            f"there are only {windows} windows, fewer than a batch",
            field=f"{reader.where}.batch_size",
            value=reader.batch_size,
            remedy="Train on smaller batches, or set drop_last to false.",
        )
    # Half a window beyond the last one, so that no rounding of the fraction changes the count.
    return None if kept == windows else f"0.0-{Decimal(2 * kept + 1) / Decimal(2 * windows):.18f}"


def _link_first(folder: Path, files: Sequence[Path], windows: int) -> None:
    folder.mkdir(parents=True)
    for number, file in enumerate(files):
        examples = read_shard_info(file).examples
        here = folder / f"{number:06d}.h5"
        if windows >= examples:
            here.symlink_to(file)
        elif windows:
            _copy_first(file, here, windows)
        windows -= min(windows, examples)


def _copy_first(source: Path, target: Path, windows: int) -> None:
    with h5py.File(source, "r") as read, h5py.File(target, "w-") as written:
        data = read["data"]
        copied = written.create_dataset("data", (windows, *data.shape[1:]), data.dtype)
        for start in range(0, windows, _BLOCK):
            stop = min(start + _BLOCK, windows)
            copied[start:stop] = data[start:stop]
