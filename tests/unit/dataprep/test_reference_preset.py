"""The preset `reference` of a job: the arrays of the drop-in commands one after the other, and what it does not do."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from regraft.errors import InvalidDataError
from regraft.hdf5 import Dataset
from regraft.specs.cleaning import CORRECTED, REFERENCE, TRC2_RULES
from regraft.specs.dataset import DatasetSpec, ReadingSpec, ValidationSpec
from regraft.specs.stages import PrepareTask
from regraft.storage import local_path
from regraft_dataprep.cleaning import Cleaner
from regraft_dataprep.pipeline import content_address, prepare
from regraft_dataprep.reference.create_hdf5 import create_hdf5
from regraft_dataprep.reference.options import resolve
from regraft_dataprep.reference.trc2 import clean_file, split_file
from regraft_dataprep.resources import Resources
from regraft_dataprep.sources import _shards
from regraft_dataprep.sources.trc2 import Trc2Source

LENGTH, LINES = 64, 50


def chain(corpus: Path, work: Path, tokenizer: Path) -> dict[str, np.ndarray]:
    """The windows that the drop-in commands make of a corpus."""
    clean_file(corpus, output=work / "clean")
    split = split_file(work / "clean", out_dir=work / "split", buffer_len=LINES, reference=True)
    found = {}
    for side, shards in (("train", split.train), ("eval", split.validation)):
        named = [shard.rename(f"{shard}.txt") for shard in shards]
        (work / f"{side}.txt").write_text("".join(f"{path}\n" for path in named))
        given = {"tokenizer_type": "HuggingFaceTokenizer", "huggingface_tokenizer": str(tokenizer), "processes": 1}
        files = {"metadata_files": str(work / f"{side}.txt"), "output_dir": str(work / side)}
        create_hdf5(resolve("LMData", given={**given, **files, "max_seq_length": LENGTH}))
        found[side] = windows(work / side)
    return found


def windows(folder: Path) -> np.ndarray:
    with Dataset(folder) as dataset:
        return np.asarray(dataset.rows(range(len(dataset))))


def job(corpus: Path, work: Path, tokenizer: Path, **changes: Any) -> Path:
    """The dataset of a job with the preset, in several parts."""
    fields = {"uri": str(corpus), "preset": "reference", "reading": {"lines_per_shard": LINES}, **changes}
    dataset = {"max_sequence_length": LENGTH, **fields}
    task = {"dataset": dataset, "tokenizer_uri": str(tokenizer), "output_uri": str(work / "datasets")}
    done = prepare(PrepareTask.model_validate(task), resources=Resources(processes=1, part_bytes=20_000))
    return local_path(done.uri)


def test_a_job_makes_the_arrays_of_the_commands(corpus: Path, tokenizer_dir: Path, tmp_path: Path) -> None:
    expected = chain(corpus, tmp_path, tokenizer_dir)
    dataset = job(corpus, tmp_path, tokenizer_dir)
    assert {side: len(arrays) > 20 for side, arrays in expected.items()} == {"train": True, "eval": True}
    for side, arrays in expected.items():
        assert np.array_equal(windows(dataset / side), arrays)


@pytest.mark.parametrize(
    "change",
    [
        {"cleaning": (TRC2_RULES[0], TRC2_RULES[2], TRC2_RULES[1], *REFERENCE[3:])},
        {"cleaning": REFERENCE[:-1]},
        {"reading": {"lines_per_shard": LINES + 1}},
        {"packing": {"remainder": "pad"}},
        {"validation": {"order": "chronological", "fraction": 0.16}},
    ],
)
def test_every_part_of_the_preset_matters(
    corpus: Path, tokenizer_dir: Path, tmp_path: Path, change: dict[str, Any]
) -> None:
    """Each of them, a wrong order of two rules too, makes another dataset."""
    head = tmp_path / "head.trc2"
    head.write_bytes(b"".join(corpus.read_bytes().splitlines(keepends=True)[: 19 * LINES + 7]))
    expected = chain(head, tmp_path, tokenizer_dir)
    assert np.array_equal(windows(job(head, tmp_path, tokenizer_dir) / "eval"), expected["eval"])
    changed = job(head, tmp_path, tokenizer_dir, **change)
    assert not all(np.array_equal(windows(changed / side), arrays) for side, arrays in expected.items())


def test_the_rules_by_name_make_the_corrected_dataset(corpus: Path, tokenizer_dir: Path, tmp_path: Path) -> None:
    """And they are counted: documents and characters, from one step to the next."""
    named = (*TRC2_RULES, "strip_blank_lines", "fix_text", "drop_empty", "drop_duplicates")
    plain = {"preset": "corrected", "reading": {}}
    one, other = (job(corpus, tmp_path, tokenizer_dir, cleaning=steps, **plain) for steps in (CORRECTED, named))
    assert one != other
    for side in ("train", "eval"):
        assert np.array_equal(windows(one / side), windows(other / side))
    steps = json.loads((other / "corpus_report.json").read_text())["cleaning"]
    assert [step["step"] for step in steps] == list(named)
    for before, after in pairwise(steps):
        assert (before["documents_out"], before["characters_out"]) == (after["documents_in"], after["characters_in"])
    removed = {step["step"]: step["characters_in"] - step["characters_out"] for step in steps}
    raw = {"strip_timestamps", "strip_brackets", "strip_advertisements", "drop_invalid_utf8", "fix_text"}
    assert raw <= {name for name, characters in removed.items() if characters > 0}


def lines_of(number: int) -> bytes:
    """Awkward ones: returns that cleaning takes away, or leaves; bytes that are no UTF-8; a last line that is open."""
    draw = random.Random(number)
    pool = [b"plain", b"a\rb", b"12 x\r", b"[a\rb] c", b"x (Click on the Z\r y", b"\xff\r\xe2<A>\x82\xac", b"", b"\r"]
    lines = [draw.choice(pool if draw.random() < 0.3 else pool[:1]) for _ in range(draw.randrange(60))]
    return b"\n".join(lines) + draw.choice([b"", b"\n", b"\r"])


def shards_of(path: Path, *, lines: int, part_bytes: int, steps: Sequence[Any]) -> list[str]:
    reading = ReadingSpec(documents="shard", lines_per_shard=lines)
    source = Trc2Source(path, reading=reading)
    parts = source.parts(part_bytes=part_bytes)
    return [Cleaner(steps).clean(document.text).text for part in parts for document in source.read(part)]


def test_shards_are_those_of_the_split_wherever_the_file_is_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus, refused, compared = tmp_path / "corpus", 0, 0
    for number in range(120):
        corpus.write_bytes(lines_of(number))
        clean_file(corpus, output=tmp_path / "clean")
        try:
            split = split_file(
                tmp_path / "clean", out_dir=tmp_path / "out", buffer_len=4, reference=True, overwrite=True
            )
            expected = [path.read_text() for path in split.train + split.validation]
        except InvalidDataError:  # not a shard in it
            expected = []
        monkeypatch.setattr(_shards, "_BLOCK_BYTES", [7, 100, 10_000][number % 3])
        try:
            for part_bytes in (1, 50, 10_000):
                assert shards_of(corpus, lines=4, part_bytes=part_bytes, steps=REFERENCE[:-1]) == expected
            compared += len(expected)
        except InvalidDataError as error:
            assert "carriage return within line" in str(error)
            refused += 1
    assert compared > 200
    assert 5 < refused < 60


def test_what_is_lost_is_counted_and_a_shard_has_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "corpus"
    path.write_bytes(b"one\n" * 10)
    source = Trc2Source(path, reading=ReadingSpec(documents="shard", lines_per_shard=4))
    assert len([document for part in source.parts() for document in source.read(part)]) == 2
    assert source.stray_lines == 2
    monkeypatch.setattr(_shards, "_MAX_SHARD_BYTES", 10)
    with pytest.raises(InvalidDataError, match="line 1 has more than 10 bytes"):
        shards_of(path, lines=99, part_bytes=100, steps=())


def test_a_corpus_without_one_full_shard_is_told_what_it_has(tokenizer_dir: Path, tmp_path: Path) -> None:
    head = tmp_path / "head.trc2"
    head.write_text("one\n\n" * 7)
    with pytest.raises(InvalidDataError, match=r"has 7 lines with text, .* gives a document of 10000 lines") as caught:
        job(head, tmp_path, tokenizer_dir, reading={})
    assert (caught.value.field, caught.value.value) == ("dataset.reading.lines_per_shard", 10_000)


def test_the_address_follows_the_preset() -> None:
    given = [
        {},
        {"preset": "reference"},
        {"preset": "reference", "reading": {"lines_per_shard": 1000}},
        {"preset": "reference", "cleaning": REFERENCE[:-1]},
        {"cleaning": (*TRC2_RULES, *CORRECTED)},
    ]
    specs = [DatasetSpec.model_validate({"uri": "corpus", **fields}) for fields in given]
    addresses = [content_address(spec, source_sha256="a", tokenizer_digest="b") for spec in specs]
    assert len(set(addresses)) == len(given)
    spelt_out = specs[1].model_copy(update={"preset": "corrected"})
    assert content_address(spelt_out, source_sha256="a", tokenizer_digest="b") == addresses[1]


def test_what_is_given_wins_over_the_preset_option_by_option() -> None:
    fields = {"uri": "corpus", "preset": "reference", "validation": {"fraction": 0.2}, "packing": {"remainder": "pad"}}
    spec = DatasetSpec.model_validate(fields)
    assert (spec.validation.fraction, spec.validation.order, spec.validation.near_duplicates) == (0.2, "last", None)
    assert (spec.packing.remainder, spec.reading.documents, spec.cleaning) == ("pad", "shard", REFERENCE)
    assert DatasetSpec.model_validate_json(spec.model_dump_json()) == spec
    made = DatasetSpec(uri="corpus", preset="reference", validation=ValidationSpec(fraction=0.2))
    assert made.validation == spec.validation


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"preset": "reference", "source": "jsonl"}, "for source trc2"),
        ({"preset": "referents"}, "'corrected' or 'reference'"),
        ({"preset": ["reference"]}, "'corrected' or 'reference'"),
        ({"cleaning": ["strip_brackets"]}, "need drop_invalid_utf8"),
        ({"reading": {"documents": "shard"}}, "rules of its cleaning"),
        ({"source": "text", "reading": {"documents": "shard"}, "cleaning": REFERENCE}, "is for source trc2"),
        ({"reading": {"lines_per_shard": 5}}, "is for documents: shard"),
    ],
)
def test_what_cannot_be_meant_is_refused(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        DatasetSpec.model_validate({"uri": "corpus", **fields})
