"""Finding a source and opening its files."""

from __future__ import annotations

from pathlib import Path

import pytest

from regraft import discover
from regraft.errors import InvalidDataError, InvalidInputError
from regraft_dataprep.sources import open_source
from regraft_dataprep.sources.base import Source


@pytest.mark.parametrize("name", discover.names("regraft_dataprep.sources"))
def test_every_file_of_the_package_is_a_source(name: str, corpus: Path) -> None:
    assert isinstance(open_source(name, uri=corpus.as_uri()), Source)


def test_an_unknown_source_is_refused_with_the_list(corpus: Path) -> None:
    with pytest.raises(InvalidInputError, match="trc2") as caught:
        open_source("nope", uri=str(corpus))
    assert caught.value.field == "dataset.source"


@pytest.mark.parametrize("name", ["missing.trc2", ""])
def test_a_missing_file_or_a_folder_is_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    with pytest.raises(InvalidInputError) as caught:
        open_source("trc2", uri=str(path))
    assert (caught.value.field, caught.value.reason) == ("dataset.uri", "corpus_not_found")
    assert caught.value.value == str(path)
    assert caught.value.remedy


def test_a_file_that_changes_while_it_is_read_is_noticed(tmp_path: Path, corpus: Path) -> None:
    path = tmp_path / "growing.trc2"
    path.write_bytes(corpus.read_bytes())
    source = open_source("trc2", uri=str(path))
    source.check_unchanged()
    with path.open("ab") as file:
        file.write(b"<DOC>")
    with pytest.raises(InvalidDataError, match="changed") as caught:
        source.check_unchanged()
    assert caught.value.reason == "corpus_changed"


def test_a_file_that_disappears_while_it_is_read_is_noticed(tmp_path: Path, corpus: Path) -> None:
    for name in ("1", "2"):
        (tmp_path / name).write_bytes(corpus.read_bytes())
    source = open_source("trc2", uri=(str(tmp_path / "1"), str(tmp_path / "2")))
    (tmp_path / "2").unlink()
    with pytest.raises(InvalidDataError, match="changed") as caught:
        source.check_unchanged()
    assert caught.value.value == str(tmp_path / "2")
