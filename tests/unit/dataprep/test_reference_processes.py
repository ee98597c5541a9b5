"""`create-hdf5` as processes of the system: each packs its own block, and a kill -9 costs time only."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import pre_tokenizers
from typer.testing import CliRunner

from helpers import children, eventually, plant
from regraft.cli import make_app
from regraft.hdf5 import read_rows, read_shard_info

EOS, LENGTH, FILES = 256, 16, 5
HELD = 10
HOLD = f"""
import time
from regraft_dataprep.reference.writer import RecordWriter

def held(self):
    while self.files >= {HELD}:
        time.sleep(0.05)
    finish(self)

finish, RecordWriter.finish = RecordWriter.finish, held
"""
"""In a process: no more files than that, and no end."""
ALPHABET = sorted(pre_tokenizers.ByteLevel.alphabet())


@pytest.fixture
def words(tmp_path: Path) -> list[str]:
    """The command line but for output and processes, with a tokenizer of the 256 bytes."""
    vocab = {letter: number for number, letter in enumerate(ALPHABET)}
    (tmp_path / "encoder.json").write_text(json.dumps({**vocab, "<|endoftext|>": EOS}))
    (tmp_path / "vocab.bpe").write_text("#version: 0.2\n")
    (tmp_path / "in").mkdir()
    for number in range(FILES):
        lines = (json.dumps({"text": text}) + "\n" for text in texts(number))
        (tmp_path / "in" / f"{number}.jsonl").write_text("".join(lines))
    tokenizer = ["--vocab_file", str(tmp_path / "vocab.bpe"), "--encoder_file", str(tmp_path / "encoder.json")]
    tokenizer += ["--tokenizer_type", "GPT2Tokenizer", "--max_seq_length", str(LENGTH)]
    return ["create-hdf5", "LMData", "--input_dir", str(tmp_path / "in"), *tokenizer, "--files_per_record", "20"]


def texts(number: int) -> list[str]:
    return [f"story{number}.{story}" + "word" * (story % 11) for story in range(300)]


def run(words: Sequence[str], *, output: Path, processes: int, resume: bool = False) -> dict[str, Any]:
    extra = ["--output_dir", str(output), "--processes", str(processes), "--resume_from_checkpoint", str(resume)]
    done = CliRunner().invoke(make_app(), [*words, *extra], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    shown: dict[str, Any] = json.loads(done.stdout)
    return shown


def arrays(folder: Path) -> dict[str, Any]:
    return {path.name: read_rows(path, range(read_shard_info(path).examples)) for path in folder.glob("*.h5")}


def in_order(folder: Path, *, process: int) -> Any:
    found = arrays(folder)
    number = sum(name.endswith(f"_{process}.h5") for name in found)
    return np.concatenate([found[f"examples_{index}_{process}.h5"] for index in range(number)])


def expected(numbers: Sequence[int]) -> list[list[list[int]]]:
    """Windows of one block, by lists. The texts are letters and digits, whose byte is their letter."""
    stream = [token for number in numbers for text in texts(number) for token in (*map(ALPHABET.index, text), EOS)]
    starts = range(0, len(stream) - LENGTH, LENGTH)
    cut = [stream[start : start + LENGTH + 1] for start in starts]
    return [[window[:-1], [1] * LENGTH, window[1:]] for window in cut]


def blocks(processes: int) -> Iterator[range]:
    size = math.ceil(FILES / processes)
    return (range(start, min(start + size, FILES)) for start in range(0, FILES, size))


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_each_process_packs_a_contiguous_block(tmp_path: Path, words: list[str], processes: int) -> None:
    shown = run(words, output=tmp_path / "out", processes=processes)
    found = [in_order(tmp_path / "out", process=number).tolist() for number in range(processes)]
    assert found == [expected(block) for block in blocks(processes)]
    assert found != [expected(block) for block in blocks(processes + 2)]  # a planted error: other borders
    assert shown["setup"]["processes"] == processes
    assert shown["dropped_tokens"] == sum(
        sum(len(text) + 1 for number in block for text in texts(number)) - LENGTH * len(expected(block))
        for block in blocks(processes)
    )


def test_a_killed_run_goes_on_to_the_arrays_of_an_undisturbed_one(tmp_path: Path, words: list[str]) -> None:
    words = [*words, "--short_seq_prob", "0.3"]
    whole, output = tmp_path / "whole", tmp_path / "killed"
    params = run(words, output=whole, processes=2)
    extra = ["--output_dir", str(output), "--processes", "2"]
    environment = {**os.environ, "PYTHONPATH": str(plant(tmp_path, HOLD))}
    command = [sys.executable, "-m", "regraft.cli", *words, *extra]
    child = subprocess.Popen(command, stderr=subprocess.DEVNULL, env=environment)
    eventually(lambda: child.poll() is not None or len(arrays(output)) == 2 * HELD, seconds=60, what="the files")
    pids = children(child.pid)
    child.send_signal(signal.SIGKILL)
    child.wait()
    # Its children end with the parent, but not in the same instant.
    eventually(lambda: not any(Path(f"/proc/{pid}/exe").exists() for pid in pids), what="their end")
    assert len(pids) >= 2
    assert len(arrays(output)) == 2 * HELD < len(arrays(whole))
    assert not (output / "data_params.json").exists()
    resumed = run(words, output=output, processes=2, resume=True)
    np.testing.assert_equal(arrays(output), arrays(whole))
    assert resumed["h5_dataset_stats"] == params["h5_dataset_stats"]
    assert resumed["post-process"] == params["post-process"]
    for number in range(2):
        name = f"checkpoint_{number}.txt"
        assert (output / name).read_text() == (whole / name).read_text()
