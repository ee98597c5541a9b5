"""The documented data steps, command by command, with `regraft` in place of the scripts, in processes of the system."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ftfy
import numpy as np
import pytest
from tokenizers import ByteLevelBPETokenizer

from regraft.hdf5 import Dataset

LENGTH, EOS = 128, 50256


def regraft(folder: Path, *words: object) -> dict[str, Any]:
    program = [sys.executable, "-m", "regraft.cli", *map(str, words)]
    done = subprocess.run(program, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True)
    shown: dict[str, Any] = json.loads(done.stdout)
    return shown


def windows(ids: Sequence[Sequence[int]], *, eos: int = EOS) -> list[list[list[int]]]:
    """Release 1.8's packing by lists: M + 1 tokens, one shared; a rest of M tokens is a window, a shorter one waits."""
    found, rest = [], list[int]()
    for document in ids:
        rest = [*rest, *document, eos]
        while len(rest) >= LENGTH:
            window, rest = rest[: LENGTH + 1], rest[LENGTH:] if len(rest) > LENGTH else []
            missing = LENGTH + 1 - len(window)
            pads = [EOS] * missing
            mask = [1] * (LENGTH - missing) + [0] * missing
            found.append([[*window[:-1], *pads], mask, [*window[1:], *pads]])
    return found


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A raw sample, cleaned and split, and a vocabulary of 400 tokens made from it."""
    folder = tmp_path_factory.mktemp("work")
    raw, cleaned = "TRC2-headlines-docs-TRECBLOG.v2", "TRC2-headlines-docs-TRECBLOG.v2.clean"
    regraft(folder, "sample", "trc2", "--output", raw, "--stories", 400)
    regraft(folder, "trc2", "clean", raw, cleaned)
    shown = regraft(folder, "trc2", "split", "--input_file", cleaned, "--out_dir", "trc2", "--buffer_len", 150)
    assert shown["shards"]["validation"] == int(0.1 * sum(shown["shards"].values())) > 0
    tokenizer = ByteLevelBPETokenizer()
    tokenizer.train([str(folder / cleaned)], vocab_size=400, show_progress=False)
    tokenizer.save_model(str(folder))
    (folder / "vocab.json").rename(folder / "gpt2-encoder.json")
    (folder / "merges.txt").rename(folder / "gpt2-vocab.bpe")
    return folder


def test_cleaning_and_splitting_lose_no_line(work: Path) -> None:
    lists = [(work / "trc2" / f"{part}_meta.txt").read_text().splitlines() for part in ("train", "val")]
    shards = [work / name for names in lists for name in names]
    text = b"".join(shard.read_bytes() for shard in shards)
    assert text == (work / "TRC2-headlines-docs-TRECBLOG.v2.clean").read_bytes()
    assert b"<DOC>" not in text
    assert not re.search(rb"TRC2-\d", text)


@pytest.mark.parametrize("part", ["train", "val"])
def test_create_hdf5_as_documented(work: Path, part: str) -> None:
    files = ("--vocab_file", "gpt2-vocab.bpe", "--encoder_file", "gpt2-encoder.json")
    words = ("--input_dir", "trc2/split_files", "--metadata_files", f"trc2/{part}_meta.txt")
    words = (*words, "--tokenizer_type", "GPT2Tokenizer", *files, "--max_seq_length", LENGTH, "--seed", 42)
    words = (*words, "--processes", 2, "--ftfy", "--write_remainder", "--display_pbar", "--output_dir", part)
    shown = regraft(work, "create-hdf5", "preprocessed_text", *words)
    names = (work / "trc2" / f"{part}_meta.txt").read_text().splitlines()
    tokenizer = ByteLevelBPETokenizer(str(work / "gpt2-encoder.json"), str(work / "gpt2-vocab.bpe"))
    ids = [tokenizer.encode(ftfy.fix_text((work / name).read_text(encoding="utf-8"))).ids for name in names]
    share = -(-len(ids) // 2)
    with Dataset(work / part) as data:
        found = data.rows(range(len(data)))
        assert [shard.path.name for shard in data.shards] == [
            f"examples_0_{number}.h5" for number in range(len(data.shards))
        ]
    expected = [*windows(ids[:share]), *windows(ids[share:])]
    np.testing.assert_array_equal(found, expected)
    assert found.tolist() != [*windows(ids[:share], eos=0), *windows(ids[share:], eos=0)]  # a planted error
    assert shown["n_examples"] == len(expected)
    assert (shown["processed_files"], shown["eos_id"], shown["pad_id"]) == (len(names), EOS, EOS)
    assert json.loads((work / part / "data_params.json").read_text()).items() <= shown.items()
