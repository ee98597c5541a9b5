"""The drop-in command line: every documented flag of both generations, YAML under flags, what is refused and why."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from typer.main import get_command
from typer.testing import CliRunner, Result

from regraft.cli import make_app
from regraft.errors import InvalidInputError, NotFoundError
from regraft_dataprep.reference.options import dump, resolve
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


COMMON = [
    "input_dir",
    "metadata_files",
    "jsonl_key",
    "output_dir",
    "output_name",
    "seed",
    "processes",
    "write_remainder",
    "resume_from_checkpoint",
    "display_pbar",
    "files_per_record",
    "write_in_batch",
    "tokenizer_type",
    "vocab_file",
    "encoder_file",
    "max_seq_length",
    "short_seq_prob",
    "ftfy_normalizer",
    "eos_id",
    "pad_id",
]
GEN_A = [*COMMON, "ftfy", "wikitext-detokenize"]
GEN_B = [
    *COMMON,
    *(
        [
            "params",
            "huggingface_tokenizer",
            "split_text_to_tokenize",
            "chunk_len_to_split",
            "remove_bos_in_chunks",
            "use_ftfy",
        ]
    ),
    *(
        [
            "wikitext_detokenize",
            "pack_sequences",
            "min_sequence_len",
            "input_ids_dtype",
            "input_mask_dtype",
            "inverted_mask",
        ]
    ),
]
REFUSED = [
    "auth_token",
    "module",
    "dataset_processor",
    "fim_rate",
    "spm_rate",
    "fim_prefix_tok",
    "fim_middle_tok",
    "fim_suffix_tok",
]


@pytest.mark.parametrize(("mode", "flags"), [("preprocessed_text", GEN_A), ("LMData", [*GEN_B, *REFUSED])])
def test_every_documented_flag_is_there(mode: str, flags: list[str]) -> None:
    group: Any = get_command(make_app())
    command = group.commands["create-hdf5"].commands[mode]
    found = {name.removeprefix("--") for parameter in command.params for name in parameter.opts}
    assert found == {*flags, "overwrite"} | ({"wikitext_detokenize"} if mode == "preprocessed_text" else set())


@pytest.mark.parametrize(
    ("mode", "words"),
    [
        ("LMData", ["--write_remainder"]),
        ("LMData", ["--write_remainder", "yes"]),
        ("LMData", ["--write_remainder", "True", "False"]),
        ("LMData", ["--resume_from_checkpoint", "checkpoint_0.txt"]),
        ("LMData", ["--ftfy"]),
        ("LMData", ["--tokenizer_type", "Other"]),
        ("preprocessed_text", []),
        ("preprocessed_text", ["--tokenizer_type", "GPT2Tokenizer", "--write_remainder", "True"]),
        ("preprocessed_text", ["--tokenizer_type", "GPT2Tokenizer", "--resume_from_checkpoint", "checkpoint_0.txt"]),
        ("preprocessed_text", ["--tokenizer_type", "GPT2Tokenizer", "--use_ftfy", "True"]),
        ("preprocessed_text", ["--tokenizer_type", "HuggingFaceTokenizer"]),
        ("raw_text", []),
        ("FIM", []),
    ],
)
def test_a_flag_of_the_other_generation_is_a_usage_error(mode: str, words: list[str]) -> None:
    done = invoke("create-hdf5", mode, *words)
    assert done.exit_code == 2
    assert any(word in done.stderr for word in (words[-2:] or ["tokenizer_type", mode]))


@pytest.mark.parametrize("name", REFUSED)
def test_a_flag_of_what_is_not_offered_says_so_on_the_command_line_and_in_yaml(tmp_path: Path, name: str) -> None:
    value = "0.5" if name.endswith("rate") else "x"
    with pytest.raises(InvalidInputError, match=rf"{name}: .*(not offered|no hub)"):
        invoke("create-hdf5", "LMData", f"--{name}", value)
    section = "setup" if name in ("module", "dataset_processor") else "processing"
    (tmp_path / "p.yaml").write_text(f"{section}: {{{name}: {value}}}")
    with pytest.raises(InvalidInputError, match=rf"{name}: .*(not offered|no hub)"):
        resolve("LMData", given=REQUIRED, params=tmp_path / "p.yaml")
    (tmp_path / "p.yaml").write_text(f"{section}: {{{name}: null}}")
    assert resolve("LMData", given=REQUIRED, params=tmp_path / "p.yaml").mode == "LMData"


def test_the_program_has_the_commands_and_stays_light() -> None:
    code = "import sys; from regraft.cli import make_app; make_app()\n"
    code += "assert not {'h5py', 'tokenizers', 'ftfy', 'numpy', 'pyarrow'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code], check=True)
    for command in (["trc2", "split"], ["create-hdf5", "preprocessed_text"], ["create-hdf5", "LMData"]):
        assert "Mended" in invoke(*command, "--help").output


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"tokenizer_type": "Other"}, "tokenizer_type"),
        ({"max_seq_length": 2}, "max_seq_length"),
        ({"use_ftfy": "perhaps"}, "use_ftfy"),
        ({"input_ids_dtype": "int64"}, "input_ids_dtype: the files hold int32"),
        ({"input_mask_dtype": "int8"}, "input_mask_dtype: the files hold int32"),
        ({"chunk_len_to_split": 0}, "chunk_len_to_split"),
        ({"output_name": "a/b"}, "output_name"),
    ],
)
def test_values_that_cannot_be_are_named(given: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidInputError, match=words):
        resolve("LMData", given={**REQUIRED, **given})


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
    (tmp_path / "tokenizer_config.json").write_text('{"eos_token": "<|endoftext|>", "pad_token": {"content": "a"}}')
    assert ids(**folder) == (0, 2)
    assert ids(**gpt2, eos_id=5, pad_id=5) == (5, 5)
    with pytest.raises(InvalidInputError, match=r"pad_id: GPT2Tokenizer pads with EOS \(256\)"):
        ids(**gpt2, pad_id=5)
    found = load(resolve("preprocessed_text", given={**gpt2, "pad_id": 5}))
    assert (found.eos_id, found.pad_id) == (50256, 5)


def test_pieces_and_a_tokenizer_that_adds_a_bos(tmp_path: Path) -> None:
    tokenizer = Tokenizer(models.WordLevel({"<|endoftext|>": 0, "<s>": 1, "a": 2, "b": 3}, unk_token="a"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    given = {"tokenizer_type": "HuggingFaceTokenizer", "huggingface_tokenizer": str(tmp_path)}
    pieces = {"split_text_to_tokenize": True, "chunk_len_to_split": 2}
    with pytest.raises(InvalidInputError, match="remove_bos_in_chunks"):
        load(resolve("LMData", given={**given, **pieces}))
    apart = load(resolve("LMData", given={**given, **pieces, "remove_bos_in_chunks": "True"}))
    for found in (load(resolve("LMData", given=given)), apart):
        assert found.encode(["abbab", "", "b"]) == [[2, 3, 3, 2, 3, 0], [0], [3, 0]]


def test_what_was_given_is_recorded_and_defaults_that_the_original_leaves_out_are_not() -> None:
    plain = dump(resolve("LMData", given=REQUIRED))
    given = dump(resolve("LMData", given={**REQUIRED, "files_per_record": 50_000, "jsonl_key": "text"}))
    assert (given["processing"].pop("files_per_record"), given["dataset"].pop("jsonl_key")) == (50_000, "text")
    assert given == plain
