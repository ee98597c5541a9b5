"""Runs over several datasets and over folders of other tools: what is read, resumed, and refused before compute."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from tiny_runs import LENGTH, VOCAB, Recorder, contents, task, windows, write_dataset, write_model, write_split

from regraft.errors import InterruptedStageError, InvalidInputError, RegraftError
from regraft.hdf5 import Dataset
from regraft.storage import publish, read_manifest
from regraft_worker.trainer import checkpoint, loop
from regraft_worker.trainer.mixture import Mixture, Part, RowRanges


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base model, the job's own dataset, one that was prepared, and a folder of files as other tools write it."""
    folder = tmp_path_factory.mktemp("inputs")
    write_model(folder / "base")
    write_dataset(folder / "dataset")
    with publish(folder / "prepared", kind="dataset") as draft:
        write_split(draft.folder / "train", windows(8, seed=3))
        draft.summary = {"max_token_id": VOCAB - 1}
    write_foreign(folder / "foreign", windows(13, seed=4))
    return folder


def write_foreign(folder: Path, data: np.ndarray, *, name: str = "output_chunk_0_0.h5") -> Path:
    folder.mkdir()
    with h5py.File(folder / name, "w") as file:
        file.create_dataset("data", data=data)
    return folder


def mixed(folder: Path, **options: Any) -> dict[str, Any]:
    parts = [
        {"uri": str(folder / "prepared"), "weight": 0.25, "data_subset": "0.5-1.0"},
        {"uri": (folder / "foreign").as_uri(), "weight": 0.25},
    ]
    return {"mixture": parts, "dataset_weight": 0.5, "data_subset": "0.0-0.6", **options}


@pytest.fixture(scope="module")
def undisturbed(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Recorder]:
    run, progress = tmp_path_factory.mktemp("undisturbed"), Recorder()
    loop.train(task(inputs, run, **mixed(inputs)), progress)
    return run, progress


def test_a_run_reads_the_windows_of_its_mixture(inputs: Path, undisturbed: tuple[Path, Recorder]) -> None:
    _, progress = undisturbed
    sources = [windows(21, seed=1), windows(8, seed=3), windows(13, seed=4)]
    folders, subsets = ["dataset/train", "prepared/train", "foreign"], ["0.0-0.6", "0.5-1.0", None]
    parts = []
    for folder, subset, weight in zip(folders, subsets, (0.5, 0.25, 0.25), strict=True):
        dataset = Dataset(inputs / folder)
        parts.append(Part(field="", dataset=dataset, ranges=RowRanges(len(dataset), subset), weight=weight))
    places = zip(*Mixture(parts, seed=1, shuffle=True).locate(np.arange(48)), strict=True)

    assert progress.totals[-1][1] == sum(int(sources[part][row, 1].sum()) for part, row in places)
    assert progress.steps[-1][1]["epoch"] == 24 / 12
    assert [text for _, text in progress.events if "datasets" in text] == [
        "windows are read from 3 datasets: dataset: 12 windows, share 0.5, 2 epochs; "
        "training.mixture[0].uri: 4 windows, share 0.25, 3 epochs; "
        "training.mixture[1].uri: 13 windows, share 0.25, 0.9231 epochs"
    ]


def test_a_checkpoint_says_where_the_reader_stands(inputs: Path, undisturbed: tuple[Path, Recorder]) -> None:
    folder = undisturbed[0] / "step-00000009"
    state = json.loads((folder / "training_state" / "state.json").read_text())
    manifest, prepared = read_manifest(folder), read_manifest(inputs / "prepared")

    assert state["dataloader"] == {"samples_streamed": 36, "seed": 1}
    assert manifest is not None
    assert prepared is not None
    assert manifest.parents == {"mixture.0": prepared.address}


def test_a_stopped_run_goes_on_with_the_same_windows(
    inputs: Path, undisturbed: tuple[Path, Recorder], tmp_path: Path
) -> None:
    moved = shutil.copytree(inputs, tmp_path / "moved")
    with pytest.raises(InterruptedStageError):
        loop.train(task(inputs, tmp_path / "run", **mixed(inputs)), Recorder(stop_after=5))

    resumed = Recorder()
    loop.train(task(moved, tmp_path / "run", **mixed(moved)), resumed)

    assert resumed.steps == undisturbed[1].steps
    assert contents(tmp_path / "run" / "step-00000012") == contents(undisturbed[0] / "step-00000012")


