"""A corpus in S3: a real server (SeaweedFS), the command as a user starts it, the real S3 client in its processes."""

from __future__ import annotations

import gzip
import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from regraft.storage import file_sha256
from s3_server import Environment, s3_server

PUT = """
import sys
import s3fs
system = s3fs.S3FileSystem()
system.put(sys.argv[1] + "/", sys.argv[2] + "/", recursive=True)
"""
NOT_LISTED = "this cannot be listed"


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Environment]:
    """The environment of a client of a server of our own, with a bucket `news`."""
    with s3_server(tmp_path_factory.mktemp("s3"), bucket="news") as found:
        yield {**os.environ, **found}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory, s3: Environment) -> Path:
    """Stories of random words: here, and at s3://news/corpus."""
    folder = tmp_path_factory.mktemp("corpus") / "stories"
    (folder / "sub").mkdir(parents=True)
    source = random.Random(5)
    words = ["".join(source.choices("etaoinshrdlu", k=source.randint(2, 9))) for _ in range(500)]
    rows = [json.dumps({"id": str(n), "text": " ".join(source.choices(words, k=30))}) + "\n" for n in range(400)]
    (folder / "a.jsonl").write_text("".join(rows[:250]))
    (folder / "sub" / "b.jsonl.gz").write_bytes(gzip.compress("".join(rows[250:]).encode()))
    subprocess.run([sys.executable, "-c", PUT, str(folder), "news/corpus"], env=s3, check=True, timeout=60)
    return folder


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A token per byte, and <|endoftext|>."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    found = Tokenizer(models.BPE({letter: number for number, letter in enumerate(alphabet)}, []))
    found.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    found.decoder = decoders.ByteLevel()
    found.add_special_tokens(["<|endoftext|>"])
    folder = tmp_path_factory.mktemp("tokenizer")
    found.save(str(folder / "tokenizer.json"))
    return folder


def command(uris: list[str], tokenizer: Path, out: Path) -> list[str]:
    program = [str(Path(sys.executable).with_name("regraft")), "prepare", "--source", "jsonl", "--id-key", "id"]
    places = [part for uri in uris for part in ("--uri", uri)]
    sizes = ["--max-sequence-length", "64", "--processes", "2"]
    return [*program, *places, *sizes, "--tokenizer", str(tokenizer), "--output-dir", str(out)]


def prepared(uris: list[str], tokenizer: Path, out: Path, environment: Environment) -> tuple[str, dict[str, str]]:
    """The dataset's address, and the digests of its arrays and documents."""
    result = subprocess.run(
        command(uris, tokenizer, out), env=environment, capture_output=True, text=True, check=False, timeout=120
    )
    assert result.returncode == 0, result.stderr
    address = json.loads(result.stdout)["address"]
    files = [path for path in (out / address).rglob("*") if path.suffix in (".h5", ".parquet")]
    return address, {path.relative_to(out).as_posix(): file_sha256(path) for path in files}


def test_a_corpus_in_s3_makes_the_dataset_that_it_makes_here(
    corpus: Path, tokenizer: Path, s3: Environment, tmp_path: Path
) -> None:
    here = prepared([str(corpus)], tokenizer, tmp_path / "here", dict(os.environ))
    assert len(here[1]) == 3
    assert prepared(["s3://news/corpus"], tokenizer, tmp_path / "folder", s3) == here
    assert prepared(["s3://news/corpus/*.jsonl", "s3://news/corpus/**/b.*"], tokenizer, tmp_path / "globs", s3) == here


@pytest.mark.parametrize(
    ("uri", "changes", "message"),
    [
        ("s3://news/nothing", {}, "there is no such file"),
        ("s3://nobucket/corpus", {}, "there is no such file"),
        ("s3://news/corpus", {"AWS_SECRET_ACCESS_KEY": "wrong"}, "this may not be read"),
        ("s3://news/corpus", {"AWS_ACCESS_KEY_ID": None, "AWS_EC2_METADATA_DISABLED": "true"}, NOT_LISTED),
        ("s3://news/corpus", {"AWS_ENDPOINT_URL": "http://127.0.0.1:1", "AWS_MAX_ATTEMPTS": "1"}, NOT_LISTED),
    ],
)
def test_what_cannot_be_read_in_s3_is_told_in_a_line(
    corpus: Path,
    tokenizer: Path,
    s3: Environment,
    tmp_path: Path,
    uri: str,
    changes: dict[str, str | None],
    message: str,
) -> None:
    given = {**s3, "HOME": str(tmp_path), **changes}
    environment = {name: value for name, value in given.items() if value is not None}
    result = subprocess.run(
        command([uri], tokenizer, tmp_path / "out"), env=environment, capture_output=True, text=True, check=False
    )
    (line,) = result.stderr.splitlines()
    assert result.returncode != 0
    assert line.startswith(f"error: dataset.uri: {message}")
    assert uri in line
