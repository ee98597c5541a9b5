"""Encoding documents: the fast ids are those of `tokenizers`, and where they are not it is noticed."""

from __future__ import annotations

import pickle
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers

from regraft.ports import NullProgress
from regraft.specs.dataset import DatasetSpec
from regraft.specs.stages import PrepareTask
from regraft.storage import local_path, read_manifest
from regraft_dataprep import encoders
from regraft_dataprep.encoders import (
    AWKWARD,
    CheckedEncoder,
    DifferentIdsError,
    Encoded,
    GigatokenEncoder,
    PartEncoders,
    ReferenceEncoder,
    fastest_encoder,
    load_both,
)
from regraft_dataprep.pipeline import prepare
from regraft_dataprep.resources import Resources
from regraft_dataprep.tokenize import TextEncoder, load_tokenizer


@pytest.fixture
def folder(tmp_path: Path, tokenizer_dir: Path) -> Path:
    """A copy to spoil."""
    return Path(shutil.copytree(tokenizer_dir, tmp_path / "tokenizer"))


PIECES = st.one_of(
    st.text(),
    st.text(st.characters(categories=["L", "M", "N", "Z"])),
    st.text("ab '\n\r\t\0\u0301\U0001f600"),
    st.sampled_from([*AWKWARD, "<|endoftext|>", "<|", "|>", "'re", "    ", "Oil rose 3 percent in London."]),
)


def raw(*texts: str) -> list[bytes]:
    return [text.encode() for text in texts]


def lists(encoded: Encoded) -> list[list[int]]:
    return [ids.tolist() for ids in encoded.rows()]


@pytest.fixture(scope="module", params=["text", "recognised"])
def loaded(tokenizer_dir: Path, request: pytest.FixtureRequest) -> tuple[TextEncoder, GigatokenEncoder]:
    encoder = load_tokenizer(str(tokenizer_dir), special_tokens=request.param)
    return encoder, GigatokenEncoder(encoder.tokenizer)


@given(texts=st.lists(st.lists(PIECES, max_size=6).map("".join), max_size=6))
@settings(deadline=None, max_examples=200)
def test_the_fast_ids_are_those_of_tokenizers(loaded: tuple[TextEncoder, GigatokenEncoder], texts: list[str]) -> None:
    encoder, gigatoken = loaded
    fast, reference = (one.encode(raw(*texts)) for one in (gigatoken, ReferenceEncoder(encoder)))
    assert fast.ids.dtype == reference.ids.dtype == np.int32
    assert fast.lengths.tolist() == reference.lengths.tolist()
    assert lists(fast) == lists(reference) == encoder.encode(texts)


def test_no_texts_give_no_ids(loaded: tuple[TextEncoder, GigatokenEncoder]) -> None:
    for encoder in (loaded[1], ReferenceEncoder(loaded[0])):
        for texts in ([], [b""], [b"", b""]):
            encoded = encoder.encode(texts)
            assert (len(encoded.ids), encoded.lengths.tolist()) == (0, [0] * len(texts))


@pytest.mark.parametrize("special", [True, False])
def test_special_tokens_in_text_are_text_to_the_fast_encoder_and_others_are_not(folder: Path, special: bool) -> None:
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.add_tokens([AddedToken("    ", special=False), AddedToken("<pad>", special=special)])
    tokenizer.save(str(folder / "tokenizer.json"))
    encoder = load_tokenizer(str(folder))
    text = "a    b<|endoftext|><pad> x"
    (ids,) = GigatokenEncoder(encoder.tokenizer).encode(raw(text)).rows()
    assert ids.tolist() == encoder.encode([text])[0]
    assert (512 in ids, 513 in ids, encoder.eos_id in ids) == (True, not special, False)


def test_the_pair_of_files_is_fast_too(folder: Path, recorder: Any) -> None:
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    (folder / "tokenizer.json").unlink()
    tokenizer.model.save(str(folder))
    assert fastest_encoder(load_both(load_tokenizer(str(folder))), recorder) == "gigatoken"
    assert recorder.events == [("info", "text is encoded by gigatoken")]


def words(tokenizer: Tokenizer) -> Tokenizer:
    other = Tokenizer(models.WordLevel({"<|endoftext|>": 0, "a": 1}, unk_token="<|endoftext|>"))
    other.pre_tokenizer = pre_tokenizers.Whitespace()
    return other


def lower(tokenizer: Tokenizer) -> Tokenizer:
    tokenizer.normalizer = normalizers.Lowercase()
    return tokenizer


@pytest.mark.parametrize("change", [words, lower])
def test_a_tokenizer_that_gigatoken_does_not_know_is_no_fault(
    folder: Path, recorder: Any, change: Callable[[Tokenizer], Tokenizer]
) -> None:
    path = folder / "tokenizer.json"
    change(Tokenizer.from_file(str(path))).save(str(path))
    loaded = load_both(load_tokenizer(str(folder)))
    name = fastest_encoder(loaded, recorder)
    assert (name, recorder.events) == ("tokenizers", [("info", "text is encoded by tokenizers")])
    expected = loaded.tokenizer.encode(["A b", ""])
    assert lists(PartEncoders(name, loaded).of("part").encode(raw("A b", ""))) == expected


class Planted(GigatokenEncoder):
    """Gigatoken with the last id of some texts one too high, or missing."""

    where: Callable[[bytes], bool] = staticmethod(lambda text: False)
    missing = False

    def encode(self, texts: Sequence[bytes]) -> Encoded:
        rows = super().encode(texts).rows()
        spoilt = [self._spoilt(ids) if self.where(text) else ids for text, ids in zip(texts, rows, strict=True)]
        lengths = np.array([len(ids) for ids in spoilt], dtype=np.int64)
        return Encoded(np.concatenate([np.empty(0, np.int32), *spoilt]), lengths)

    def _spoilt(self, ids: encoders.Ids) -> encoders.Ids:
        return ids[:-1] if self.missing else np.concatenate([ids[:-1], (ids[-1:] + 1) % 512]).astype(np.int32)


