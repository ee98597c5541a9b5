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
from regraft_dataprep import output, pipeline
from regraft_dataprep.pipeline import content_address, prepare
from regraft_dataprep.sources.trc2 import Trc2Source
from regraft_dataprep.tokenize import load_tokenizer

LENGTH = 32


def task(corpus: Path, tokenizer: Path, out: Path, *, vocab_size: int | None = 512, **dataset: Any) -> PrepareTask:
    """Without cleaning steps, unless they are asked for: most tests follow every document."""
    fixed = {"uri": str(corpus), "max_sequence_length": LENGTH, "validation": {"fraction": 0.1}, "cleaning": ()}
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


def test_the_windows_are_the_documents_of_each_side_in_order(
    corpus: Path, tokenizer_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "_BATCH_DOCUMENTS", 17)
    result = prepare(task(corpus, tokenizer_dir, tmp_path, examples_per_file=100))
    folder = local_path(result.uri)
    texts = [document.text for document in Trc2Source(corpus).documents() if document.text]
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
    assert manifest.parents == {"corpus": Trc2Source(corpus).scan().sha256, "tokenizer": manifest.parents["tokenizer"]}
    assert [(kind, uri) for kind, uri, _ in recorder.artifacts] == [("dataset", result.uri)]


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


def test_the_same_inputs_give_the_same_bytes_wherever_they_lie(
    corpus: Path, tokenizer_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path / "other name"
    copy.write_bytes(corpus.read_bytes())
    first = prepare(task(corpus, tokenizer_dir, tmp_path / "a"))
    second = prepare(task(copy, tokenizer_dir / "tokenizer.json", tmp_path / "b"))
    manifests = [read_manifest(local_path(result.uri)) for result in (first, second)]
    assert manifests[0] and manifests[1]
    assert manifests[0].files == manifests[1].files
    assert first.address == second.address


def test_a_prepared_dataset_is_found_again_without_work(
    corpus: Path, tokenizer_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recorder: Any
) -> None:
    first = prepare(task(corpus, tokenizer_dir, tmp_path))
    monkeypatch.setattr(Trc2Source, "documents", lambda self: pytest.fail("the corpus was read again"))
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


def test_the_address_follows_what_changes_the_bytes_and_nothing_else() -> None:
    def address(*, sha: str = "s", tokenizer: str = "t", **changes: Any) -> str:
        spec = DatasetSpec.model_validate({"uri": "u", **changes})
        return content_address(spec, source_sha256=sha, tokenizer_digest=tokenizer)

    same = {address(), address(uri="elsewhere"), address(tokenizer="t"), address(max_sequence_length=512)}
    different = {
        address(sha="other"),
        address(tokenizer="other"),
        address(source="other"),
        address(max_sequence_length=511),
        address(examples_per_file=49_999),
        address(validation={"fraction": 0.2}),
    }
    assert len(same) == 1
    assert len(same | different) == 7
    assert all(len(name) == 32 for name in same | different)


@pytest.mark.parametrize("stop_at", [1, 2, 3, 5])
def test_a_stop_leaves_nothing_behind(
    corpus: Path,
    tokenizer_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    make_recorder: Any,
    stop_at: int,
) -> None:
    monkeypatch.setattr(pipeline, "_BATCH_DOCUMENTS", 17)
    progress = make_recorder(lambda number: number == stop_at)
    with pytest.raises(InterruptedStageError):
        prepare(task(corpus, tokenizer_dir, tmp_path), progress)
    assert progress.questions == stop_at
    assert list(tmp_path.iterdir()) == []


def test_progress_goes_up_to_the_number_of_documents(
    corpus: Path, tokenizer_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recorder: Any
) -> None:
    monkeypatch.setattr(pipeline, "_BATCH_DOCUMENTS", 17)
    monkeypatch.setattr(pipeline, "_SECONDS_BETWEEN_REPORTS", 0.0)
    result = prepare(task(corpus, tokenizer_dir, tmp_path), recorder)
    done = [step for step, _, _ in recorder.steps]
    assert done == sorted(set(done))
    assert len(done) == -(-result.documents // 17)
    assert recorder.steps[-1] == (result.documents, result.documents, result.train_tokens + result.eval_tokens + 2)


def test_progress_is_not_reported_more_often_than_twice_a_second(
    corpus: Path, tokenizer_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recorder: Any
) -> None:
    monkeypatch.setattr(pipeline, "_BATCH_DOCUMENTS", 1)
    monkeypatch.setattr(pipeline.time, "monotonic", lambda: 0.0)
    prepare(task(corpus, tokenizer_dir, tmp_path), recorder)
    assert len(recorder.steps) == 1


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
    assert not (tmp_path / "out").exists()


def test_files_that_do_not_verify_are_not_published(
    corpus: Path, tokenizer_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(output, "validate_shard", lambda path, **_: 1)
    with pytest.raises(InvalidDataError, match="hold 1 labels") as caught:
        prepare(task(corpus, tokenizer_dir, tmp_path))
    assert caught.value.reason == "verification_failed"
    assert list(tmp_path.iterdir()) == []


def test_a_corpus_that_changes_meanwhile_is_not_published(
    corpus: Path, tokenizer_dir: Path, tmp_path: Path, make_recorder: Any
) -> None:
    growing = tmp_path / "growing"
    growing.write_bytes(corpus.read_bytes())

    def grow(number: int) -> bool:
        if number == 3:  # the first question after the scan
            growing.write_bytes(corpus.read_bytes() * 2)
        return False

    with pytest.raises(InvalidDataError, match="changed"):
        prepare(task(growing, tokenizer_dir, tmp_path / "out"), make_recorder(grow))
    assert list((tmp_path / "out").iterdir()) == []


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
    monkeypatch.setattr(pipeline, "_BATCH_CHARACTERS", 100)
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
    texts = [ftfy.fix_text(document.text) for document in Trc2Source(corpus).documents() if document.text]
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


def test_cleaning_is_part_of_the_address(corpus: Path, tokenizer_dir: Path, tmp_path: Path) -> None:
    addresses = {
        prepare(task(corpus, tokenizer_dir, tmp_path, cleaning=steps)).address
        for steps in ((), CORRECTED, CORRECTED[:2], ({"length": {"min_characters": 5}},))
    }
    assert len(addresses) == 4


def test_cleaning_that_leaves_nothing_says_so(corpus: Path, tokenizer_dir: Path, tmp_path: Path) -> None:
    everything = ({"length": {"min_characters": 10**6}},)
    with pytest.raises(InvalidDataError, match="left no document for the train split") as caught:
        prepare(task(corpus, tokenizer_dir, tmp_path, cleaning=everything))
    assert caught.value.field == "dataset.cleaning"
    assert list(tmp_path.iterdir()) == []


def test_documents_that_are_dropped_at_the_end_still_count_as_done(
    corpus: Path, tokenizer_dir: Path, tmp_path: Path, recorder: Any
) -> None:
    prepare(task(corpus, tokenizer_dir, tmp_path, cleaning=CORRECTED), recorder)
    done, total, _ = recorder.steps[-1]
    assert done == total
