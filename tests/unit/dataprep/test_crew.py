"""Several processes at one dataset: the same bytes as one makes, whatever becomes of them."""

from __future__ import annotations

import inspect
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from corpus_formats import write_jsonl
from helpers import hands, has_origin, origins, plant
from regraft.errors import InvalidDataError
from regraft.specs.stages import PrepareTask
from regraft_dataprep.encoders import Encoded, GigatokenEncoder
from regraft_dataprep.pipeline import prepare
from regraft_dataprep.resources import Resources
from regraft_dataprep.work import BEAT_SECONDS, STALE_SECONDS, WorkFolder
from unit.dataprep.test_pipeline import files_of, task, work_folders

EVERYTHING: dict[str, Any] = {
    "source": "jsonl",
    "reading": {"id_key": "id", "date_key": "day", "max_bad_records": 9},
    "cleaning": ["fix_text", "drop_empty", "drop_duplicates", {"drop_near_duplicates": {"threshold": 0.9}}],
    "validation": {"fraction": 0.2, "near_duplicates": 0.7},
    "packing": {"short_seq_prob": 0.2, "document_boundaries": True},
    "examples_per_file": 100,
}
"""Options that make every part of the work matter: what is compared, moved, drawn, counted and named."""

RUN = """
import json, sys
from regraft.child import LineProgress
from regraft.specs.stages import PrepareTask
from regraft_dataprep.pipeline import prepare
from regraft_dataprep.resources import Resources
given = json.loads(sys.argv[1])
resources = Resources(**given.pop("resources"))
print(prepare(PrepareTask.model_validate(given), LineProgress(sys.stdout), resources=resources).uri)
"""