@pytest.mark.parametrize("missing", [False, True])
@pytest.mark.parametrize(
    ("number", "noticed"), [(0, True), (3, True), (4, False), (996, False), (997, True), (998, False), (1994, True)]
)
def test_a_wrong_id_in_a_sampled_document_is_noticed(
    tokenizer_dir: Path, monkeypatch: pytest.MonkeyPatch, number: int, noticed: bool, missing: bool
) -> None:
    monkeypatch.setattr(Planted, "missing", missing)
    monkeypatch.setattr(Planted, "where", staticmethod(lambda text: text == b"!!!!"))
    encoder = load_tokenizer(str(tokenizer_dir))
    checked = CheckedEncoder(Planted(encoder.tokenizer), ReferenceEncoder(encoder), part="corpus.txt")
    assert len(encoder.encode(["!!!!"])[0]) == 4
    every = raw(*("!!!!" if place == number else "Oil rose." for place in range(2000)))
    found = None
    try:
        for start in range(0, len(every), 300):
            checked.encode(every[start : start + 300])
    except DifferentIdsError as error:
        found = error
    assert (found is not None) == noticed
    if found:
        assert f"differ on document {number + 1} of corpus.txt from token 3 on" in str(found)
        assert str(pickle.loads(pickle.dumps(found))) == str(found)


def test_every_part_has_a_sample_of_its_own(tokenizer_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Planted, "where", staticmethod(lambda text: text == b"!!!!"))
    monkeypatch.setattr(encoders, "GigatokenEncoder", Planted)
    parts = PartEncoders("gigatoken", load_both(load_tokenizer(str(tokenizer_dir)))).of
    first = parts("first")
    first.encode(raw(*["Oil rose."] * 20))
    first.encode(raw("!!!!"))  # beyond the sample
    with pytest.raises(DifferentIdsError, match="document 1 of second"):
        parts("second").encode(raw("!!!!"))


def test_of_a_sampled_book_the_beginning_is_compared(tokenizer_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoders, "_MAX_BYTES", 11)
    compared: list[bytes] = []
    encode = ReferenceEncoder.encode
    monkeypatch.setattr(ReferenceEncoder, "encode", lambda self, texts: compared.extend(texts) or encode(self, texts))
    encoder = load_tokenizer(str(tokenizer_dir))
    chosen = CheckedEncoder(GigatokenEncoder(encoder.tokenizer), ReferenceEncoder(encoder), part="part")
    text = "Oil rose 3\u20ac in London."  # the cut is within a character
    assert lists(chosen.encode(raw(text, "x"))) == encoder.encode([text, "x"])
    assert compared == raw("Oil rose 3", "x")


def task(corpus: Path, tokenizer: Path, out: Path) -> PrepareTask:
    spec = DatasetSpec.model_validate({"uri": str(corpus), "max_sequence_length": 32, "validation": {"fraction": 0.1}})
    return PrepareTask(dataset=spec, tokenizer_uri=str(tokenizer), vocab_size=512, output_uri=str(out))


@pytest.mark.parametrize("limits", [(0, 31), (16, 997)])
def test_a_wrong_fast_encoder_costs_time_and_not_the_dataset(
    corpus: Path,
    tokenizer_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    make_recorder: Any,
    limits: tuple[int, int],
) -> None:
    alone = Resources(processes=1, part_bytes=20_000)
    right = prepare(task(corpus, tokenizer_dir, tmp_path / "right"), resources=alone)
    monkeypatch.setattr(encoders, "FIRST_DOCUMENTS", limits[0])
    monkeypatch.setattr(encoders, "EVERY", limits[1])
    monkeypatch.setattr(Planted, "where", staticmethod(lambda text: len(text) > 200))
    monkeypatch.setattr(encoders, "GigatokenEncoder", Planted)
    monkeypatch.setattr(encoders, "_awkward_texts", lambda tokenizer: ["short"])
    recorder = make_recorder()
    result = prepare(task(corpus, tokenizer_dir, tmp_path / "wrong"), recorder, resources=alone)
    manifests = [read_manifest(local_path(found.uri)) for found in (right, result)]
    assert manifests[0] and manifests[1]
    assert manifests[0].files == manifests[1].files
    assert result.address == right.address
    (warning,) = [message for level, message in recorder.events if level == "warn"]
    assert "gigatoken and tokenizers differ on document " in warning
    assert "from its start, by tokenizers alone" in warning
    assert ("info", "text is encoded by gigatoken") in recorder.events
    assert [path.name for path in (tmp_path / "wrong").iterdir()] == [result.address]


def test_a_fast_encoder_that_stumbles_over_an_awkward_text_is_not_used(
    tokenizer_dir: Path, monkeypatch: pytest.MonkeyPatch, recorder: Any
) -> None:
    monkeypatch.setattr(Planted, "where", staticmethod(lambda text: b"<|endoftext|>" in text))
    monkeypatch.setattr(encoders, "GigatokenEncoder", Planted)
    loaded = load_both(load_tokenizer(str(tokenizer_dir)))
    assert fastest_encoder(loaded, recorder) == "tokenizers"
    ((level, message), _) = recorder.events
    assert level == "warn"
    assert "'a<|endoftext|>b" in message
    assert fastest_encoder(loaded, NullProgress()) == "tokenizers"
