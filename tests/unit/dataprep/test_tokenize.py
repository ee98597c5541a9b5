"""Loading tokenizers and encoding text."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from tokenizers import AddedToken, Tokenizer

from regraft.errors import InvalidInputError
from regraft_dataprep.encoders import GigatokenEncoder
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


def test_special_tokens_are_recognised_where_that_is_asked_for(folder: Path) -> None:
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.add_tokens([AddedToken("<pad>", special=True), AddedToken("    ", special=False)])
    tokenizer.save(str(folder / "tokenizer.json"))
    text = "a<|endoftext|><pad>    b"
    as_text, recognised = load_tokenizer(str(folder)), load_tokenizer(str(folder), special_tokens="recognised")
    assert [token in as_text.encode([text])[0] for token in (0, 512, 513)] == [False, False, True]
    assert [token in recognised.encode([text])[0] for token in (0, 512, 513)] == [True, True, True]
    assert as_text.digest != recognised.digest
    for encoder in (as_text, recognised):
        (found,) = GigatokenEncoder(encoder.tokenizer).encode([text.encode()]).rows()
        assert found.tolist() == encoder.encode([text])[0]


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