@pytest.fixture(scope="module")
def stories(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two files with ids and dates; some are equal, alike, empty, in need of mending, or no records."""
    random = np.random.default_rng(5)
    words = [f"word{number}" for number in range(400)]
    rows: list[dict[str, Any]] = []
    for number in range(300):
        text = " ".join(random.choice(words, random.integers(5, 90))) + (" caf\u00c3\u00a9" if number % 7 == 0 else "")
        if number % 10 == 3:
            text = rows[-2]["text"] + (" and" if number % 20 == 3 else "")  # equal, or nearly
        if number % 10 == 6:
            words_before = rows[-5]["text"].split()
            text = " ".join([*words_before, *words_before[: len(words_before) // 8], "alike"])
        rows.append({"id": f"story {number}", "day": f"2008-01-{number % 28 + 1:02d}", "text": text})
    rows[50]["text"] = " "
    folder = tmp_path_factory.mktemp("stories")
    write_jsonl(folder / "a.jsonl", rows[:140])
    write_jsonl(folder / "b.jsonl", rows[140:])
    for name in ("a", "b"):
        with (folder / f"{name}.jsonl").open("a") as file:
            file.write("bad\n")
    return folder


@pytest.fixture(scope="module")
def alone(stories: Path, tokenizer_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The files of the dataset as one process makes it, in one part a file."""
    out = tmp_path_factory.mktemp("alone")
    result = prepare(task(stories, tokenizer_dir, out, **EVERYTHING), resources=Resources(processes=1))
    report = json.loads((out / result.address / "corpus_report.json").read_text())
    assert min(report["duplicates"].values()) > 0
    assert report["held_out_like_trained"] > 0
    assert report["bad_records"] == 2
    return files_of(result.uri)


@pytest.mark.parametrize(("processes", "part_bytes"), [(1, 2_000), (2, 2_000), (3, 64_000), (2, 2**25)])
def test_the_bytes_do_not_depend_on_processes_and_parts(
    stories: Path, alone: dict[str, str], tokenizer_dir: Path, tmp_path: Path, processes: int, part_bytes: int
) -> None:
    spec = task(stories, tokenizer_dir, tmp_path, **EVERYTHING)
    result = prepare(spec, resources=Resources(processes=processes, part_bytes=part_bytes))
    assert files_of(result.uri) == alone
    assert {"train/examples_0_0.h5", "train/examples_1_0.h5", "eval/examples_0_0.h5", "documents.parquet"} <= set(alone)
    assert [path.name for path in tmp_path.iterdir()] == [result.address]
    assert not has_origin(os.getpid())


def test_one_option_more_is_not_the_same_bytes(
    stories: Path, alone: dict[str, str], tokenizer_dir: Path, tmp_path: Path
) -> None:
    """The control: what the comparison above compares does differ when something does."""
    other = {**EVERYTHING, "packing": {**EVERYTHING["packing"], "seed": 1}}
    found = files_of(prepare(task(stories, tokenizer_dir, tmp_path, **other), resources=Resources(processes=1)).uri)
    assert found["train/examples_0_0.h5"] != alone["train/examples_0_0.h5"]
    assert found["documents.parquet"] == alone["documents.parquet"]


def killer(times: int) -> Callable[[int], bool]:
    """For `Recorder.on_question`: kills the process that began last, up to so many different ones."""
    killed: set[int] = set()

    def kill(number: int) -> bool:
        for hand in hands(os.getpid()):
            if len(killed) < times and hand not in killed:
                killed.add(hand)
                os.kill(hand, signal.SIGKILL)
        return False

    return kill


@pytest.mark.parametrize("times", [1, 2])
def test_a_process_that_is_killed_is_replaced(
    stories: Path,
    alone: dict[str, str],
    tokenizer_dir: Path,
    tmp_path: Path,
    make_recorder: Any,
    caplog: pytest.LogCaptureFixture,
    times: int,
) -> None:
    caplog.set_level("WARNING")
    spec = task(stories, tokenizer_dir, tmp_path, **EVERYTHING)
    result = prepare(spec, make_recorder(killer(times)), resources=Resources(processes=2, part_bytes=2_000))
    deaths = [record for record in caplog.records if "ended with status -9" in record.getMessage()]
    assert len(deaths) == times
    assert files_of(result.uri) == alone


def test_a_unit_that_kills_twice_fails_the_run_and_what_is_done_is_kept(
    stories: Path, alone: dict[str, str], tokenizer_dir: Path, tmp_path: Path, make_recorder: Any
) -> None:
    spec = task(stories, tokenizer_dir, tmp_path, **EVERYTHING)
    with pytest.raises(MemoryError, match="was killed 2 times"):
        prepare(spec, make_recorder(killer(99)), resources=Resources(processes=2, part_bytes=2_000))
    assert len(work_folders(tmp_path)) == 1
    assert not has_origin(os.getpid())
    assert files_of(prepare(spec, resources=Resources(processes=1)).uri) == alone


def test_the_process_that_hands_are_forked_from_is_replaced_with_them(
    stories: Path,
    alone: dict[str, str],
    tokenizer_dir: Path,
    tmp_path: Path,
    make_recorder: Any,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("WARNING")
    killed: list[int] = []
    seen: set[int] = set()

    def kill(number: int) -> bool:
        seen.update(origins(os.getpid()))
        if not killed and hands(os.getpid()):
            killed.extend(origins(os.getpid()))
            os.kill(killed[0], signal.SIGKILL)
        return False

    spec = task(stories, tokenizer_dir, tmp_path, **EVERYTHING)
    result = prepare(spec, make_recorder(kill), resources=Resources(processes=2, part_bytes=2_000))
    assert len(killed) == 1
    assert any("ended with status -9" in record.getMessage() for record in caplog.records)
    assert len(seen) == 2, "another one has taken its place"
    assert files_of(result.uri) == alone
    assert not has_origin(os.getpid())


def test_an_error_in_a_process_is_the_error_of_the_run(
    stories: Path, tokenizer_dir: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    strict = {**EVERYTHING, "reading": {**EVERYTHING["reading"], "max_bad_records": 0}}
    with pytest.raises(InvalidDataError, match=r"[ab]\.jsonl, line 1\d1: it is no JSON") as caught:
        prepare(task(stories, tokenizer_dir, tmp_path, **strict), resources=Resources(processes=2, part_bytes=2_000))
    assert (caught.value.reason, caught.value.field) == ("too_many_bad_records", "dataset.uri")
    assert not has_origin(os.getpid())
    assert not caplog.records


def alter_one(encoder: GigatokenEncoder, texts: list[bytes]) -> Encoded:
    """What the fast encoder gives, but for one id of a document that is in every sample."""
    rows = encoder._fast.encode_batch(list(texts)).layout
    ids = rows.content.data.view(np.int32).copy()
    lengths = np.diff(np.asarray(rows.offsets.data, dtype=np.int64))
    if any(b"word7 " in text for text in texts) and len(ids) > 5:
        ids[int(lengths[0]) // 2] += 1
    return Encoded(ids, lengths)


def test_wrong_ids_in_the_middle_make_all_of_it_again_by_tokenizers(
    stories: Path,
    alone: dict[str, str],
    tokenizer_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    recorder: Any,
) -> None:
    monkeypatch.setattr(GigatokenEncoder, "encode", alter_one)
    spec = task(stories, tokenizer_dir, tmp_path, **EVERYTHING)
    result = prepare(spec, recorder, resources=Resources(processes=1, part_bytes=2_000))
    (said,) = [message for level, message in recorder.events if level == "warn" and "differ" in message]
    assert "gigatoken and tokenizers differ on document" in said
    assert said.endswith("the dataset is made again from its start, by tokenizers alone")
    assert ("info", "text is encoded by gigatoken") in recorder.events
    assert files_of(result.uri) == alone
    assert recorder.steps[-1][0] == recorder.steps[-1][1] == 300


def test_the_planted_id_would_be_in_the_dataset_if_nobody_looked(
    stories: Path, alone: dict[str, str], tokenizer_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control of the test above."""
    monkeypatch.setattr(GigatokenEncoder, "encode", alter_one)
    monkeypatch.setattr("regraft_dataprep.encoders.CheckedEncoder._check", lambda *_: None)
    spec = task(stories, tokenizer_dir, tmp_path, **EVERYTHING)
    assert files_of(prepare(spec, resources=Resources(processes=1)).uri) != alone


def test_wrong_ids_in_one_of_several_processes(
    stories: Path, alone: dict[str, str], tokenizer_dir: Path, tmp_path: Path
) -> None:
    """Planted where every Python process looks as it starts."""
    before = "from __future__ import annotations\nimport numpy as np\n"
    before += "from regraft_dataprep.encoders import Encoded, GigatokenEncoder\n"
    spec = task(stories, tokenizer_dir, tmp_path / "out", **EVERYTHING)
    path = plant(tmp_path, before + inspect.getsource(alter_one) + "GigatokenEncoder.encode = alter_one\n")
    done = run([sys.executable, "-c", RUN], spec, path=path, processes=2, part_bytes=2_000)
    assert "made again from its start, by tokenizers alone" in done.communicate(timeout=60)[0]
    assert done.returncode == 0
    assert files_of(str(next((tmp_path / "out").iterdir()))) == alone


def test_where_everything_has_threads_one_process_does_all(
    stories: Path, alone: dict[str, str], tokenizer_dir: Path, tmp_path: Path
) -> None:
    spec = task(stories, tokenizer_dir, tmp_path / "out", **EVERYTHING)
    waiting = "import threading\nthreading.Thread(target=threading.Event().wait, daemon=True).start()\n"
    command = [sys.executable, "-c", RUN]
    done = run(command, spec, path=plant(tmp_path, waiting), stderr=subprocess.STDOUT, processes=2, part_bytes=2_000)
    assert (
        "one process does all the work: the process to fork has more than one thread" in done.communicate(timeout=60)[0]
    )
    assert done.returncode == 0
    assert files_of(str(next((tmp_path / "out").iterdir()))) == alone


def test_two_runs_at_once_share_the_work_and_both_succeed(
    stories: Path, alone: dict[str, str], tokenizer_dir: Path, tmp_path: Path
) -> None:
    spec = task(stories, tokenizer_dir, tmp_path, **EVERYTHING)
    both = [run([sys.executable, "-c", RUN], spec, processes=1, part_bytes=2_000) for _ in range(3)]
    said = [process.communicate(timeout=60)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0, 0], said
    (folder,) = tmp_path.iterdir()
    assert files_of(str(folder)) == alone


def run(
    command: list[str], spec: PrepareTask, *, path: Path | None = None, stderr: int | None = None, **resources: int
) -> subprocess.Popen[str]:
    argument = json.dumps({**spec.model_dump(mode="json"), "resources": resources})
    paths = [str(Path(__file__).parents[2]), *([str(path)] if path else [])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    return subprocess.Popen([*command, argument], stdout=subprocess.PIPE, stderr=stderr, text=True, env=environment)


def test_the_run_that_comes_after_a_kill_in_the_last_moment_cleans_up(
    stories: Path, tokenizer_dir: Path, tmp_path: Path, recorder: Any
) -> None:
    spec = task(stories, tokenizer_dir, tmp_path, **EVERYTHING)
    first = prepare(spec)
    left = tmp_path / f".work-{first.address}" / "train-000000"
    left.mkdir(parents=True)
    assert prepare(spec, recorder).cached
    assert [path.name for path in tmp_path.iterdir()] == [first.address]


def test_a_corpus_that_was_moved_goes_on_from_its_new_place(
    stories: Path, alone: dict[str, str], tokenizer_dir: Path, tmp_path: Path, make_recorder: Any
) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    shutil.copytree(stories, first)
    resources = Resources(processes=1, part_bytes=2_000)
    with pytest.raises(Exception, match="asked to stop"):
        prepare(
            task(first, tokenizer_dir, tmp_path / "out", **EVERYTHING),
            make_recorder(lambda number: number == 20),
            resources=resources,
        )
    first.rename(second)
    progress = make_recorder()
    result = prepare(task(second, tokenizer_dir, tmp_path / "out", **EVERYTHING), progress, resources=resources)
    assert any("parts are there from an earlier run" in message for _, message in progress.events)
    assert files_of(result.uri) == alone


def test_a_unit_is_there_whole_or_not_at_all(tmp_path: Path) -> None:
    work = WorkFolder(tmp_path / "work")
    with pytest.raises(ValueError, match="no"), work.make("unit") as folder:
        (folder / "file").write_text("half")
        raise ValueError("no")
    assert not work.is_done("unit")
    for content in ("first", "second"):  # the first to finish stays
        with work.make("unit") as folder:
            (folder / "file").write_text(content)
    assert (work.folder("unit") / "file").read_text() == "first"
    assert not list(work.path.glob(".tmp-*"))


def test_a_claim_holds_while_its_owner_lives(tmp_path: Path) -> None:
    work = WorkFolder(tmp_path / "work")
    assert work.claim("unit")
    assert not WorkFolder(work.path).claim("unit")
    work.release("unit")
    assert work.claim("unit")
    claim = work.path / ".claims" / "unit"
    old = claim.stat().st_mtime - STALE_SECONDS - 5
    os.utime(claim, (old, old))
    assert work.claim("unit")  # nobody has touched it for too long
    work.beat(["unit", "of nobody"])
    claim.write_text(claim.read_text().rpartition("-")[0] + f"-{dead_process()}")
    assert work.claim("unit")  # its owner is gone


def test_a_claim_whose_owner_was_killed_while_making_it_holds_nobody_up(tmp_path: Path) -> None:
    work = WorkFolder(tmp_path / "work")
    claim = work.path / ".claims" / "unit"
    claim.touch()
    assert not work.claim("unit")  # its owner may be about to write its name
    old = claim.stat().st_mtime - BEAT_SECONDS - 1
    os.utime(claim, (old, old))
    assert not work.is_claimed("unit")
    assert work.claim("unit")


def test_drafts_of_the_dead_are_cleared_and_those_of_the_living_are_not(tmp_path: Path) -> None:
    work = WorkFolder(tmp_path / "work")
    with work.make("mine") as mine:
        host = mine.name.removeprefix(".tmp-mine-").rpartition("-")[0]
        theirs, elsewhere, claimed = (
            work.path / f".tmp-{name}"
            for name in (f"theirs-{host}-{dead_process()}", "new-other-host-1", "old-other-host-1")
        )
        for folder in (theirs, elsewhere, claimed):
            folder.mkdir()
        for folder in (theirs, claimed):
            os.utime(folder, (1, 1))
        (work.path / ".claims" / "old").write_text("other-host-1")
        work.clear()
        assert (mine.exists(), theirs.exists(), elsewhere.exists(), claimed.exists()) == (True, False, True, True)
        (work.path / ".claims" / "old").unlink()
        work.clear()
        assert not claimed.exists()


def dead_process() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_work_that_another_setting_has_begun_goes_on_with_the_new_one(
    stories: Path, alone: dict[str, str], tokenizer_dir: Path, tmp_path: Path, recorder: Any
) -> None:
    """`max_bad_records` is not part of the address, so the work folder is the same."""
    resources = Resources(processes=1, part_bytes=2_000)
    strict = {**EVERYTHING, "reading": {**EVERYTHING["reading"], "max_bad_records": 1}}
    with pytest.raises(
        InvalidDataError, match=r"2 records cannot be read and 1 may be; the last is b\.jsonl, line 161"
    ):
        prepare(task(stories, tokenizer_dir, tmp_path, **strict), resources=resources)
    result = prepare(task(stories, tokenizer_dir, tmp_path, **EVERYTHING), recorder, resources=resources)
    assert files_of(result.uri) == alone
    assert any("parts are there from an earlier run" in message for _, message in recorder.events)


def test_no_log_line_is_written_when_nothing_happens(
    stories: Path, tokenizer_dir: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, logger="regraft_dataprep"):
        prepare(task(stories, tokenizer_dir, tmp_path, **EVERYTHING), resources=Resources(processes=2))
    assert not caplog.records
