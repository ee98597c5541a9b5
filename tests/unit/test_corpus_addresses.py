"""The addresses of a corpus where a job is read, checked and recorded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from regraft.errors import InvalidDataError, InvalidInputError
from regraft.jobfile import read_job_file
from regraft.specs.dataset import DatasetSpec
from regraft.storage import local_path
from regraft_api.preflight import _check_corpus


def dataset(uri: object, **more: Any) -> DatasetSpec:
    return DatasetSpec.model_validate({"uri": uri, **more})


def test_one_or_several_addresses_survive_json() -> None:
    for uri, expected in (("a", ("a",)), (["a", "s3://b/c"], ("a", "s3://b/c"))):
        spec = DatasetSpec.model_validate_json(dataset(uri).model_dump_json())
        assert spec.uris == expected
        assert spec == dataset(uri)


@pytest.mark.parametrize("uri", ["", [], [""], 5, None])
def test_no_address_is_refused(uri: object) -> None:
    with pytest.raises(ValidationError) as caught:
        dataset(uri)
    assert all(error["loc"][0] == "uri" for error in caught.value.errors())


@pytest.mark.parametrize(
    "reading", [{"max_bad_records": -1}, {"documents": "page"}, {"text_key": []}, {"date_key": ""}]
)
def test_impossible_readings_are_refused(reading: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        dataset("a", reading=reading)


def test_relative_paths_of_a_job_file_start_at_its_folder_within_lists_too(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    uris = ["../corpus", "part [1]/*.jsonl", "s3://bucket/x/*.jsonl", "file:///abs"]
    path.write_text(yaml.safe_dump({"dataset": {"uri": uris, "tokenizer": "t.json"}}))
    found = read_job_file(path)["dataset"]
    assert local_path(found["uri"][0]) == tmp_path.parent / "corpus"
    assert local_path(found["uri"][1]) == tmp_path / "part [1]" / "*.jsonl"
    assert found["uri"][2:] == uris[2:]
    assert local_path(found["tokenizer"]) == tmp_path / "t.json"


def test_a_job_is_checked_for_every_address_that_can_be_seen(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("x")
    (tmp_path / "empty.jsonl").write_text("")
    _check_corpus(dataset(str(tmp_path)))
    _check_corpus(dataset([str(tmp_path / "*.jsonl"), (tmp_path / "a.*").as_uri(), "s3://bucket/unseen"]))
    _check_corpus(dataset([str(tmp_path / "a.jsonl"), str(tmp_path / "empty.jsonl")]))
    for missing in ("no.jsonl", "*.csv"):
        with pytest.raises(InvalidInputError, match="no corpus at this place") as caught:
            _check_corpus(dataset([str(tmp_path), str(tmp_path / missing)]))
        assert caught.value.value == str(tmp_path / missing)
    with pytest.raises(InvalidInputError, match="gopher"):
        _check_corpus(dataset([str(tmp_path), "gopher://x/y"]))
    with pytest.raises(InvalidDataError, match="empty"):
        _check_corpus(dataset(str(tmp_path / "empty.jsonl")))
