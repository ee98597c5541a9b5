"""HDF5 on a full disk, and a killed writer of HDF5, as attempts of a job: cases 7 and 8 of the catalogue.

With a disk that is really full, and kills at any moment: `tests/integration/test_prepare_faults.py`.
"""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from bounds import WITHIN
from plant import Plant
from test_storage_faults import needs_strace
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from helpers import spec
from regraft.specs import PrepareTask
from regraft.storage import file_sha256, is_published, local_path
from regraft.storage.manifest import NAME
from regraft_dataprep.resources import Resources
from regraft_dataprep.start import prepare

RULES = "prepare pwrite64:signal=KILL:when=2 pwrite64:error=ENOSPC:when=2"


@pytest.fixture
def dataset(tmp_path: Path) -> dict[str, object]:
    """Five hundred short documents, and a tokenizer of bytes."""
    source = random.Random(5)
    lines = [{"text": " ".join(str(source.randrange(10**6)) for _ in range(60))} for _ in range(500)]
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text("".join(json.dumps(line) + "\n" for line in lines))
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    vocabulary = {
        token: number for number, token in enumerate([*sorted(pre_tokenizers.ByteLevel.alphabet()), "<|endoftext|>"])
    }
    tokenizer.model = models.BPE(vocabulary, [])
    tokenizer.add_special_tokens(["<|endoftext|>"])
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    return {
        "source": "jsonl",
        "uri": str(corpus),
        "tokenizer": str(tmp_path / "tokenizer.json"),
        "max_sequence_length": 128,
    }


@needs_strace
def test_hdf5_that_is_cut_short_is_written_again_to_the_same_bytes(
    plant: Plant, dataset: dict[str, object], tmp_path: Path
) -> None:
    """The first attempt is killed while it writes, the second finds the disk full, the third ends as undisturbed."""
    plant.start_worker(FAULT_PREPARE="real", FAULT_STRACE=RULES)
    plant.struck()
    job = plant.jobs.create(spec(dataset=dataset, training={"max_steps": 5, "batch_size": 8})).id
    plant.check(job, steps=5, within=min(WITHIN[7], WITHIN[8]))
    ends = [(attempt.reason, attempt.signal) for attempt in plant.stage(job, "prepare").attempts]
    assert ends == [("killed", 9), ("disk_full", None), (None, None)]
    result = plant.stage(job, "prepare").result or {}
    same = {"dataset": dataset, "tokenizer_uri": dataset["tokenizer"], "planned_windows": 5 * 8}
    task = PrepareTask.model_validate({**same, "output_uri": str(tmp_path / "undisturbed")})
    assert digests(result["uri"]) == digests(prepare(task, resources=Resources(processes=1)).uri)


def digests(uri: str) -> dict[str, str]:
    """Of the dataset's files."""
    folder = local_path(uri)
    assert is_published(folder)
    assert list(folder.rglob("*.h5"))
    return {path.relative_to(folder).as_posix(): file_sha256(path) for path in folder.rglob("*.*") if path.name != NAME}
