"""The two steps that turn the raw TRC2 file into shards: cleaning, and splitting by lines into train and validation.

Both stream, and write beside the target first, so a run that is stopped leaves nothing that looks whole. Shards are
named `.txt`, because the next step looks for known extensions, and the last one is kept. `reference` imitates the
original script instead: bare names, its universal newlines, and its loss of the last shard.

The trade-off: lines are cut by number, so stories are cut in two at a shard's border and their borders are gone by
then. Not for a corpus whose documents matter: `regraft prepare --source trc2` reads stories.
"""

from __future__ import annotations

import itertools
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from regraft.errors import ConflictError, InvalidDataError, InvalidInputError, NotFoundError
from regraft_dataprep.clean import clean_lines

_BLOCK_BYTES = 2**20


@dataclass(frozen=True, slots=True)
class SplitResult:
    """What a split wrote, and what the imitated script would have lost without a word."""

    train: list[Path]
    validation: list[Path]
    lines: int
    lines_dropped: int


def clean_file(source: Path, *, output: Path) -> int:
    """Clean the lines of `source` into `output`, which appears when it is whole; the number of lines.

    Raises:
        NotFoundError: no such file.
        InvalidInputError: both are one file.
    """
    _must_be_a_file(source, field="IN")
    if output.exists() and output.samefile(source):
        raise InvalidInputError("input and output are the same file", field="OUT", value=str(output))
    output.parent.mkdir(parents=True, exist_ok=True)
    part = output.with_name(f".{output.name}.part")
    lines = 0
    with source.open("rb") as raw, part.open("wb") as cleaned:
        while block := b"".join(raw.readlines(_BLOCK_BYTES)):
            cleaned.write(clean_lines(block))
            lines += block.count(b"\n") + (not block.endswith(b"\n"))
    part.replace(output)
    return lines


def split_file(
    source: Path,
    *,
    out_dir: Path,
    buffer_len: int = 10_000,
    val_split_ratio: float = 0.1,
    reference: bool = False,
    overwrite: bool = False,
) -> SplitResult:
    """Cut `source` into shards of `buffer_len` lines; the last `val_split_ratio` of the shards are validation.

    Writes `<out_dir>/split_files/<name>-<i>.txt`, `train_meta.txt` and `val_meta.txt`.

    Raises:
        NotFoundError, InvalidInputError: no such file, a number out of range.
        ConflictError: shards are there already, and `overwrite` is not set.
        InvalidDataError: no shard came out.
    """
    _must_be_a_file(source, field="input_file")
    _check_numbers(buffer_len, val_split_ratio=val_split_ratio)
    folder = out_dir / "split_files"
    old = _old_shards(folder, name=source.name)
    if old and not overwrite:
        raise ConflictError(
            f"{len(old)} shards are there already",
            field="out_dir",
            value=str(folder),
            remedy="Name another folder, or pass --overwrite.",
        )
    part = _fresh_folder(out_dir / ".split_files.part")
    names, lines, dropped = _write_shards(source, folder=part, buffer_len=buffer_len, reference=reference)
    _must_have_shards(names, lines=lines, buffer_len=buffer_len, source=source)
    _move_in(part, names=names, folder=folder, old=old)
    held_out = int(val_split_ratio * len(names))
    paths = [folder / name for name in names]
    result = SplitResult(paths[: len(paths) - held_out], paths[len(paths) - held_out :], lines, dropped)
    _write_list(out_dir / "train_meta.txt", paths=result.train)
    _write_list(out_dir / "val_meta.txt", paths=result.validation)
    return result


def _write_shards(source: Path, *, folder: Path, buffer_len: int, reference: bool) -> tuple[list[str], int, int]:
    names: list[str] = []
    total = last = 0
    lines = _reference_lines(source) if reference else _lines(source)
    while last := _write_shard(
        itertools.islice(lines, buffer_len), folder / _shard_name(source, len(names), reference)
    ):
        names.append(_shard_name(source, len(names), reference))
        total += last
    (folder / _shard_name(source, len(names), reference)).unlink()
    if not (reference and names):
        return names, total, 0
    # The original writes a shard when it meets the line after it, so never the last one.
    lost = total - (len(names) - 1) * buffer_len
    (folder / names.pop()).unlink()
    return names, total, lost


def _write_shard(lines: Iterator[bytes], path: Path) -> int:
    with path.open("wb") as shard:
        return sum(1 for line in lines if shard.write(line))


def _shard_name(source: Path, number: int, reference: bool) -> str:
    return f"{source.name}-{number}" if reference else f"{source.name}-{number}.txt"


def _lines(source: Path) -> Iterator[bytes]:
    with source.open("rb") as file:
        yield from file


def _reference_lines(source: Path) -> Iterator[bytes]:
    # Python's text mode: a carriage return ends a line, too, and becomes a newline.
    try:
        with source.open(encoding="utf-8") as file:
            for line in file:
                yield line.encode("utf-8")
    except UnicodeDecodeError as error:
        raise InvalidDataError(
            f"this file is not UTF-8 ({error})",
            field="input_file",
            value=str(source),
            remedy="Clean it first with `regraft trc2 clean`.",
        ) from error


def _check_numbers(buffer_len: int, *, val_split_ratio: float) -> None:
    if buffer_len < 1:
        raise InvalidInputError("a shard needs at least one line", field="buffer_len", value=buffer_len)
    if not 0 <= val_split_ratio < 1:
        raise InvalidInputError("must be at least 0 and below 1", field="val_split_ratio", value=val_split_ratio)


def _must_be_a_file(path: Path, *, field: str) -> None:
    if not path.is_file():
        raise NotFoundError("there is no such file", field=field, value=str(path))


def _must_have_shards(names: list[str], *, lines: int, buffer_len: int, source: Path) -> None:
    if not names:
        raise InvalidDataError(
            f"{lines} lines give no shard of {buffer_len}",
            field="input_file",
            value=str(source),
            remedy="The original drops the last shard: leave --reference away." if lines else "The file is empty.",
        )


def _old_shards(folder: Path, *, name: str) -> list[Path]:
    ours = re.compile(re.escape(name) + r"-\d+(\.txt)?")
    return [path for path in folder.glob("*") if ours.fullmatch(path.name)]


def _fresh_folder(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def _move_in(part: Path, *, names: list[str], folder: Path, old: list[Path]) -> None:
    for path in old:
        path.unlink()
    folder.mkdir(exist_ok=True)
    for name in names:
        (part / name).replace(folder / name)
    part.rmdir()


def _write_list(path: Path, *, paths: list[Path]) -> None:
    part = path.with_name(f".{path.name}.part")
    part.write_text("".join(f"{entry}\n" for entry in paths), encoding="utf-8")
    part.replace(path)
