"""Pieces: what is written of a part of the corpus, and that it is whole when it is read."""

from __future__ import annotations

import hashlib
import tempfile
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from piece_making import EOS, word_encoder, words, write_piece
from regraft.errors import InvalidDataError
from regraft.specs.cleaning import CORRECTED, CleaningStep, Length, LengthStep
from regraft_dataprep import piece_writer
from regraft_dataprep.cleaning import Cleaner
from regraft_dataprep.document import Document
from regraft_dataprep.encoders import CheckedEncoder, ReferenceEncoder
from regraft_dataprep.piece_writer import PieceOptions, PieceWriter
from regraft_dataprep.pieces import DOCUMENT, NO_DATE, SIGNATURE, Piece, Stored, names, open_piece, token_dtype
from regraft_dataprep.sources.base import BadRecord, too_many

LONG: CleaningStep = LengthStep(length=Length(min_characters=4))


def texts_of(piece: Piece) -> list[str]:
    """The documents, decoded from their tokens."""
    tokenizer = word_encoder().tokenizer
    ends = np.cumsum(piece.documents[:]["tokens"], dtype=np.int64)
    rows = np.split(piece.ids[:], ends[:-1])
    return [tokenizer.decode(row.tolist(), skip_special_tokens=False) for row in rows]


def test_documents_are_closed_by_the_end_token_unless_they_continue(tmp_path: Path) -> None:
    documents = [Document("w1 w2"), Document("w3", continues=True), Document("w4"), Document("w5")]
    piece = write_piece(tmp_path / "piece", documents)
    assert piece.ids[:].tolist() == [3, 4, EOS, 5, 6, EOS, 7, EOS]
    assert piece.documents[:]["tokens"].tolist() == [3, 1, 2, 2]
    assert piece.documents[:]["continues"].tolist() == [False, True, False, False]


@given(
    st.lists(st.tuples(st.lists(st.integers(0, 9), max_size=4), st.booleans()), max_size=20),
    st.integers(1, 7),
    st.integers(1, 60),
)
@settings(deadline=None, max_examples=60)
def test_the_bytes_are_those_of_lists_however_documents_are_batched(
    drawn: list[tuple[list[int], bool]], most: int, characters: int
) -> None:
    documents = [Document(words(numbers), id=f"id {at}", continues=more) for at, (numbers, more) in enumerate(drawn)]
    expected = [
        token for numbers, more in drawn if numbers for token in [*(n + 2 for n in numbers), *([] if more else [EOS])]
    ]
    with tempfile.TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        whole = write_piece(Path(name) / "whole", documents)
        patch.setattr(piece_writer, "BATCH_DOCUMENTS", most)
        patch.setattr(piece_writer, "BATCH_CHARACTERS", characters)
        write_piece(Path(name) / "batches", documents)
        folders = [Path(name) / part for part in ("whole", "batches")]
        files = [{path.name: path.read_bytes() for path in folder.glob("*.bin")} for folder in folders]
        assert files[0] == files[1]
        own = [document.id for document in documents if document.text]
        assert [list(names(folder, count=len(own))) for folder in folders] == [own] * 2
        assert whole.ids[:].tolist() == expected


def test_what_is_dropped_has_no_tokens_and_keeps_its_count(tmp_path: Path) -> None:
    documents = [Document("w12"), Document("w1"), Document("w3456"), Document(""), Document("  ")]
    piece = write_piece(tmp_path / "piece", documents, steps=("drop_empty", LONG))
    assert piece.documents[:]["dropped"].tolist() == [2, 2, 0, 1]
    assert piece.documents[:]["tokens"].tolist() == [0, 0, 2, 0]
    assert piece.documents[:]["read"].tolist() == [3, 2, 5, 2]
    facts = piece.facts
    assert (facts["records"], facts["empty"], facts["rows"], facts["tokens"]) == (5, 1, 4, 2)
    assert piece.signatures is not None
    assert piece.signatures[:].shape == (4, SIGNATURE)
    assert (piece.signatures[:][[0, 1, 3]] == 0).all()


def test_a_part_of_which_nothing_is_left_is_a_piece(tmp_path: Path) -> None:
    for number, documents in enumerate([[], [Document("")], [Document("w1")]]):
        piece = write_piece(tmp_path / str(number), documents, steps=(LONG,))
        assert (len(piece.ids), len(piece.spans)) == (0, 0)


def test_the_end_token_of_a_long_document_survives_its_last_part(tmp_path: Path) -> None:
    documents = [Document("w1 w2 w3", continues=True), Document("w4", continues=True), Document("w5"), Document("w6")]
    piece = write_piece(tmp_path / "piece", documents, steps=(LONG,))
    assert piece.ids[:].tolist() == [3, 4, 5, EOS]
    assert piece.documents[:]["dropped"].tolist() == [0, 1, 0, 1]


def test_characters_are_counted_before_and_after_cleaning(tmp_path: Path) -> None:
    piece = write_piece(tmp_path / "piece", [Document("&lt;é\r\n"), Document("plain")], steps=CORRECTED)
    assert piece.documents[:]["read"].tolist() == [7, 5]
    assert piece.documents[:]["characters"].tolist() == [3, 5]
    assert piece.documents[:]["bytes"].tolist() == [4, 5]
    assert piece.facts["examples"] == [{"before": "&lt;é\r\n", "after": "<é\n"}]


