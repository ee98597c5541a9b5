"""Loading tokenizers and encoding text, by `tokenizers` and by what is faster."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers

from regraft.errors import InvalidInputError
from regraft.ports import NullProgress
from regraft.specs.dataset import DatasetSpec
from regraft.specs.stages import PrepareTask
from regraft.storage import local_path, read_manifest
from regraft_dataprep import encoders
from regraft_dataprep.document import Document
from regraft_dataprep.encoders import (
    AWKWARD,
    DatasetEncoder,
    DifferentIdsError,
    GigatokenEncoder,
    Ids,
    ReferenceEncoder,
    open_encoder,
)
from regraft_dataprep.pipeline import prepare
from regraft_dataprep.tokenize import load_tokenizer


@pytest.fixture
def folder(tmp_path: Path, tokenizer_dir: Path) -> Path:
    """A copy to spoil."""
    return Path(shutil.copytree(tokenizer_dir, tmp_path / "tokenizer"))


def change(folder: Path, **values: object) -> None:
    path = folder / "tokenizer.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def test_text_comes_back_from_its_ids(tokenizer_dir: Path) -> None:
    encoder = load_tokenizer(str(tokenizer_dir))
    text = "OIL ROSE\n\n café € 日本 & <b>"
    (ids,) = encoder.encode([text])
    assert encoder.tokenizer.decode(ids) == text
    assert (encoder.eos_id, encoder.vocab_size) == (0, 512)


def test_a_directory_a_file_and_a_uri_name_the_same_tokenizer(tokenizer_dir: Path) -> None:
    names = [str(tokenizer_dir), str(tokenizer_dir / "tokenizer.json"), tokenizer_dir.as_uri()]
    assert len({load_tokenizer(name).digest for name in names}) == 1


@pytest.mark.parametrize("special", [True, False])
def test_the_end_of_text_token_in_a_story_is_ordinary_text(folder: Path, special: bool) -> None:
    added = json.loads((folder / "tokenizer.json").read_text())["added_tokens"]
    change(folder, added_tokens=[{**token, "special": special} for token in added])
    encoder = load_tokenizer(str(folder))
    (ids,) = encoder.encode(["a<|endoftext|>b"])
    assert encoder.eos_id not in ids
    assert encoder.tokenizer.decode(ids) == "a<|endoftext|>b"


def test_added_tokens_that_are_not_special_stay_vocabulary(folder: Path) -> None:
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.add_tokens([AddedToken("    ", special=False)])
    tokenizer.save(str(folder / "tokenizer.json"))
    encoder = load_tokenizer(str(folder))
    assert 512 in encoder.encode(["a    b"])[0]
    assert encoder.vocab_size == 513


def test_truncation_padding_and_templates_of_the_file_are_switched_off(folder: Path) -> None:
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_truncation(3)
    tokenizer.enable_padding(length=50)
    tokenizer.save(str(folder / "tokenizer.json"))
    template = {"Sequence": {"id": "A", "type_id": 0}}
    special = {"SpecialToken": {"id": "<|endoftext|>", "type_id": 0}}
    change(
        folder,
        post_processor={
            "type": "TemplateProcessing",
            "single": [special, template],
            "pair": [template, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {"<|endoftext|>": {"id": "<|endoftext|>", "ids": [0], "tokens": ["<|endoftext|>"]}},
        },
    )
    encoder = load_tokenizer(str(folder))
    texts = ["Oil rose 3 percent in London.", "x"]
    ids = encoder.encode(texts)
    assert [encoder.tokenizer.decode(row) for row in ids] == texts
    assert len(ids[1]) == 1


def test_vocab_and_merges_give_the_ids_of_the_same_tokenizer_json(folder: Path, tokenizer_dir: Path) -> None:
    (folder / "tokenizer.json").unlink()
    Tokenizer.from_file(str(tokenizer_dir / "tokenizer.json")).model.save(str(folder))
    texts = ["OIL ROSE 3 percent\n\nin  London. <|endoftext|>", "café 日本"]
    pair = load_tokenizer(str(folder))
    assert pair.encode(texts) == load_tokenizer(str(tokenizer_dir)).encode(texts)
    assert pair.eos_id == 0


@pytest.mark.parametrize(
    ("name", "content", "eos"),
    [
        ("tokenizer_config.json", {"eos_token": "Ġthe"}, "Ġthe"),
        ("tokenizer_config.json", {"eos_token": {"content": "Ġthe", "special": True}}, "Ġthe"),
        ("special_tokens_map.json", {"eos_token": "Ġthe"}, "Ġthe"),
        ("config.json", {"eos_token_id": 7}, 7),
        ("config.json", {"eos_token_id": [8, 7]}, 8),
        ("config.json", {}, 0),
    ],
)
def test_the_end_of_text_id_is_found_beside_the_tokenizer(
    folder: Path, name: str, content: dict[str, object], eos: str | int
) -> None:
    (folder / "tokenizer_config.json").unlink()
    (folder / name).write_text(json.dumps(content))
    encoder = load_tokenizer(str(folder))
    assert encoder.eos_id == (encoder.tokenizer.token_to_id(eos) if isinstance(eos, str) else eos)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("tokenizer_config.json", '{"eos_token": "</s>"}', "'</s>' is not in"),
        ("config.json", '{"eos_token_id": 512}', "512 is not in"),
        ("config.json", "{", "not JSON"),
    ],
)
def test_an_end_of_text_token_that_is_no_token_is_refused(folder: Path, name: str, content: str, said: str) -> None:
    (folder / "tokenizer_config.json").unlink()
    (folder / name).write_text(content)
    with pytest.raises(InvalidInputError, match=said) as caught:
        load_tokenizer(str(folder))
    assert caught.value.field == "dataset.tokenizer"
    assert caught.value.remedy


def test_a_place_without_a_tokenizer_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "missing"):
        with pytest.raises(InvalidInputError, match="no tokenizer here") as caught:
            load_tokenizer(str(path))
        assert caught.value.value == str(path)


@pytest.mark.parametrize("content", [b"not json", b'{"model": {"type": "BPE"}}', b"\xff\xfe"])
def test_a_file_that_is_no_tokenizer_is_refused(folder: Path, content: bytes) -> None:
    (folder / "tokenizer.json").write_bytes(content)
    with pytest.raises(InvalidInputError, match="cannot be read"):
        load_tokenizer(str(folder))


def test_the_digest_follows_the_files_and_the_end_of_text_id_only(folder: Path) -> None:
    before = load_tokenizer(str(folder)).digest
    (folder / "README.md").write_text("nothing to do with ids")
    assert load_tokenizer(str(folder)).digest == before
    (folder / "tokenizer_config.json").write_text('{"eos_token": "!"}')
    other_eos = load_tokenizer(str(folder)).digest
    (folder / "tokenizer_config.json").unlink()
    change(
        folder, pre_tokenizer={"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}
    )
    assert len({before, other_eos, load_tokenizer(str(folder)).digest}) == 3


PIECES = st.one_of(
    st.text(),
    st.text(st.characters(categories=["L", "M", "N", "Z"])),
    st.text("ab '\n\r\t\0\u0301\U0001f600"),
    st.sampled_from([*AWKWARD, "<|endoftext|>", "<|", "|>", "'re", "    ", "Oil rose 3 percent in London."]),
)


@pytest.fixture(scope="module")
def pair(tokenizer_dir: Path) -> tuple[GigatokenEncoder, ReferenceEncoder]:
    encoder = load_tokenizer(str(tokenizer_dir))
    return GigatokenEncoder(encoder.tokenizer), ReferenceEncoder(encoder)


@given(texts=st.lists(st.lists(PIECES, max_size=6).map("".join), max_size=6))
@settings(deadline=None, max_examples=300)
def test_the_fast_ids_are_those_of_tokenizers(
    pair: tuple[GigatokenEncoder, ReferenceEncoder], texts: list[str]
) -> None:
    fast, reference = (encoder.encode(texts) for encoder in pair)
    assert [ids.dtype for ids in fast] == [np.dtype(np.int32)] * len(texts)
    assert [ids.tolist() for ids in fast] == [ids.tolist() for ids in reference]


@pytest.mark.parametrize("special", [True, False])
def test_special_tokens_in_text_are_text_to_the_fast_encoder_and_others_are_not(folder: Path, special: bool) -> None:
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.add_tokens([AddedToken("    ", special=False), AddedToken("<pad>", special=special)])
    tokenizer.save(str(folder / "tokenizer.json"))
    encoder = load_tokenizer(str(folder))
    (ids,) = GigatokenEncoder(encoder.tokenizer).encode(["a    b<|endoftext|><pad> x"])
    assert ids.tolist() == encoder.encode(["a    b<|endoftext|><pad> x"])[0]
    assert (512 in ids, 513 in ids, encoder.eos_id in ids) == (True, not special, False)


def test_the_pair_of_files_is_fast_too(folder: Path, recorder: Any) -> None:
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    (folder / "tokenizer.json").unlink()
    tokenizer.model.save(str(folder))
    assert open_encoder(load_tokenizer(str(folder)), recorder).name == "gigatoken"
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
    encoder = load_tokenizer(str(folder))
    chosen = open_encoder(encoder, recorder)
    assert recorder.events == [("info", "text is encoded by tokenizers")]
    assert [ids.tolist() for ids in chosen.encode(documents("A b", ""))] == encoder.encode(["A b", ""])


def documents(*texts: str) -> list[Document]:
    return [Document(text, f"id-{number}") for number, text in enumerate(texts)]


class Planted(GigatokenEncoder):
    """Gigatoken with the last id of some texts one too high, or missing."""

    where: Callable[[str], bool] = staticmethod(lambda text: False)
    missing = False

    def encode(self, texts: Sequence[str]) -> list[Ids]:
        right = super().encode(texts)
        return [self._spoilt(ids) if self.where(text) else ids for text, ids in zip(texts, right, strict=True)]

    def _spoilt(self, ids: Ids) -> Ids:
        return ids[:-1] if self.missing else np.concatenate([ids[:-1], (ids[-1:] + 1) % 512])


@pytest.mark.parametrize(("missing", "position"), [(False, 3), (True, 3)])
@pytest.mark.parametrize(
    ("number", "noticed"), [(0, True), (63, True), (64, False), (996, False), (997, True), (998, False), (1994, True)]
)
def test_a_wrong_id_in_a_sampled_document_is_noticed(
    tokenizer_dir: Path, monkeypatch: pytest.MonkeyPatch, number: int, noticed: bool, missing: bool, position: int
) -> None:
    monkeypatch.setattr(Planted, "missing", missing)
    monkeypatch.setattr(Planted, "where", staticmethod(lambda text: text == "!!!!"))
    encoder = load_tokenizer(str(tokenizer_dir))
    checked = DatasetEncoder(Planted(encoder.tokenizer), ReferenceEncoder(encoder))
    assert len(encoder.encode(["!!!!"])[0]) == 4
    every = documents(*("!!!!" if place == number else "Oil rose." for place in range(2000)))
    found = None
    try:
        for start in range(0, len(every), 300):
            checked.encode(every[start : start + 300])
    except DifferentIdsError as error:
        found = error
    assert (found is not None) == noticed
    if found:
        assert f"document id-{number} (number {number + 1})" in str(found)
        assert found.position == position


def test_of_a_sampled_book_the_beginning_is_compared(tokenizer_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoders, "_MAX_CHARACTERS", 10)
    compared: list[str] = []
    monkeypatch.setattr(
        ReferenceEncoder, "encode", lambda self, texts: compared.extend(texts) or self._encoder.encode(texts)
    )
    encoder = load_tokenizer(str(tokenizer_dir))
    chosen = DatasetEncoder(GigatokenEncoder(encoder.tokenizer), ReferenceEncoder(encoder))
    text = "Oil rose 3 percent in London."
    assert [ids.tolist() for ids in chosen.encode(documents(text, "x"))] == encoder.encode([text, "x"])
    assert compared == ["Oil rose 3", "x"]


def task(corpus: Path, tokenizer: Path, out: Path) -> PrepareTask:
    spec = DatasetSpec.model_validate({"uri": str(corpus), "max_sequence_length": 32, "validation": {"fraction": 0.1}})
    return PrepareTask(dataset=spec, tokenizer_uri=str(tokenizer), vocab_size=512, output_uri=str(out))


@pytest.mark.parametrize("limits", [(0, 150), (64, 997)])
def test_a_wrong_fast_encoder_costs_time_and_not_the_dataset(
    corpus: Path,
    tokenizer_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    make_recorder: Any,
    limits: tuple[int, int],
) -> None:
    right = prepare(task(corpus, tokenizer_dir, tmp_path / "right"))
    monkeypatch.setattr(encoders, "FIRST_DOCUMENTS", limits[0])
    monkeypatch.setattr(encoders, "EVERY", limits[1])
    monkeypatch.setattr("regraft_dataprep.pipeline._BATCH_DOCUMENTS", 17)  # so that wrong ids are on the disk already
    monkeypatch.setattr(Planted, "where", staticmethod(lambda text: text and text not in AWKWARD and len(text) > 200))
    monkeypatch.setattr(encoders, "GigatokenEncoder", Planted)
    monkeypatch.setattr(encoders, "_awkward_texts", lambda tokenizer: ["short"])
    recorder = make_recorder()
    result = prepare(task(corpus, tokenizer_dir, tmp_path / "wrong"), recorder)
    manifests = [read_manifest(local_path(found.uri)) for found in (right, result)]
    assert manifests[0] and manifests[1]
    assert manifests[0].files == manifests[1].files
    assert result.address == right.address
    (warning,) = [message for level, message in recorder.events if level == "warn"]
    assert "gigatoken and tokenizers differ on document TRC2-" in warning
    assert "from its start, by tokenizers alone" in warning
    assert ("info", "text is encoded by gigatoken") in recorder.events
    assert [path.name for path in (tmp_path / "wrong").iterdir()] == [result.address]


def test_a_fast_encoder_that_stumbles_over_an_awkward_text_is_not_used(
    tokenizer_dir: Path, monkeypatch: pytest.MonkeyPatch, recorder: Any
) -> None:
    monkeypatch.setattr(Planted, "where", staticmethod(lambda text: "<|endoftext|>" in text))
    monkeypatch.setattr(encoders, "GigatokenEncoder", Planted)
    chosen = open_encoder(load_tokenizer(str(tokenizer_dir)), recorder)
    assert chosen.name == "tokenizers"
    ((level, message), _) = recorder.events
    assert level == "warn"
    assert "'a<|endoftext|>b" in message
    assert open_encoder(load_tokenizer(str(tokenizer_dir)), NullProgress()).name == "tokenizers"
