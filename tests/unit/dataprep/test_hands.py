"""The processes that share the units, what they are forked from, and when that is started."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from helpers import eventually
from regraft.processes import is_gone
from regraft_dataprep import start
from regraft_dataprep.hands import Hands
from regraft_dataprep.resources import Resources
from unit.dataprep.test_pipeline import task


def test_hands_end_with_what_they_are_forked_from_and_tell_how_they_ended(tokenizer_dir: Path, tmp_path: Path) -> None:
    with Hands(tokenizer_uri=str(tokenizer_dir), special_tokens="text") as source:
        first, second = source.new(tmp_path), source.new(tmp_path)
        os.kill(first.pid, signal.SIGTERM)
        assert first.connection.poll(10)  # its end is seen although the second one was forked while it lived
        assert first.end() == -signal.SIGTERM
        assert not is_gone(second.pid)
    eventually(lambda: is_gone(second.pid), what="the end of the second")


@pytest.mark.parametrize("broken", ["missing", "no tokenizer"])
def test_without_a_tokenizer_nobody_waits_for_hands(tmp_path: Path, broken: str) -> None:
    (tmp_path / "no tokenizer").mkdir()
    with (
        Hands(tokenizer_uri=str(tmp_path / broken), special_tokens="text") as source,
        pytest.raises((EOFError, OSError)),
    ):
        source.new(tmp_path)


def test_loading_starts_no_thread(tokenizer_dir: Path) -> None:
    """In a process of its own, as the origin is one: a fork of it is sound."""
    script = (
        "import sys; from regraft_dataprep import origin; from regraft_dataprep.encoders import load_both; "
        "from regraft_dataprep.tokenize import load_tokenizer; "
        "load_both(load_tokenizer(sys.argv[1]), one_core=True); print(origin.threads())"
    )
    command = [sys.executable, "-c", script, str(tokenizer_dir)]
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
    assert subprocess.run(command, env=environment, capture_output=True, check=True).stdout == b"1\n"


@pytest.mark.parametrize(("megabytes", "processes", "started"), [(0, None, 0), (70, None, 1), (70, 1, 0)])
def test_hands_are_started_early_where_there_is_much_to_do(
    tokenizer_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    megabytes: int,
    processes: int | None,
    started: int,
) -> None:
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    (corpus / "a.jsonl").write_text('{"text": "Oil rose."}\n')
    with (corpus / "b.jsonl").open("wb") as file:
        file.truncate(megabytes * 10**6)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    begun: list[Hands] = []
    monkeypatch.setattr(Hands, "start", lambda self: begun.append(self))
    spec = task(corpus, tokenizer_dir, tmp_path / "out", source="jsonl")
    resources = Resources(processes=processes, part_bytes=2**25)
    assert start._bytes(spec) > megabytes * 10**6
    monkeypatch.setattr("regraft_dataprep.pipeline.prepare", lambda *_, hands, **__: list(begun))
    assert start.prepare(spec, resources=resources) == begun
    assert len(begun) == started