def _first_part(folder: Path, **changed: Any) -> dict[str, Any]:
    first, *others = mixed(folder)["mixture"]
    return {"mixture": [{**first, **changed}, *others]}


@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("training.data_subset", lambda folder: {"data_subset": None}),
        ("training.data_subset", lambda folder: {"data_subset": "0.0-0.5"}),
        ("training.dataset_weight", lambda folder: {"dataset_weight": 0.4}),
        ("training.seed", lambda folder: {"seed": 77}),
        ("training.mixture", lambda folder: {"mixture": []}),
        ("training.mixture", lambda folder: {"mixture": mixed(folder)["mixture"][:1]}),
        ("training.mixture", lambda folder: _first_part(folder, weight=0.3)),
        ("training.mixture", lambda folder: _first_part(folder, data_subset=None)),
        ("training.mixture[0].uri", lambda folder: _first_part(folder, uri=str(folder / "foreign"))),
    ],
)
def test_another_mixture_is_another_run(
    field: str, change: Callable[[Path], dict[str, Any]], inputs: Path, undisturbed: tuple[Path, Recorder]
) -> None:
    with pytest.raises(InvalidInputError, match="was started with") as caught:
        loop.train(task(inputs, undisturbed[0], **{**mixed(inputs), **change(inputs)}))

    assert caught.value.field == field


def test_another_seed_is_refused_by_naming_both(inputs: Path, undisturbed: tuple[Path, Recorder]) -> None:
    with pytest.raises(InvalidInputError, match=r"training.seed: .* started with 1 \(got 77\)"):
        loop.train(task(inputs, undisturbed[0], **mixed(inputs, seed=77)))


@pytest.mark.parametrize(("which", "field"), [("foreign", "training.mixture[1].uri"), ("dataset", "dataset.files")])
def test_other_files_in_the_same_place_are_another_run(
    which: str, field: str, inputs: Path, undisturbed: tuple[Path, Recorder], tmp_path: Path
) -> None:
    moved = shutil.copytree(inputs, tmp_path / "moved")
    if which == "foreign":
        (moved / "foreign" / "output_chunk_0_0.h5").rename(moved / "foreign" / "output_chunk_0_1.h5")
    else:
        (moved / "dataset" / "train" / "examples_0_0.h5").rename(moved / "dataset" / "train" / "data-00000.h5")

    with pytest.raises(InvalidInputError) as caught:
        loop.train(task(moved, undisturbed[0], **mixed(moved)))

    assert caught.value.field == field


def test_without_max_steps_the_own_dataset_is_read_once(inputs: Path, tmp_path: Path) -> None:
    options = mixed(inputs, max_steps=None, evaluate={})
    assert loop.train(task(inputs, tmp_path, **options)).step == 6  # half of 4 * 6 windows are the subset's 12


def test_a_checkpoint_of_version_1_is_gone_on_from(inputs: Path, tmp_path: Path) -> None:
    loop.train(task(inputs, tmp_path / "run"))
    saved = checkpoint.step_folder(tmp_path / "run", 9)
    state = json.loads((saved / "training_state" / "state.json").read_text())
    state |= {"format_version": 1, "windows_read": state.pop("dataloader")["samples_streamed"]}
    for name in ("dataset_files", "mixture"):
        del state[name]
    for name in ("mixture", "dataset_weight", "data_subset", "max_sequence_length"):
        del state["training"][name]
    with publish(tmp_path / "old" / saved.name, kind="checkpoint") as draft:
        shutil.copytree(saved, draft.folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("manifest.json"))
        (draft.folder / "training_state" / "state.json").write_text(json.dumps(state))
    progress = Recorder()

    loop.train(task(inputs, tmp_path / "old"), progress)

    assert ("info", "going on from step 9") in progress.events
    assert contents(tmp_path / "old" / "step-00000012") == contents(tmp_path / "run" / "step-00000012")
    with pytest.raises(InvalidInputError, match="started with"):
        loop.train(task(inputs, tmp_path / "old", data_subset="0.0-0.5"))


def five_rows(count: int) -> np.ndarray:
    return np.concatenate([windows(count), np.zeros((count, 2, LENGTH), dtype=np.int32)], axis=1)