def test_ids_dates_and_texts_are_kept_by_hash(tmp_path: Path) -> None:
    when = datetime(2008, 1, 2, 3, 4, 5)
    documents = [Document("w1", id="one", timestamp=when), Document("w2"), Document("w1")]
    piece = write_piece(tmp_path / "piece", documents)
    digest = np.frombuffer(hashlib.sha256(b"w1").digest()[:16], "<u8")
    assert piece.documents[:]["digest"][0].tolist() == piece.documents[:]["digest"][2].tolist() == digest.tolist()
    assert piece.documents[:]["key"][0] == int.from_bytes(hashlib.sha256(b"one").digest()[:8], "little")
    assert piece.documents[:]["key"][2] == digest[0]  # without an id it is known by its text
    assert piece.documents[:]["timestamp"].tolist() == [int(when.replace(tzinfo=UTC).timestamp()), NO_DATE, NO_DATE]
    assert list(names(tmp_path / "piece", count=3)) == ["one", "", ""]


def test_documents_without_ids_have_no_file_of_names(tmp_path: Path) -> None:
    write_piece(tmp_path / "piece", [Document("w1"), Document("w2")])
    assert not (tmp_path / "piece" / "names.json").exists()
    assert list(names(tmp_path / "piece", count=2)) == ["", ""]


def test_bad_records_are_counted_and_too_many_end_it(tmp_path: Path) -> None:
    records = [Document("w1"), *(BadRecord("file", number, "no JSON") for number in range(30)), Document("w2")]
    piece = write_piece(tmp_path / "piece", records)
    assert (piece.facts["bad"], len(piece.facts["bad_first"]), piece.facts["rows"]) == (30, 20, 2)
    assert piece.facts["bad_first"][1]["number"] == 1

    def bad(record: BadRecord, count: int) -> None:
        if count > 3:
            raise too_many(count, 3, record)

    (tmp_path / "other").mkdir()
    reference = ReferenceEncoder(word_encoder())
    writer = PieceWriter(
        tmp_path / "other",
        cleaner=Cleaner(()),
        encoder=CheckedEncoder(reference, reference, part="other"),
        options=PieceOptions(eos_id=EOS, vocab_size=10, with_signatures=False),
    )
    with writer, pytest.raises(InvalidDataError, match="4 records cannot be read"):
        writer.write(records, tick=lambda documents, tokens: None, bad=bad)


def test_progress_is_told_after_every_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(piece_writer, "BATCH_DOCUMENTS", 2)
    told: list[tuple[int, int]] = []
    reference = ReferenceEncoder(word_encoder())
    options = PieceOptions(eos_id=EOS, vocab_size=10, with_signatures=False)
    checked = CheckedEncoder(reference, reference, part="piece")
    with PieceWriter(tmp_path, cleaner=Cleaner(()), encoder=checked, options=options) as writer:
        documents = [Document(text) for text in ("w1", "", "w2", "w3", "w4", "w5")]
        writer.write(documents, tick=lambda first, second: told.append((first, second)), bad=lambda record, count: None)
    assert told == [(3, 4), (5, 8), (6, 10)]


@pytest.mark.parametrize(("vocab_size", "size"), [(2, 2), (65_536, 2), (65_537, 4)])
def test_tokens_take_two_bytes_where_that_is_enough(vocab_size: int, size: int) -> None:
    dtype = token_dtype(vocab_size)
    assert dtype.itemsize == size
    assert np.iinfo(dtype).max >= vocab_size - 1


@pytest.mark.parametrize("name", ["ids", "documents", "spans", "signatures"])
@pytest.mark.parametrize("change", [-1, 1])
def test_a_file_of_another_size_is_refused_by_name(tmp_path: Path, name: str, change: int) -> None:
    write_piece(tmp_path / "piece", [Document(words(range(300)))])
    path = tmp_path / "piece" / f"{name}.bin"
    content = path.read_bytes()
    path.write_bytes(content[:change] if change < 0 else content + b"\0")
    with pytest.raises(InvalidDataError, match=f"bytes, not {len(content)}") as caught:
        open_piece(tmp_path / "piece", vocab_size=word_encoder().vocab_size)
    assert caught.value.value == str(path)


def test_documents_come_back_from_a_piece(tmp_path: Path) -> None:
    piece = write_piece(tmp_path / "piece", [Document("w7 w8"), Document("w9")])
    assert texts_of(piece) == ["w7 w8 <|endoftext|>", "w9 <|endoftext|>"]


def test_what_is_read_of_a_piece_stays_no_longer_than_it_is_used(tmp_path: Path) -> None:
    rows = np.zeros(200_000, DOCUMENT)  # 10.8 MB
    rows["tokens"] = np.arange(len(rows))
    rows.tofile(tmp_path / "documents.bin")
    documents = Stored(tmp_path / "documents.bin", DOCUMENT, len(rows))
    before = resident()
    assert documents[:]["tokens"].tolist() == rows["tokens"].tolist()
    assert resident() - before < 4_000_000
    mapped = np.memmap(tmp_path / "documents.bin", DOCUMENT, mode="r")  # the control
    assert mapped["tokens"].max() == 199_999
    assert resident() - before > 8_000_000


def test_any_stretch_of_a_file_is_read(tmp_path: Path) -> None:
    np.arange(7, dtype="<u2").tofile(tmp_path / "ids.bin")
    ids = Stored(tmp_path / "ids.bin", np.dtype("<u2"), 7)
    assert [ids[part].tolist() for part in (slice(2, 5), slice(5, 99), slice(4, 2), slice(None))] == [
        [2, 3, 4],
        [5, 6],
        [],
        list(range(7)),
    ]
    with pytest.raises(AssertionError):
        ids[::2]


def resident() -> int:
    """Bytes of files that are mapped into this process, and in memory."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssFile"))
