"""Data preparation as a whole."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import ftfy
import numpy as np
import pytest

from regraft import hdf5
from regraft.errors import InterruptedStageError, InvalidDataError, InvalidInputError
from regraft.hdf5 import Dataset, list_shards, validate_shard
from regraft.specs.dataset import DatasetSpec
from regraft.specs.stages import PrepareTask
from regraft.storage import is_published, local_path, read_manifest
from regraft_dataprep import piece_writer, shards
from regraft_dataprep import progress as progress_module
from regraft_dataprep.document import Document
from regraft_dataprep.pipeline import prepare
from regraft_dataprep.resources import Resources
from regraft_dataprep.sources.trc2 import Trc2Source
from regraft_dataprep.tokenize import load_tokenizer
from regraft_dataprep.units import Units

LENGTH = 32


def task(corpus: Path, tokenizer: Path, out: Path, *, vocab_size: int | None = 512, **dataset: Any) -> PrepareTask:
    """Without cleaning steps and moved documents, unless they are asked for: most tests follow every document."""
    split = {"fraction": 0.1, "near_duplicates": None}
    fixed = {"uri": str(corpus), "max_sequence_length": LENGTH, "validation": split, "cleaning": ()}
    spec = {**fixed, **dataset}
    return PrepareTask(
        dataset=DatasetSpec.model_validate(spec),
        tokenizer_uri=str(tokenizer),
        vocab_size=vocab_size,
        output_uri=str(out),
    )


def stream(folder: Path) -> list[int]:
    """The tokens that a split's windows were cut from."""
    with Dataset(folder) as dataset:
        rows = dataset.rows(range(len(dataset)))
    counted = rows[:, hdf5.MASK].astype(bool)
    return [int(rows[0, hdf5.INPUT_IDS, 0]), *rows[:, hdf5.LABELS][counted].tolist()]


def texts_of(corpus: Path) -> list[str]:
    """Those of the stories that have one."""
    source = Trc2Source(corpus)
    records = [record for part in source.parts() for record in source.read(part)]
    return [record.text for record in records if isinstance(record, Document) and record.text]


def files_of(uri: str) -> dict[str, str]:
    """Digests of a dataset's files, as published."""
    folder = local_path(uri)
    assert is_published(folder)
    manifest = read_manifest(folder)
    assert manifest is not None
    return {entry.path: entry.sha256 for entry in manifest.files}


def work_folders(out: Path) -> list[Path]:
    """What unfinished runs have left; nothing else is there, no draft of a dataset and no dataset."""
    found = list(out.iterdir())
    assert all(path.name.startswith(".work-") for path in found)
    return found