def _declaring_too_much(folder: Path) -> None:
    with publish(folder, kind="dataset") as draft:
        write_split(draft.folder / "train", windows(8))
        draft.summary = {"max_token_id": VOCAB}


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda folder: write_foreign(folder, windows(8, length=LENGTH + 1)), "max_sequence_length .*: 17, not 16"),
        (lambda folder: write_foreign(folder, five_rows(8)), "differ in features .* 'attention_span'"),
        (lambda folder: write_foreign(folder, windows(0)), "no windows"),
        (_declaring_too_much, "beyond the model's vocabulary of 61"),
        (lambda folder: folder.mkdir(), "no windows"),
        (lambda folder: None, "no windows"),
    ],
)
def test_a_dataset_that_does_not_fit_is_refused_before_compute(
    make: Callable[[Path], object], said: str, inputs: Path, tmp_path: Path
) -> None:
    make(tmp_path / "odd")
    parts = [*mixed(inputs)["mixture"], {"uri": str(tmp_path / "odd"), "weight": 1}]
    progress = Recorder()

    with pytest.raises(RegraftError, match=said) as caught:
        loop.train(task(inputs, tmp_path / "run", mixture=parts), progress)

    assert caught.value.field == "training.mixture[2].uri"
    assert not progress.steps


@pytest.mark.parametrize(
    ("field", "options"),
    [
        ("training.data_subset", {"data_subset": "0.0-0.04"}),
        ("training.mixture[0].data_subset", {"mixture": [{"uri": "prepared", "weight": 1, "data_subset": "0.9-0.99"}]}),
        ("training.mixture[0].uri", {"mixture": [{"uri": "s3://bucket/x", "weight": 1}]}),
        ("training.max_sequence_length", {"max_sequence_length": LENGTH + 1}),
    ],
)
def test_options_that_leave_nothing_to_read_are_refused(
    field: str, options: dict[str, Any], inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(inputs)  # for the relative path

    with pytest.raises(InvalidInputError) as caught:
        loop.train(task(inputs, tmp_path / "run", **options))

    assert caught.value.field == field


def test_document_boundaries_reach_the_model(tmp_path: Path) -> None:
    write_model(tmp_path / "base")
    data = five_rows(9)
    data[:, 3], data[:, 4] = 0, 0  # every token a document of its own
    write_foreign(tmp_path / "dataset", data)
    loop.train(task(tmp_path, tmp_path / "apart", evaluate={}))
    write_model(tmp_path / "three" / "base")
    write_foreign(tmp_path / "three" / "dataset", data[:, :3])
    loop.train(task(tmp_path / "three", tmp_path / "together", evaluate={}))

    apart, together = (contents(tmp_path / run / "step-00000012") for run in ("apart", "together"))
    assert apart.keys() == together.keys()
    assert apart["model.safetensors"] != together["model.safetensors"]


def test_a_flat_folder_of_another_tool_is_a_train_split_without_held_out_windows(inputs: Path, tmp_path: Path) -> None:
    write_model(tmp_path / "base")
    write_foreign(tmp_path / "dataset", windows(21, seed=1), name="data-00000.h5")
    asked = task(tmp_path, tmp_path / "run", evaluate={})
    loop.train(asked)
    loop.train(task(inputs, tmp_path / "prepared", evaluate={}))

    assert contents(tmp_path / "run" / "step-00000012") == contents(tmp_path / "prepared" / "step-00000012")
    with pytest.raises(InvalidInputError, match="no held-out windows"):
        loop.train(task(tmp_path, tmp_path / "other"))


def test_streams_of_tokens_are_cut_into_windows_for_training(tmp_path: Path) -> None:
    write_model(tmp_path / "base")
    block = windows(21, seed=1)
    tokens = np.append(block[:, 0].ravel(), 7).astype(np.uint16)
    write_foreign(tmp_path / "dataset", tokens)
    cut = np.stack([tokens[:-1].reshape(21, LENGTH), np.ones((21, LENGTH)), tokens[1:].reshape(21, LENGTH)], axis=1)
    write_dataset(tmp_path / "whole" / "dataset", train=0, held_out=0)
    write_split(tmp_path / "whole" / "dataset" / "train", cut.astype(np.int32))
    shutil.copytree(tmp_path / "base", tmp_path / "whole" / "base")
    mixture = [{"uri": str(tmp_path / "dataset"), "weight": 1}]  # cut as the job's own dataset is

    runs = {
        "stream": task(tmp_path, tmp_path / "stream", max_sequence_length=LENGTH, mixture=mixture, evaluate={}),
        "windows": task(tmp_path / "whole", tmp_path / "windows", mixture=mixture, evaluate={}),
    }
    for asked in runs.values():
        loop.train(asked)

    assert contents(tmp_path / "stream" / "step-00000012") == contents(tmp_path / "windows" / "step-00000012")
