"""`create-hdf5` with a byte tokenizer: counts, text steps, remainders, resuming, and what is refused."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import pre_tokenizers

from regraft.errors import ConflictError, InvalidDataError, InvalidInputError, NotFoundError, RegraftError
from regraft.hdf5 import Dataset
from regraft_dataprep.reference import create_hdf5 as module
from regraft_dataprep.reference.create_hdf5 import Result, create_hdf5
from regraft_dataprep.reference.documents import list_inputs
from regraft_dataprep.reference.options import Mode, resolve
from regraft_dataprep.reference.writer import RecordWriter

EOS = 256
IDS = {"eos_id": EOS, "pad_id": EOS}


@pytest.fixture
def flags(tmp_path: Path) -> dict[str, Any]:
    """A tokenizer of the 256 bytes, and three files of documents."""
    vocab = {letter: number for number, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    (tmp_path / "encoder.json").write_text(json.dumps({**vocab, "<|endoftext|>": EOS}))
    (tmp_path / "vocab.bpe").write_text("#version: 0.2\n")
    inputs = tmp_path / "in"
    inputs.mkdir()
    for number in range(3):
        texts = [f"story {number}.{story} " + "word " * (story % 9) for story in range(40)]
        (inputs / f"{number}.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return {
        "input_dir": str(inputs),
        "output_dir": str(tmp_path / "out"),
        "tokenizer_type": "GPT2Tokenizer",
        "vocab_file": str(tmp_path / "vocab.bpe"),
        "encoder_file": str(tmp_path / "encoder.json"),
        "max_seq_length": 16,
        "files_per_record": 50,
        "processes": 1,
    }


def run(flags: dict[str, Any], mode: Mode = "LMData", **changes: Any) -> Result:
    return create_hdf5(resolve(mode, given={**flags, **changes}))


def gen_a(flags: dict[str, Any], **changes: Any) -> Result:
    return run(flags, "preprocessed_text", **IDS, **changes)


def files(flags: dict[str, Any]) -> list[str]:
    return sorted(path.name for path in Path(flags["output_dir"]).glob("*.h5"))


def rows(folder: str | Path) -> np.ndarray[Any, Any]:
    with Dataset(Path(folder)) as data:
        return data.rows(range(len(data)))


def test_names_counts_and_statistics(flags: dict[str, Any]) -> None:
    result = run(flags)
    number = len(files(flags))
    assert files(flags) == sorted(f"examples_{index}_0.h5" for index in range(number))
    found = rows(flags["output_dir"])
    after = result.params["post-process"]
    assert len(found) == result.examples == after["n_examples"]
    assert after["processed_files"] == after["successful_files"] == 120
    assert (after["eos_id"], after["pad_id"], after["vocab_size"]) == (EOS, EOS, 257)
    assert result.params["h5_dataset_stats"]["loss_valid_tokens"] == int(found[:, 1].sum())
    paths = list_inputs(input_dir=flags["input_dir"], metadata_files=None).paths
    texts = [json.loads(line)["text"] for path in paths for line in path.read_text().splitlines()]
    assert after["raw_chars_count"] == sum(map(len, texts))
    total = sum(len(text.encode()) + 1 for text in texts)
    assert result.examples == (total - 1) // 16
    assert result.dropped_tokens == total - 16 * result.examples
    assert json.loads((Path(flags["output_dir"]) / "data_params.json").read_text()) == result.params


def test_each_process_names_its_files_and_packs_its_own_block(flags: dict[str, Any]) -> None:
    result = run(flags, processes=2, files_per_record=10_000)
    assert files(flags) == ["examples_0_0.h5", "examples_0_1.h5"]
    assert result.params["setup"]["processes"] == 2
    second = {**flags, "output_dir": flags["output_dir"] + "2", "input_dir": None}
    meta = Path(flags["output_dir"]) / "list.txt"
    meta.write_text(f"{flags['input_dir']}/2.jsonl\n")
    run(second, metadata_files=str(meta), files_per_record=10_000)
    name = Path(flags["output_dir"]) / "examples_0_1.h5"
    name.rename(Path(second["output_dir"]) / "examples_9_9.h5")
    both = rows(second["output_dir"])
    np.testing.assert_array_equal(both[: len(both) // 2], both[len(both) // 2 :])


@pytest.mark.parametrize(("processes", "files", "shares"), [(1, 5, [5]), (4, 5, [2, 2, 1]), (4, 3, [1, 1, 1])])
def test_shares_are_equal_but_for_the_last(
    flags: dict[str, Any], processes: int, files: int, shares: list[int]
) -> None:
    options = resolve("LMData", given={**flags, "processes": processes})
    assert [len(block.inputs) for block in module._blocks(options, inputs=[Path()] * files)] == shares


def test_an_error_of_a_child_process_arrives_whole(flags: dict[str, Any]) -> None:
    (Path(flags["input_dir"]) / "2.jsonl").write_text('{"words": 1}\n')
    with pytest.raises(InvalidDataError, match=r"line 1 is no JSON object with 'text'.*--jsonl_key") as caught:
        run(flags, processes=2)
    assert caught.value.field == "jsonl_key"


def die(block: object) -> None:
    os._exit(9)


def test_a_child_process_that_dies_is_an_error_with_a_remedy(
    flags: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "run_block", die)
    with pytest.raises(module.ProcessDiedError, match=r"processes.*--resume_from_checkpoint"):
        run(flags, processes=2)


@pytest.mark.parametrize("mode", ["preprocessed_text", "LMData"])
def test_the_remainder_is_written_or_dropped_and_counted(flags: dict[str, Any], mode: str) -> None:
    make = gen_a if mode == "preprocessed_text" else run
    kept = make(flags, output_dir=flags["output_dir"] + "1", write_remainder="True")
    dropped = make(flags, write_remainder="False")
    assert kept.dropped_examples == 0
    assert dropped.examples == kept.examples // 50 * 50
    assert dropped.dropped_examples == kept.examples % 50 > 0
    default = make(flags, overwrite=True)
    assert (default.dropped_examples > 0) == (mode == "preprocessed_text")
    with pytest.raises(InvalidDataError, match="--write_remainder"):
        make(flags, overwrite=True, write_remainder=False, files_per_record=5_000)


def _resumed(flags: dict[str, Any], expected: str, **changes: Any) -> None:
    run(flags, resume_from_checkpoint=True, **changes)
    np.testing.assert_array_equal(rows(flags["output_dir"]), rows(expected))
    ours, theirs = Path(flags["output_dir"]), Path(expected)
    assert (ours / "checkpoint_0.txt").read_text() == (theirs / "checkpoint_0.txt").read_text()
    counts = [json.loads((folder / "data_params.json").read_text())["post-process"] for folder in (ours, theirs)]
    assert counts[0] == counts[1]


@pytest.mark.parametrize("change", [{}, {"short_seq_prob": 0.3}, {"pack_sequences": "False"}, {"files_per_record": 7}])
def test_a_resumed_run_equals_an_undisturbed_one(
    flags: dict[str, Any], tmp_path: Path, change: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = str(tmp_path / "expected")
    run(flags, output_dir=expected, **change)
    real = RecordWriter.finish

    def killed(self: RecordWriter) -> None:
        if self.files == 3:
            raise KeyboardInterrupt
        real(self)

    monkeypatch.setattr(RecordWriter, "finish", killed)
    with pytest.raises(KeyboardInterrupt):
        run(flags, **change)
    monkeypatch.undo()
    assert len(files(flags)) == 3
    _resumed(flags, expected, **change)


@pytest.mark.parametrize("numbers", ["", "70, 2", "nonsense", None])
def test_lost_files_and_a_checkpoint_that_was_cut_short_cost_time_only(
    flags: dict[str, Any], tmp_path: Path, numbers: str | None
) -> None:
    expected, output = str(tmp_path / "expected"), Path(flags["output_dir"])
    run(flags, output_dir=expected)
    run(flags)
    (output / files(flags)[-1]).unlink()
    if numbers is not None:
        (output / "checkpoint_0.txt").write_text(numbers)
    with (output / "resume_0.jsonl").open("a") as log:
        log.write('{"files": 9')
    _resumed(flags, expected)
    _resumed(flags, expected)


def test_resuming_needs_the_same_options_and_a_record(flags: dict[str, Any]) -> None:
    run(flags)
    with pytest.raises(InvalidInputError, match="other options or inputs"):
        run(flags, resume_from_checkpoint=True, max_seq_length=17)
    (Path(flags["output_dir"]) / "resume_0.jsonl").unlink()
    with pytest.raises(ConflictError, match="without a record"):
        run(flags, resume_from_checkpoint=True)


def test_a_folder_with_data_is_an_error_and_no_question(flags: dict[str, Any]) -> None:
    run(flags)
    (Path(flags["output_dir"]) / "mine.txt").touch()
    with pytest.raises(ConflictError, match=r"\.h5 files.*--overwrite"):
        run(flags)
    run(flags, overwrite=True, output_name="other")
    assert all(name.startswith("other_") for name in files(flags))
    assert (Path(flags["output_dir"]) / "mine.txt").exists()
    with pytest.raises(InvalidInputError, match="overwrite"):
        run(flags, overwrite=True, resume_from_checkpoint=True)


def test_ftfy_and_its_normalizer(flags: dict[str, Any], tmp_path: Path) -> None:
    path = Path(flags["input_dir"])
    for old in path.iterdir():
        old.unlink()
    (path / "a.txt").write_text("cafe\u0301 " * 9 + "schÃ¶n", encoding="utf-8")
    found = {}
    for name, change in {"C": {}, "N": {"ftfy_normalizer": "None"}, "off": {"use_ftfy": "False"}}.items():
        result = run(flags, **change, output_dir=str(tmp_path / name), pack_sequences=False)
        found[name] = result.params["h5_dataset_stats"]["loss_valid_tokens"]
    assert found == {"C": 6 * 9 + 6, "N": 7 * 9 + 6, "off": 7 * 9 + 8}


def test_wikitext_is_detokenised_after_ftfy(flags: dict[str, Any], tmp_path: Path) -> None:
    path = Path(flags["input_dir"]) / "2.jsonl"
    for old in path.parent.iterdir():
        old.unlink()
    path.write_text(json.dumps({"text": "a well @-@ known â€œ town , \u201d 1 @,@ 000"}) + "\n")
    plain = len('a well-known "town," 1,000') + 1
    for mode in ("LMData", "preprocessed_text"):
        extra = {"pack_sequences": False} if mode == "LMData" else {"max_seq_length": plain, **IDS}
        out = str(tmp_path / mode)
        result = run(flags, mode, wikitext_detokenize="True", use_ftfy=True, output_dir=out, write_remainder=1, **extra)
        assert int(rows(out)[:, 1].sum()) == plain - 1
        dumped = result.params.get("dataset", result.params)
        assert dumped["wikitext_detokenize"] is True


def test_pieces_are_tokenised_apart(flags: dict[str, Any], tmp_path: Path) -> None:
    pairs = {"ab": 257, "abc": 258}
    vocab = json.loads(Path(flags["encoder_file"]).read_text())
    Path(flags["encoder_file"]).write_text(json.dumps({**vocab, **pairs}))
    Path(flags["vocab_file"]).write_text("#version: 0.2\na b\nab c\n")
    for old in Path(flags["input_dir"]).iterdir():
        old.unlink()
    (Path(flags["input_dir"]) / "a.txt").write_text("abcab" * 9)
    found = {}
    for size in (None, 2, 3, 45):
        change = {"split_text_to_tokenize": "True", "chunk_len_to_split": size} if size else {"chunk_len_to_split": 2}
        out = str(tmp_path / f"out{size}")
        result = run(flags, output_dir=out, pack_sequences=False, min_sequence_len=2, **change)
        found[size] = result.params["h5_dataset_stats"]["loss_valid_tokens"]
        assert result.params["processing"]["split_text_to_tokenize"] is (size is not None)
    text = "abcab" * 9
    by_piece = {size: [text[start : start + size] for start in range(0, 45, size)] for size in (2, 3, 45)}
    expected = {
        size: sum(len(piece.replace("abc", "x").replace("ab", "x")) for piece in pieces)
        for size, pieces in by_piece.items()
    }
    assert found == {None: expected[45], **expected}
    assert len(set(expected.values())) == 3


def test_the_key_the_name_and_the_mask(flags: dict[str, Any]) -> None:
    for old in Path(flags["input_dir"]).iterdir():
        old.unlink()
    (Path(flags["input_dir"]) / "a.jsonl").write_text('{"body": "abcdefg", "text": "x"}\n')
    result = run(flags, jsonl_key="body", output_name="part", inverted_mask="True", pack_sequences="False")
    assert files(flags) == ["part_0_0.h5"]
    assert rows(flags["output_dir"])[0, 1].tolist() == [0] * 7 + [1] * 9
    assert (
        result.params["dataset"] | {"jsonl_key": "body", "inverted_mask": True, "pack_sequences": False}
        == (result.params["dataset"])
    )


def test_short_rests_of_documents_apart_are_discarded(flags: dict[str, Any]) -> None:
    for old in Path(flags["input_dir"]).iterdir():
        old.unlink()
    texts = ["a" * size for size in (2, 4, 5, 16, 21)]
    (Path(flags["input_dir"]) / "a.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    counts = {}
    for least in (None, 2, 10):
        given = {} if least is None else {"min_sequence_len": least}
        result = run(flags, pack_sequences=False, overwrite=True, **given)
        counts[least] = (result.examples, result.params["post-process"]["discarded_files"])
    assert counts == {None: (4, 2), 2: (6, 0), 10: (2, 3)}


def test_half_a_surrogate_pair_is_refused_unless_ftfy_replaces_it(flags: dict[str, Any]) -> None:
    (Path(flags["input_dir"]) / "2.jsonl").write_text('{"text": "a \\ud800 b"}\n')
    with pytest.raises(InvalidDataError, match="surrogate"):
        run(flags, use_ftfy=False)
    assert run(flags, overwrite=True).params["post-process"]["processed_files"] == 81


@pytest.mark.parametrize(
    ("change", "kind", "words"),
    [
        ({"input_dir": None}, InvalidInputError, "name the inputs"),
        ({"input_dir": "/nowhere"}, NotFoundError, "no such folder"),
        ({"metadata_files": "/nowhere"}, NotFoundError, "no such list"),
        ({"vocab_file": None}, InvalidInputError, "vocab_file: GPT2Tokenizer needs this file"),
        ({"vocab_file": "/nowhere"}, NotFoundError, "vocab_file"),
        ({"tokenizer_type": "HuggingFaceTokenizer"}, InvalidInputError, "huggingface_tokenizer"),
        ({"tokenizer_type": "NeoXTokenizer"}, InvalidInputError, "cannot be read"),
        ({"max_seq_length": 4000, "pack_sequences": True}, InvalidDataError, "give no example"),
    ],
)
def test_what_cannot_be_done_says_what_and_why(
    flags: dict[str, Any], change: dict[str, Any], kind: type[RegraftError], words: str
) -> None:
    with pytest.raises(kind, match=words):
        run({name: value for name, value in {**flags, **change}.items() if value is not None})
    assert files(flags) == []
