"""`trc2 clean` and `trc2 split`: streaming, whole or not at all, and each mended defect beside its imitation."""

from __future__ import annotations

from pathlib import Path

import pytest

from regraft.errors import ConflictError, InvalidDataError, InvalidInputError, NotFoundError
from regraft_dataprep.reference.documents import list_inputs
from regraft_dataprep.reference.trc2 import clean_file, split_file


def lines_file(folder: Path, count: int, *, end: bytes = b"\n") -> Path:
    path = folder / "corpus.clean"
    path.write_bytes(b"".join(b"line %d\n" % number for number in range(count)).removesuffix(b"\n") + end)
    return path


@pytest.mark.parametrize("end", [b"", b"\n"])
def test_cleaning_keeps_lines_and_the_file_s_end(tmp_path: Path, end: bytes) -> None:
    source = tmp_path / "raw"
    source.write_bytes(b"<DOC>\n2008-01-01 00:00:03 Head\xff [ID:nL1] line\nTRC2-2008-01-01-0001" + end)
    assert clean_file(source, output=tmp_path / "new" / "out") == 3
    assert (tmp_path / "new" / "out").read_bytes() == b"\nHead  line\n" + end
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["out"]


def test_cleaning_onto_itself_or_from_nothing_is_refused(tmp_path: Path) -> None:
    source = lines_file(tmp_path, 1)
    with pytest.raises(InvalidInputError, match="same file"):
        clean_file(source, output=tmp_path / "." / source.name)
    with pytest.raises(NotFoundError, match="no such file"):
        clean_file(tmp_path / "none", output=tmp_path / "out")


@pytest.mark.parametrize("end", [b"", b"\n"])
@pytest.mark.parametrize(("count", "shards"), [(1, 1), (9, 1), (10, 1), (11, 2), (20, 2), (25, 3)])
def test_no_line_is_lost_and_reference_loses_the_last_shard(
    tmp_path: Path, count: int, shards: int, end: bytes
) -> None:
    source = lines_file(tmp_path, count, end=end)
    result = split_file(source, out_dir=tmp_path / "ours", buffer_len=10, val_split_ratio=0.5)
    paths = [*result.train, *result.validation]
    assert [path.name for path in paths] == [f"corpus.clean-{number}.txt" for number in range(shards)]
    assert b"".join(path.read_bytes() for path in paths) == source.read_bytes()
    assert len(result.validation) == shards // 2
    if shards > 1:
        imitated = split_file(source, out_dir=tmp_path / "theirs", buffer_len=10, reference=True)
        assert [path.name for path in imitated.train] == [f"corpus.clean-{number}" for number in range(shards - 1)]
        assert imitated.lines_dropped == count - 10 * (shards - 1)
        assert len(list((tmp_path / "theirs" / "split_files").iterdir())) == shards - 1
    else:
        with pytest.raises(InvalidDataError, match="leave --reference away"):
            split_file(source, out_dir=tmp_path / "theirs", buffer_len=10, reference=True)


def test_the_lists_name_the_shards_and_the_next_step_finds_them(tmp_path: Path) -> None:
    out = tmp_path / "exists"
    out.mkdir()
    split_file(lines_file(tmp_path, 95), out_dir=out, buffer_len=10, val_split_ratio=0.25)
    train, validation = (out / f"{name}_meta.txt" for name in ("train", "val"))
    assert len(list_inputs(input_dir=None, metadata_files=str(train)).paths) == 8
    found = list_inputs(input_dir=None, metadata_files=f"{train}, {validation}")
    assert [path.name for path in found.paths] == [f"corpus.clean-{number}.txt" for number in range(10)]
    bare = split_file(lines_file(tmp_path, 95), out_dir=tmp_path / "bare", buffer_len=10, reference=True)
    assert bare.train
    with pytest.raises(InvalidInputError, match="known extension"):
        list_inputs(input_dir=None, metadata_files=str(tmp_path / "bare" / "train_meta.txt"))


def test_earlier_shards_are_replaced_only_when_asked(tmp_path: Path) -> None:
    out = tmp_path / "out"
    split_file(lines_file(tmp_path, 50), out_dir=out, buffer_len=10)
    (out / "split_files" / "mine").touch()
    with pytest.raises(ConflictError, match="5 shards are there already"):
        split_file(lines_file(tmp_path, 20), out_dir=out, buffer_len=10)
    split_file(lines_file(tmp_path, 20), out_dir=out, buffer_len=10, overwrite=True)
    left = sorted(path.name for path in (out / "split_files").iterdir())
    assert left == ["corpus.clean-0.txt", "corpus.clean-1.txt", "mine"]


def test_carriage_returns_end_lines_only_in_the_imitation(tmp_path: Path) -> None:
    source = tmp_path / "f"
    source.write_bytes(b"a\rb\r\nc\nd\n")
    split_file(source, out_dir=tmp_path / "ours", buffer_len=2)
    assert (tmp_path / "ours" / "split_files" / "f-0.txt").read_bytes() == b"a\rb\r\nc\n"
    split_file(source, out_dir=tmp_path / "theirs", buffer_len=2, reference=True)
    assert (tmp_path / "theirs" / "split_files" / "f-0").read_bytes() == b"a\nb\n"


@pytest.mark.parametrize(("change", "field"), [({"buffer_len": 0}, "buffer_len"), ({"val_split_ratio": 1.0}, "val")])
def test_numbers_out_of_range_are_refused(tmp_path: Path, change: dict[str, float], field: str) -> None:
    with pytest.raises(InvalidInputError, match=field):
        split_file(lines_file(tmp_path, 5), out_dir=tmp_path / "out", **change)  # type: ignore[arg-type]


def test_an_empty_file_and_one_that_is_no_text_say_so(tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.touch()
    with pytest.raises(InvalidDataError, match="The file is empty"):
        split_file(empty, out_dir=tmp_path / "out")
    (tmp_path / "bad").write_bytes(b"\xff\n" * 3)
    with pytest.raises(InvalidDataError, match="trc2 clean"):
        split_file(tmp_path / "bad", out_dir=tmp_path / "out", buffer_len=1, reference=True)