def test_the_windows_are_the_documents_of_each_side_in_order(
    corpus: Path, tokenizer_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(piece_writer, "BATCH_DOCUMENTS", 17)
    result = prepare(task(corpus, tokenizer_dir, tmp_path, examples_per_file=100))
    folder = local_path(result.uri)
    texts = texts_of(corpus)
    held_out = round(0.1 * len(texts))  # the sample is in chronological order
    encoder = load_tokenizer(str(tokenizer_dir))
    for name, part in (("train", texts[:-held_out]), ("eval", texts[-held_out:])):
        expected = [token for ids in encoder.encode(part) for token in (*ids, encoder.eos_id)]
        assert stream(folder / name) == expected
    assert result.documents == len(texts)
    assert result.train_tokens == len(stream(folder / "train")) - 1
    assert result.eval_tokens == len(stream(folder / "eval")) - 1


def test_the_result_the_manifest_and_the_files_agree(
    corpus: Path, tokenizer_dir: Path, tmp_path: Path, recorder: Any
) -> None:
    result = prepare(task(corpus, tokenizer_dir, tmp_path, examples_per_file=100), recorder)
    folder = local_path(result.uri)
    assert is_published(folder)
    assert (folder.parent, folder.name, result.cached) == (tmp_path, result.address, False)
    for name, examples in (("train", result.train_examples), ("eval", result.eval_examples)):
        shards = list_shards(folder / name)
        assert all(validate_shard(shard, max_sequence_length=LENGTH, vocab_size=512) for shard in shards)
        assert sum(hdf5.read_shard_info(shard).examples for shard in shards) == examples
        assert sorted(path.name for path in (folder / name).iterdir())[0] == "data_params.json"
    assert len(list_shards(folder / "train")) > 1
    manifest = read_manifest(folder)
    assert manifest is not None
    assert manifest.parents == {
        "corpus": Trc2Source(corpus).inventory().sha256,
        "tokenizer": manifest.parents["tokenizer"],
    }
    assert [(kind, uri) for kind, uri, _ in recorder.artifacts] == [("dataset", result.uri)]
    assert [path.name for path in tmp_path.iterdir()] == [result.address]


def test_the_side_files_hold_the_numbers_of_the_data(corpus: Path, tokenizer_dir: Path, tmp_path: Path) -> None:
    result = prepare(task(corpus, tokenizer_dir, tmp_path))
    folder = local_path(result.uri)
    params = json.loads((folder / "train" / "data_params.json").read_text())
    post, stats = params["post-process"], params["h5_dataset_stats"]
    assert {"setup", "processing", "dataset"} <= set(params)
    assert (post["n_examples"], post["eos_id"], post["pad_id"], post["vocab_size"]) == (
        result.train_examples,
        0,
        0,
        512,
    )
    assert stats["num_sequences"] * LENGTH == stats["num_tokens"]
    assert stats["loss_valid_tokens"] == stats["non_pad_tokens"] == result.train_tokens
    report = json.loads((folder / "corpus_report.json").read_text())
    sides = report["splits"]
    assert report["documents_in"] == 200
    assert report["documents_out"] == 200 - report["documents_dropped_empty"] == result.documents
    assert report["documents_dropped_empty"] > 0
    assert sides["train"]["documents"] + sides["eval"]["documents"] == result.documents
    assert sides["train"]["characters"] == post["raw_chars_count"]
    assert sides["train"]["first"] < sides["train"]["last"] < sides["eval"]["first"] < sides["eval"]["last"]


def test_the_report_says_how_often_the_job_reads_the_windows(corpus: Path, tokenizer_dir: Path, tmp_path: Path) -> None:
    plain = task(corpus, tokenizer_dir, tmp_path / "plain")
    found = []
    for name, planned in (("plain", None), ("job", 1000)):
        spec = plain.model_copy(update={"output_uri": str(tmp_path / name), "planned_windows": planned})
        result = prepare(spec)
        report = json.loads((local_path(result.uri) / "corpus_report.json").read_text())
        assert report["epochs"] == result.epochs
        found.append((result.address, result.epochs))
    assert found == [(result.address, None), (result.address, round(1000 / result.train_examples, 4))]


def test_the_same_inputs_give_the_same_bytes_wherever_they_lie(
    corpus: Path, tokenizer_dir: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "other name"
    copy.write_bytes(corpus.read_bytes())
    first = prepare(task(corpus, tokenizer_dir, tmp_path / "a"))
    second = prepare(task(copy, tokenizer_dir / "tokenizer.json", tmp_path / "b"))
    assert files_of(first.uri) == files_of(second.uri)
    assert first.address == second.address


def test_a_prepared_dataset_is_found_again_without_work(
    corpus: Path, tokenizer_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recorder: Any
) -> None:
    first = prepare(task(corpus, tokenizer_dir, tmp_path))
    monkeypatch.setattr(Units, "run", lambda *_: pytest.fail("something was done again"))
    again = prepare(task(corpus, tokenizer_dir, tmp_path), recorder)
    assert again == first.model_copy(update={"cached": True})
    assert ("info", "this dataset exists already") in recorder.events
    assert [uri for _, uri, _ in recorder.artifacts] == [first.uri]


def test_a_damaged_dataset_is_made_again(corpus: Path, tokenizer_dir: Path, tmp_path: Path) -> None:
    first = prepare(task(corpus, tokenizer_dir, tmp_path))
    shard = list_shards(local_path(first.uri) / "train")[0]
    content = shard.read_bytes()
    shard.write_bytes(content[:-1])
    assert prepare(task(corpus, tokenizer_dir, tmp_path)) == first
    assert shard.read_bytes() == content


@pytest.mark.parametrize("stop_at", [1, 2, 5, 9])
def test_a_stop_keeps_what_is_done(
    corpus: Path,
    tokenizer_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    make_recorder: Any,
    stop_at: int,
) -> None:
    monkeypatch.setattr(piece_writer, "BATCH_DOCUMENTS", 17)
    resources = Resources(processes=1, part_bytes=20_000)
    progress = make_recorder(lambda number: number == stop_at)
    with pytest.raises(InterruptedStageError):
        prepare(task(corpus, tokenizer_dir, tmp_path), progress, resources=resources)
    assert progress.questions == stop_at
    (work,) = work_folders(tmp_path)
    done = len(list(work.glob("gigatoken-*")))
    resumed = make_recorder()
    result = prepare(task(corpus, tokenizer_dir, tmp_path), resumed, resources=resources)
    assert any(f"{done} of 7 parts are there" in message for _, message in resumed.events) == (done > 0)
    assert (done > 0) == (stop_at > 2)
    assert files_of(result.uri) == files_of(prepare(task(corpus, tokenizer_dir, tmp_path / "whole")).uri)
    assert [path.name for path in tmp_path.iterdir() if path.name != "whole"] == [result.address]


def test_progress_goes_up_to_the_number_of_documents(
    corpus: Path, tokenizer_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recorder: Any
) -> None:
    monkeypatch.setattr(piece_writer, "BATCH_DOCUMENTS", 17)
    monkeypatch.setattr(progress_module, "_SECONDS_BETWEEN_REPORTS", 0.0)
    result = prepare(task(corpus, tokenizer_dir, tmp_path), recorder, resources=Resources(1, part_bytes=20_000))
    done = [step for step, _, _ in recorder.steps]
    assert done == sorted(done)
    assert len(set(done)) > 10
    assert done[-1] == 200 > result.documents  # those without text are done as well
    assert recorder.steps[0][1] is None  # nobody knows yet
    estimates = [total for _, total, _ in recorder.steps if total is not None]
    assert estimates[-1] == 200
    assert all(150 < total < 250 for total in estimates)
    assert recorder.steps[-1] == (200, 200, result.train_tokens + result.eval_tokens + 2)


def test_progress_is_not_reported_more_often_than_twice_a_second(
    corpus: Path, tokenizer_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recorder: Any
) -> None:
    monkeypatch.setattr(piece_writer, "BATCH_DOCUMENTS", 1)
    monkeypatch.setattr(progress_module.time, "monotonic", lambda: 0.0)
    prepare(task(corpus, tokenizer_dir, tmp_path), recorder)
    assert len(recorder.steps) == 2  # the documents are known, and all is done


def test_a_requirement_fails_the_run_before_files_are_written_and_its_work_is_used_when_it_is_lifted(
    corpus: Path, tokenizer_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recorder: Any
) -> None:
    resources = Resources(processes=1, part_bytes=20_000)
    strict = task(corpus, tokenizer_dir, tmp_path, require={"min_train_tokens": 10**9})
    with pytest.raises(InvalidDataError, match="was found") as caught:
        prepare(strict, resources=resources)
    assert (caught.value.reason, caught.value.field) == ("requirement_not_met", "dataset.require.min_train_tokens")
    (work,) = work_folders(tmp_path)
    assert len(list(work.glob("gigatoken-*"))) == 7
    assert not list(work.rglob("*.h5"))
    monkeypatch.setattr(Units, "_make_piece", lambda *_: pytest.fail("a part was tokenised again"))
    result = prepare(task(corpus, tokenizer_dir, tmp_path), recorder, resources=resources)
    assert result.address == work.name.removeprefix(".work-")
    assert ("info", "7 of 7 parts are there from an earlier run") in recorder.events
    with pytest.raises(InvalidDataError, match="was found") as caught:
        prepare(strict)  # what is published is judged too, by its report
    assert caught.value.reason == "requirement_not_met"
    assert prepare(task(corpus, tokenizer_dir, tmp_path, require={"min_train_tokens": 1})).cached


def test_files_named_to_be_held_out_are_held_out_and_all_others_trained_on(
    corpus: Path, tokenizer_dir: Path, tmp_path: Path
) -> None:
    stories = corpus.read_bytes().split(b"</DOC>\n")
    held_out = tmp_path / "held out"
    held_out.write_bytes(b"".join(story + b"</DOC>\n" for story in stories[:20]))
    validation = {"uri": str(held_out), "near_duplicates": None}
    result = prepare(task(corpus, tokenizer_dir, tmp_path / "out", validation=validation))
    encoder = load_tokenizer(str(tokenizer_dir))
    for name, path in (("train", corpus), ("eval", held_out)):
        expected = [token for ids in encoder.encode(texts_of(path)) for token in (*ids, encoder.eos_id)]
        assert stream(local_path(result.uri) / name) == expected
    report = json.loads((local_path(result.uri) / "corpus_report.json").read_text())
    assert (
        report["overlap"]["share"] == 1.0
    )  # every held-out story is trained on as well, and this is where one sees it
    with pytest.raises(InvalidDataError, match="left for the eval split: 20 that were to be held out are near"):
        prepare(task(corpus, tokenizer_dir, tmp_path / "out", validation={"uri": str(held_out)}))


def test_a_split_without_a_window_is_refused(corpus: Path, tokenizer_dir: Path, tmp_path: Path) -> None:
    long = task(corpus, tokenizer_dir, tmp_path, max_sequence_length=30_000, packing={"remainder": "drop"})
    with pytest.raises(InvalidDataError, match="eval split") as caught:
        prepare(long)
    assert caught.value.reason == "empty_split"
    work_folders(tmp_path)


def test_an_unsuitable_tokenizer_is_refused_before_the_corpus_is_looked_at(tokenizer_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match=r"512 tokens .* 300 rows"):
        prepare(task(tmp_path / "no corpus here", tokenizer_dir, tmp_path / "out", vocab_size=300))


def test_an_unknown_source_is_refused(corpus: Path, tokenizer_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match=r"Available: .*trc2"):
        prepare(task(corpus, tokenizer_dir, tmp_path, source="nope"))


def test_a_single_document_with_text_is_too_little(tokenizer_dir: Path, tmp_path: Path, corpus: Path) -> None:
    stories = corpus.read_bytes().split(b"</DOC>\n")
    one = tmp_path / "one"
    one.write_bytes(stories[0] + b"</DOC>\n")
    with pytest.raises(InvalidDataError, match="two documents"):
        prepare(task(one, tokenizer_dir, tmp_path / "out"))
    assert len(work_folders(tmp_path / "out")) == 1


def test_files_that_do_not_verify_are_not_published(
    corpus: Path, tokenizer_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards, "validate_shard", lambda path, **_: 1)
    with pytest.raises(InvalidDataError, match="holds 1 labels") as caught:
        prepare(task(corpus, tokenizer_dir, tmp_path))
    assert caught.value.reason == "verification_failed"
    (work,) = work_folders(tmp_path)
    assert not list(work.rglob("*.h5"))


def test_a_corpus_that_changes_meanwhile_is_not_published(
    corpus: Path, tokenizer_dir: Path, tmp_path: Path, make_recorder: Any
) -> None:
    growing = tmp_path / "growing"
    growing.write_bytes(corpus.read_bytes())

    def grow(number: int) -> bool:
        if number == 3:
            growing.write_bytes(corpus.read_bytes() * 2)
        return False

    resources = Resources(processes=1, part_bytes=20_000)
    with pytest.raises(InvalidDataError, match="changed"):
        prepare(task(growing, tokenizer_dir, tmp_path / "out"), make_recorder(grow), resources=resources)
    work_folders(tmp_path / "out")


def test_lines_outside_of_stories_are_reported(
    corpus: Path, tokenizer_dir: Path, tmp_path: Path, recorder: Any
) -> None:
    path = tmp_path / "stray"
    path.write_bytes(b"a stray line\n" + corpus.read_bytes())
    prepare(task(path, tokenizer_dir, tmp_path / "out"), recorder)
    assert ("warn", "1 lines outside of any document are ignored") in recorder.events


def test_a_document_longer_than_a_batch_is_kept_whole(
    tokenizer_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, corpus: Path
) -> None:
    monkeypatch.setattr(piece_writer, "BATCH_CHARACTERS", 100)
    result = prepare(task(corpus, tokenizer_dir, tmp_path))
    monkeypatch.undo()
    whole = prepare(task(corpus, tokenizer_dir, tmp_path / "whole"))
    for name in ("train", "eval"):
        np.testing.assert_array_equal(
            stream(local_path(result.uri) / name), stream(local_path(whole.uri) / name), strict=True
        )


CORRECTED = ("fix_text", "drop_empty", "drop_duplicates")


def test_the_default_is_every_story_once_with_its_text_mended(
    corpus: Path, tokenizer_dir: Path, tmp_path: Path
) -> None:
    assert DatasetSpec(uri=str(corpus)).cleaning == CORRECTED
    result = prepare(task(corpus, tokenizer_dir, tmp_path, cleaning=CORRECTED))
    folder = local_path(result.uri)
    texts = [ftfy.fix_text(text) for text in texts_of(corpus)]
    assert result.documents == len(set(texts)) < len(texts)
    encoder = load_tokenizer(str(tokenizer_dir))
    expected = [token for ids in encoder.encode(list(dict.fromkeys(texts))) for token in (*ids, encoder.eos_id)]
    assert stream(folder / "train") + stream(folder / "eval") == expected
    report = json.loads((folder / "corpus_report.json").read_text())
    assert [(count["step"], count["documents_out"]) for count in report["cleaning"]] == [
        ("fix_text", len(texts)),
        ("drop_empty", len(texts)),
        ("drop_duplicates", result.documents),
    ]
    page = (folder / "corpus_report.html").read_text()
    assert f"{report['splits']['train']['tokens']:,}" in page
    assert report["splits"]["train"]["tokens_per_word"] > 1


def test_cleaning_that_leaves_nothing_says_so(corpus: Path, tokenizer_dir: Path, tmp_path: Path) -> None:
    everything = ({"length": {"min_characters": 10**6}},)
    with pytest.raises(InvalidDataError, match="two documents after cleaning") as caught:
        prepare(task(corpus, tokenizer_dir, tmp_path, cleaning=everything))
    assert caught.value.field == "dataset.uri"
    work_folders(tmp_path)
