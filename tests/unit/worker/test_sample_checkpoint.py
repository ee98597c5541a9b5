"""The tiny models of `regraft sample checkpoint`."""

from __future__ import annotations

import hashlib
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file
from tokenizers import Tokenizer
from typer.testing import CliRunner

from regraft.checkpoint_info import inspect_checkpoint
from regraft.errors import InvalidInputError
from regraft_worker.cli_convert import sample_checkpoint
from regraft_worker.sample import END_OF_TEXT, write_sample_checkpoint


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_bytes(b"Shares rose. Shares fell. \xff\xfe Rates stay.\r\n" * 50)
    return path


def digest(folder: Path) -> str:
    files = sorted(path for path in folder.iterdir())
    return hashlib.sha256(b"".join(path.name.encode() + path.read_bytes() for path in files)).hexdigest()


@pytest.mark.parametrize("family", ["gptj", "gptneox"])
def test_a_sample_is_a_whole_checkpoint(tmp_path: Path, text: Path, family: str) -> None:
    write_sample_checkpoint(tmp_path / "a", family=family, tokenizer_text=text)  # type: ignore[arg-type]
    info = inspect_checkpoint(tmp_path / "a")
    assert info.has_tokenizer
    assert (info.architecture.num_layers, info.architecture.hidden_size, info.architecture.vocab_size) == (2, 64, 512)
    assert info.dtypes.keys() == {"F32"}


def test_the_same_arguments_give_the_same_bytes_in_any_process(tmp_path: Path, text: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from regraft_worker.sample import write_sample_checkpoint as w;"
        "w(Path(sys.argv[1]), family='gptj', tokenizer_text=Path(sys.argv[2]), seed=4)"
    )
    for seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": seed, "RAYON_NUM_THREADS": seed}
        subprocess.run([sys.executable, "-c", code, str(tmp_path / seed), str(text)], check=True, env=environment)
    assert digest(tmp_path / "1") == digest(tmp_path / "2")
    write_sample_checkpoint(tmp_path / "3", family="gptj", tokenizer_text=text, seed=5)
    assert digest(tmp_path / "3") != digest(tmp_path / "1")


def test_matrices_are_spread_as_asked_and_the_rest_is_neutral(tmp_path: Path) -> None:
    write_sample_checkpoint(tmp_path / "a", family="gptneox", std=0.5)
    write_sample_checkpoint(tmp_path / "b", family="gptneox")
    for folder, std in (("a", 0.5), ("b", 0.02)):
        for name, tensor in load_file(tmp_path / folder / "model.safetensors").items():
            if tensor.ndim == 2:
                assert math.isclose(tensor.std().item(), std, rel_tol=0.05)
                assert abs(tensor.mean().item()) < std / 10
            else:
                assert tensor.eq(0.0 if name.endswith("bias") else 1.0).all()


def test_the_tokenizer_knows_all_bytes_and_its_end_of_text(tmp_path: Path, text: Path) -> None:
    write_sample_checkpoint(tmp_path / "a", family="gptj", tokenizer_text=text, vocab_size=300)
    tokenizer = Tokenizer.from_file(str(tmp_path / "a" / "tokenizer.json"))
    assert 257 <= tokenizer.get_vocab_size() <= 300
    assert tokenizer.token_to_id(END_OF_TEXT) == 0
    for sample in ("Shares rose.", "naïve – 漢字 \N{GRINNING FACE}\t\n  x", "\x00\x7f"):
        assert tokenizer.decode(tokenizer.encode(sample).ids, skip_special_tokens=False) == sample
    assert len(tokenizer.encode("Shares").ids) < 6


def test_without_a_text_there_is_no_tokenizer(tmp_path: Path) -> None:
    write_sample_checkpoint(tmp_path / "a", family="gptj")
    assert not inspect_checkpoint(tmp_path / "a").has_tokenizer


@pytest.mark.parametrize(
    ("sizes", "field"),
    [
        ({"vocab_size": 256}, "vocab_size"),
        ({"hidden_size": 30}, "hidden_size"),
        ({"num_heads": 0}, "hidden_size"),
        ({"num_layers": 0}, "hidden_size"),
        ({"tokenizer_text": Path("/nowhere/text.txt")}, "tokenizer_text"),
    ],
)
def test_sizes_that_do_not_go_together_are_refused(tmp_path: Path, sizes: dict[str, object], field: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        write_sample_checkpoint(tmp_path / "a", family="gptj", **sizes)  # type: ignore[arg-type]
    assert caught.value.field == field


@pytest.mark.parametrize("family", ["gptj", "gptneox"])
@pytest.mark.parametrize(("hidden", "heads"), [(2, 1), (4, 2), (12, 2), (40, 4), (96, 4)])
def test_any_even_head_gets_a_rotary_dimension_it_can_hold(
    tmp_path: Path, family: str, hidden: int, heads: int
) -> None:
    write_sample_checkpoint(tmp_path / "a", family=family, hidden_size=hidden, num_heads=heads)  # type: ignore[arg-type]
    architecture = inspect_checkpoint(tmp_path / "a").architecture
    assert 2 <= architecture.rotary_dim <= architecture.head_dim


def test_the_command_line_writes_what_it_is_told(tmp_path: Path, text: Path) -> None:
    import typer

    app = typer.Typer()
    app.command()(sample_checkpoint)
    options = ["--output", str(tmp_path / "a"), "--tokenizer-text", str(text), "--hidden-size", "32", "--seed", "3"]
    result = CliRunner().invoke(app, ["gptneox", *options], catch_exceptions=False)
    assert result.output == f"Checkpoint saved to {tmp_path / 'a'}\n"
    assert json.loads((tmp_path / "a" / "config.json").read_text())["hidden_size"] == 32
    assert CliRunner().invoke(app, ["gpt2", "--output", str(tmp_path / "b")]).exit_code == 2
