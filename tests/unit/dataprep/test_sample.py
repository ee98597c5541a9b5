"""The sample corpus."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from regraft.errors import InvalidInputError
from regraft_dataprep.document import Document
from regraft_dataprep.sample import RATES, write_trc2_sample
from regraft_dataprep.sources.trc2 import Trc2Source


def read(path: Path) -> list[Document]:
    source = Trc2Source(path)
    return [record for part in source.parts() for record in source.read(part) if isinstance(record, Document)]


def test_the_seed_determines_every_byte(tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        write_trc2_sample(tmp_path / name, stories=30, seed=seed)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes() != (tmp_path / "c").read_bytes()


def test_stories_are_chronological_documents_of_news_length(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "sample"
    write_trc2_sample(path, stories=400, seed=3)
    documents = read(path)
    assert len(documents) == 400
    moments = [document.timestamp for document in documents]
    assert moments == sorted(moments, key=str)
    assert str(moments[0])[:4] == "2008"
    assert str(moments[-1]) < "2009-03"
    words = sorted(len(document.text.split()) for document in documents if document.text)
    assert words[0] >= 45
    assert 60 <= words[len(words) // 2] <= 120
    assert "(Reuters) - " in documents[0].text


def test_awkward_content_comes_at_the_stated_rates(tmp_path: Path) -> None:
    path = tmp_path / "sample"
    counts = write_trc2_sample(path, stories=4000, seed=5)
    content = path.read_bytes()
    assert counts["stories"] == content.count(b"<DOC>\n") == 4000
    assert counts["bytes"] == len(content)
    for kind, rate in RATES.items():
        assert 0.6 * rate < counts[kind] / 4000 < 1.4 * rate, kind
    # Duplicates carry the content of what they repeat, so there may be a few more than were made.
    found = {"html_entity": b"&amp;|&lt;|&quot;", "bracketed_code": rb"\[ID:nL", "advertisement": rb"\(Click on the Z"}
    for kind, pattern in found.items():
        lines = sum(1 for _ in re.finditer(pattern, content))
        assert lines >= counts[kind]
    assert counts["empty"] == sum(not document.text for document in read(path))
    with pytest.raises(UnicodeDecodeError):
        content.decode()


def test_a_corpus_of_no_stories_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="stories"):
        write_trc2_sample(tmp_path / "sample", stories=0, seed=1)
