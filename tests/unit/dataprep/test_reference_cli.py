"""The drop-in command line: flag names of both generations, YAML under flags, switches with and without words."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from typer.testing import CliRunner, Result

from regraft.cli import make_app
from regraft.errors import InvalidInputError, NotFoundError
from regraft_dataprep.reference.options import resolve
from regraft_dataprep.reference.tokenizer import load

REQUIRED = {"tokenizer_type": "GPT2Tokenizer"}


def invoke(*words: object) -> Result:
    return CliRunner().invoke(make_app(), [str(word) for word in words], catch_exceptions=False)


@pytest.fixture
def tokenizer(tmp_path: Path) -> list[str]:
    folder = tmp_path / "tokenizer"
    folder.mkdir()
    vocab = {letter: number for number, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    (folder / "encoder.json").write_text(json.dumps({**vocab, "<|endoftext|>": 256}))
    (folder / "vocab.bpe").write_text("#version: 0.2\n")
    files = ["--vocab_file", str(folder / "vocab.bpe"), "--encoder_file", str(folder / "encoder.json")]
    return ["--tokenizer_type", "GPT2Tokenizer", *files, "--max_seq_length", "32"]


@pytest.fixture
def lists(tmp_path: Path) -> Path:
    raw = tmp_path / "raw"
    raw.write_bytes(b"<DOC>\n2008-01-01 00:00:03 A headline [ID:1]\nSome text of a story.\n</DOC>\n" * 30)
    assert invoke("trc2", "clean", raw, tmp_path / "clean").exit_code == 0
    split = ("trc2", "split", "--input_file", tmp_path / "clean", "--out_dir", tmp_path / "split")
    done = invoke(*split, "--buffer_len", 50, "--val_split_ratio", 0.4)
    assert json.loads(done.stdout)["shards"] == {"train": 2, "validation": 1}
    return tmp_path / "split"


def test_the_documented_step_of_release_1_8(tmp_path: Path, lists: Path, tokenizer: list[str]) -> None:
    words = ["create-hdf5", "preprocessed_text", "--input_dir", lists / "split_files", *tokenizer, "--seed", 42]
    words += ["--metadata_files", lists / "train_meta.txt", "--processes", 1, "--output_dir", tmp_path / "out"]
    done = invoke(*words, "--eos_id", 256, "--pad_id", 256, "--ftfy", "--write_remainder", "--display_pbar")
    assert done.exit_code == 0, done.output
    shown = json.loads(done.stdout)
    assert (shown["mode"], shown["ftfy"], shown["write_remainder"], shown["seed"]) == (
        "preprocessed_text",
        True,
        True,
        42,
    )
    assert shown["processed_files"] == 2
    assert "tokens are in no example" in done.stderr


def test_flags_win_over_the_yaml_file(tmp_path: Path, lists: Path, tokenizer: list[str]) -> None:
    params = tmp_path / "params.yaml"
    setup = f"setup: {{metadata_files: {lists / 'train_meta.txt'}, output_dir: {tmp_path / 'out'}, processes: 1}}\n"
    params.write_text(
        f"{setup}processing: {{short_seq_prob: 0.5, write_remainder: false}}\n"
        "dataset: {use_ftfy: true, dataset_processor: LMDataPreprocessor}\n"
    )
    words = ("create-hdf5", "LMData", "--params", params, *tokenizer, "--files_per_record", 7)
    switches = ("--write_in_batch", "False", "--use_ftfy", "False", "--write_remainder", "True")
    shown = json.loads(invoke(*words, *switches, "--short_seq_prob", 0).stdout)
    processing = shown["processing"]
    assert (processing["write_in_batch"], processing["write_remainder"]) == (False, True)
    assert (processing["short_seq_prob"], processing["files_per_record"]) == (0.0, 7)
    assert shown["dataset"]["use_ftfy"] is False
    assert shown["setup"]["dataset_processor"] == "LMDataPreprocessor"


@pytest.mark.parametrize(
    ("mode", "words"),
    [
        ("LMData", ["--write_remainder"]),
        ("LMData", ["--write_remainder", "yes"]),
        ("LMData", ["--write_remainder", "True", "False"]),
        ("preprocessed_text", ["--write_remainder", "True"]),
        ("preprocessed_text", ["--resume_from_checkpoint", "checkpoint_0.txt"]),
    ],
)
def test_switches_stand_alone_in_one_generation_and_take_a_word_in_the_other(mode: str, words: list[str]) -> None:
    with pytest.raises(InvalidInputError, match="followed by True or False"):
        invoke("create-hdf5", mode, *words)


def test_the_program_has_the_commands_and_stays_light() -> None:
    code = "import sys; from regraft.cli import make_app; make_app()\n"
    code += "assert not {'h5py', 'tokenizers', 'ftfy', 'numpy'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code], check=True)
    for command in (["trc2", "clean"], ["trc2", "split"], ["create-hdf5"]):
        assert "Mended" in invoke(*command, "--help").output or command == ["trc2", "clean"]


@pytest.mark.parametrize(
    ("mode", "given", "words"),
    [
        ("raw_text", {}, "not offered"),
        ("preprocessed_text", {"use_ftfy": "True"}, "belongs to LMData"),
        ("preprocessed_text", {"pack_sequences": "True"}, "belongs to LMData"),
        ("LMData", {"ftfy": True}, "belongs to preprocessed_text"),
        ("LMData", {"tokenizer_type": "Other"}, "tokenizer_type"),
        ("LMData", {"max_seq_length": 2}, "max_seq_length"),
        ("LMData", {"use_ftfy": "perhaps"}, "use_ftfy"),
        ("LMData", {"wikitext_detokenize": "True"}, "wikitext_detokenize"),
        ("LMData", {"output_name": "a/b"}, "output_name"),
    ],
)
def test_options_that_cannot_be_are_named(mode: str, given: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidInputError, match=words):
        resolve(mode, given={**REQUIRED, **given})


@pytest.mark.parametrize("text", ["[1]", "wrong: {}", "setup: 3", "setup: {seed: 1}", "a: ["])
def test_a_yaml_file_that_is_none_of_theirs_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "p.yaml"
    path.write_text(text)
    with pytest.raises(InvalidInputError, match="params"):
        resolve("LMData", given=REQUIRED, params=path)
    with pytest.raises(NotFoundError, match="params"):
        resolve("LMData", given=REQUIRED, params=tmp_path / "none.yaml")


def test_eos_and_padding_of_each_tokenizer(tmp_path: Path, tokenizer: list[str]) -> None:
    neox = Tokenizer(models.WordLevel({"<|endoftext|>": 0, "<|padding|>": 1, "a": 2}, unk_token="a"))
    neox.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text('{"eos_token": "<|endoftext|>"}')
    gpt2 = {"tokenizer_type": "GPT2Tokenizer", "vocab_file": tokenizer[3], "encoder_file": tokenizer[5]}
    file = {"tokenizer_type": "NeoXTokenizer", "encoder_file": str(tmp_path / "tokenizer.json")}
    folder = {"tokenizer_type": "HuggingFaceTokenizer", "huggingface_tokenizer": str(tmp_path)}

    def ids(**given: object) -> tuple[int, int]:
        found = load(resolve("LMData", given=given))
        return found.eos_id, found.pad_id

    assert ids(**gpt2) == (256, 256)
    assert ids(**gpt2, eos_id=5) == (5, 5)
    assert ids(**file) == ids(**folder) == (0, 1)
    assert ids(**file, eos_id=2) == (2, 2)
    assert ids(**file, eos_id=2, pad_id=1) == (2, 1)
