"""Checkpoints of a run: whole or not there, and models that load elsewhere."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny_runs import GPTJ, NEOX, Recorder, contents, task, write_dataset, write_model
from transformers import AutoModelForCausalLM

from regraft.errors import InterruptedStageError, InvalidDataError
from regraft.storage import is_published, local_path
from regraft_worker.model import Decoder
from regraft_worker.trainer import checkpoint, loop
from regraft_worker.trainer.folders import step_folder
from regraft_worker.trainer.optimizer import AdamW
from regraft_worker.trainer.optimizers import moments_of
from regraft_worker.trainer.placing import load_moments
from regraft_worker.trainer.weights import describe, load_model


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base model and a dataset."""
    folder = tmp_path_factory.mktemp("inputs")
    write_model(folder / "base", NEOX)
    write_dataset(folder / "dataset")
    return folder


@pytest.fixture(scope="module")
def finished(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with the checkpoints 3, 6, 9 and 12."""
    run = tmp_path_factory.mktemp("finished")
    loop.train(task(inputs, run))
    return run


def _truncated(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1])


def _bit_flipped(name: str) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        content = bytearray((folder / name).read_bytes())
        content[len(content) // 2] ^= 1
        (folder / name).write_bytes(content)

    return damage


def _half_written(folder: Path) -> None:
    (folder / "manifest.json").unlink()


def _unreadable_manifest(folder: Path) -> None:
    (folder / "manifest.json").write_text("{")


def _manifest_of_noise(folder: Path) -> None:
    (folder / "manifest.json").write_bytes(b"\xff\xfe\x00")


def _without_optimizer(folder: Path) -> None:
    (folder / "training_state" / "optimizer.safetensors").unlink()


DAMAGES = {
    "truncated": _truncated,
    "a bit of the weights": _bit_flipped("model.safetensors"),
    "a bit of the moments": _bit_flipped("training_state/optimizer.safetensors"),
    "a bit of the state": _bit_flipped("training_state/state.json"),
    "half-written": _half_written,
    "unreadable manifest": _unreadable_manifest,
    "a manifest of noise": _manifest_of_noise,
    "no optimiser state": _without_optimizer,
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_skipped_with_a_warning(damage: str, finished: Path, tmp_path: Path) -> None:
    run = shutil.copytree(finished, tmp_path / "run")
    DAMAGES[damage](run / "step-00000012")
    progress = Recorder()

    assert checkpoint.latest(run, progress=progress) == run / "step-00000009"
    assert [level for level, _ in progress.events] == ["warn"]
    assert "step-00000012" in progress.events[0][1]


def test_the_newest_whole_one_is_taken_without_a_word(finished: Path) -> None:
    progress = Recorder()

    assert checkpoint.latest(finished, progress=progress) == finished / "step-00000012"
    assert progress.events == []


def test_there_is_none_in_a_folder_without_checkpoints(tmp_path: Path) -> None:
    (tmp_path / ".tmp-step-00000003-1").mkdir()
    (tmp_path / "step-3").mkdir()

    assert checkpoint.latest(tmp_path) is None
    assert checkpoint.latest(tmp_path / "nowhere") is None


def test_training_goes_on_before_the_damage_and_mends_it(inputs: Path, finished: Path, tmp_path: Path) -> None:
    run = shutil.copytree(finished, tmp_path / "run")
    _bit_flipped("model.safetensors")(run / "step-00000012")
    _truncated(run / "step-00000009")
    progress = Recorder()

    loop.train(task(inputs, run), progress)

    assert any("going on from step 6" in text for _, text in progress.events)
    for step in (9, 12):
        folder = step_folder(run, step)
        assert is_published(folder)
        assert contents(folder) == contents(step_folder(finished, step))


def test_everything_is_restored_bit_for_bit(inputs: Path, finished: Path) -> None:
    folder = finished / "step-00000009"
    model = load_model(folder, describe(folder), device="cpu")
    state = checkpoint.read_state(folder)
    optimizer = AdamW(model, state.training.optimizer)
    load_moments(moments_of(model, optimizer), folder)

    saved = load_file(folder / "training_state" / "optimizer.safetensors")
    assert len(saved) == 2 * len(list(model.named_parameters()))
    for name, parameter in model.named_parameters():
        for moment in ("exp_avg", "exp_avg_sq"):
            assert torch.equal(optimizer.state[parameter][moment], saved[f"{moment}/{name}"])
            assert saved[f"{moment}/{name}"].any()
    assert (state.step, state.dataloader.samples_streamed, state.updates()) == (9, 36, 9)
    assert state.training == task(inputs, finished).training


def test_moments_of_another_model_are_refused(finished: Path, tmp_path: Path) -> None:
    base = write_model(tmp_path / "other", GPTJ)
    model = load_model(base, describe(base), device="cpu")
    folder = finished / "step-00000009"
    optimizer = AdamW(model, checkpoint.read_state(folder).training.optimizer)

    with pytest.raises(InvalidDataError, match="optimiser state"):
        load_moments(moments_of(model, optimizer), folder)


@pytest.mark.parametrize("config", [GPTJ, NEOX, {**GPTJ, "tie_word_embeddings": True}], ids=["gptj", "neox", "tied"])
def test_a_checkpoint_is_a_model_that_transformers_loads(config: dict[str, object], tmp_path: Path) -> None:
    write_model(tmp_path / "base", config)
    write_dataset(tmp_path / "dataset")
    result = loop.train(task(tmp_path, tmp_path / "run"))
    folder = local_path(result.uri)
    ids = torch.arange(16)[None]

    reference = AutoModelForCausalLM.from_pretrained(folder).eval()
    model: Decoder = load_model(folder, describe(folder), device="cpu").eval()

    with torch.no_grad():
        torch.testing.assert_close(model.logits(model(ids)), reference(ids).logits, atol=1e-4, rtol=0)
    assert json.loads((tmp_path / "base" / "config.json").read_text())["dtype"] == config.get("dtype", "float32")
    assert reference.dtype == torch.float32
    assert json.loads((folder / "config.json").read_text())["dtype"] == "float32"
    assert (folder / "tokenizer.json").read_bytes() == (tmp_path / "base" / "tokenizer.json").read_bytes()


def test_the_last_ones_and_the_best_one_are_kept(inputs: Path, tmp_path: Path) -> None:
    # Two steps of sense, then a rate that spoils the model: the best checkpoint is an early one.
    schedule = [{"constant": {"value": 3e-3, "steps": 4}}, {"constant": {"value": 5.0}}]
    keep = {"every_steps": 2, "keep_last": 2, "keep_best": "val_loss"}
    progress = Recorder()

    result = loop.train(task(inputs, tmp_path, schedule=schedule, checkpoint=keep, evaluate={}), progress)

    losses = {step: metrics["val_loss"] for step, metrics in progress.steps if "val_loss" in metrics}
    assert list(losses) == [2, 4, 6, 8, 10, 12]
    best = min(losses, key=lambda step: losses[step])
    assert best < 10
    assert sorted(folder.name for folder in tmp_path.iterdir()) == [f"step-{s:08d}" for s in (best, 10, 12)]
    assert result.best_uri is not None
    assert local_path(result.best_uri) == step_folder(tmp_path, best)


def test_a_damaged_later_one_does_not_count_among_those_kept(inputs: Path, finished: Path, tmp_path: Path) -> None:
    run = shutil.copytree(finished, tmp_path / "run")
    _truncated(run / "step-00000012")

    with pytest.raises(InterruptedStageError):
        loop.train(task(inputs, run, checkpoint={"every_steps": 5, "keep_last": 1}), Recorder(stop_after=11))

    assert checkpoint.latest(run) == run / "step-00000011"


def test_without_keep_best_only_the_last_ones_are_kept(inputs: Path, tmp_path: Path) -> None:
    result = loop.train(task(inputs, tmp_path, checkpoint={"every_steps": 2, "keep_last": 3}))

    assert sorted(folder.name for folder in tmp_path.iterdir()) == [f"step-{s:08d}" for s in (8, 10, 12)]
    assert result.best_uri is None


def test_the_state_holds_no_code(finished: Path) -> None:
    files = {path.suffix for path in (finished / "step-00000012").rglob("*") if path.is_file()}

    assert files == {".json", ".jsonl", ".safetensors"}
