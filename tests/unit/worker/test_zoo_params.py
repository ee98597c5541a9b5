"""Params files of every form and generation: what they come to, and what is refused, by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from regraft.errors import RegraftError
from regraft.specs import TrainingSpec
from regraft_worker.trainer.schedule import schedule_of
from regraft_worker.zoo.params import Params, read_params
from zoo_runs import FLAT, TRAINER, changed, here


@pytest.fixture(autouse=True)
def _data(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    here(tmp_path)


def read(path: Path, *, mode: str = "train", device: str = "cpu", **given: Any) -> Params:
    return read_params(path, mode=mode, device=device, given=given)  # type: ignore[arg-type]


def training(path: Path) -> TrainingSpec:
    return TrainingSpec.model_validate({**read(path).training, "max_steps": 20})


def trainer(folder: Path, change: Any) -> Path:
    content = yaml.safe_load(TRAINER.read_text())
    change(content["trainer"])
    (folder / "trainer.yaml").write_text(yaml.safe_dump(content))
    return folder / "trainer.yaml"


def refusal(path: Path, **options: Any) -> RegraftError:
    with pytest.raises(RegraftError) as caught:
        read(path, **options)
    return caught.value


def test_both_forms_and_both_generations_of_names_come_to_the_same(tmp_path: Path) -> None:
    newer = yaml.safe_load(FLAT.read_text())
    newer["optimizer"] |= {"optimizer_type": "AdamW", "weight_decay": 0.1, "beta1": 0.9, "beta2": 0.999}
    del newer["optimizer"]["weight_decay_rate"]
    for part in newer["optimizer"]["learning_rate"]:
        if "steps" in part:
            part["total_iters"] = part.pop("steps")
    (tmp_path / "newer.yaml").write_text(yaml.safe_dump(newer))

    old, new, form = training(FLAT), training(tmp_path / "newer.yaml"), training(TRAINER)

    assert old == new == form
    assert [read(path).era for path in (FLAT, tmp_path / "newer.yaml", TRAINER)] == ["1.8", "2.0", "2.10"]
    assert old.optimizer.weight_decay == 0.1
    assert schedule_of(old, max_steps=20).rate(5) == 1e-3
    assert read(FLAT).model.config == read(TRAINER).model.config


def test_a_rate_may_be_a_number_or_one_schedule_and_numbers_may_be_text(tmp_path: Path) -> None:
    rate = training(changed(tmp_path, optimizer={"learning_rate": "6e-6"}))
    assert schedule_of(rate, max_steps=20).rate(3) == 6e-6
    line = {"scheduler": "Linear", "initial_learning_rate": 1e-3, "end_learning_rate": 0.0, "steps": 10}
    one = training(changed(tmp_path, optimizer={"learning_rate": line}))
    assert schedule_of(one, max_steps=20).rate(5) == 5e-4


def test_what_the_model_zoo_defaults_to_is_used(tmp_path: Path) -> None:
    bare = {"weight_decay_rate": None, "max_gradient_norm": None, "eps": None, "correct_bias": None}
    found = training(changed(tmp_path, optimizer=bare)).optimizer
    assert (found.weight_decay, found.max_gradient_norm, found.eps, found.correct_bias) == (0.0, None, 1e-6, True)


def test_gradients_are_clipped_by_norm_or_by_value(tmp_path: Path) -> None:
    by_value = training(changed(tmp_path, optimizer={"max_gradient_norm": None, "max_gradient_value": 0.5})).optimizer
    assert (by_value.max_gradient_norm, by_value.max_gradient_value) == (None, 0.5)
    off = training(changed(tmp_path, optimizer={"max_gradient_norm": 0, "max_gradient_value": None})).optimizer
    assert (off.max_gradient_norm, off.max_gradient_value) == (None, None)


LINE = {"initial_learning_rate": 1e-3, "end_learning_rate": 1e-4}
ROOT = {"initial_learning_rate": 0.01, "scale": 0.5, "warmup_steps": 4}
PIECES = {"learning_rates": [3e-3, 2e-3, 1e-3], "milestones": [2, 5]}


@pytest.mark.parametrize(
    ("name", "options", "length", "rates"),
    [
        ("Constant", {"learning_rate": 2e-4}, None, {0: 2e-4, 9: 2e-4}),
        ("Linear", LINE, 10, {0: 1e-3, 5: 5.5e-4, 10: 1e-4, 12: 1e-4}),
        ("CosineDecay", LINE, 10, {0: 1e-3, 5: 5.5e-4, 10: 1e-4, 12: 1e-4}),
        ("Polynomial", {**LINE, "power": 2.0}, 10, {0: 1e-3, 5: 3.25e-4, 12: 1e-4}),
        ("Exponential", {"initial_learning_rate": 1e-3, "decay_rate": 0.25}, 4, {0: 1e-3, 2: 5e-4, 4: 2.5e-4}),
        (
            "Exponential",
            {"initial_learning_rate": 1e-3, "decay_rate": 0.25, "staircase": True},
            4,
            {2: 1e-3, 4: 2.5e-4, 7: 2.5e-4},
        ),
        ("InverseSquareRootDecay", ROOT, None, {0: 2.5e-3, 4: 2.5e-3, 16: 1.25e-3}),
        ("PiecewiseConstant", PIECES, None, {1: 3e-3, 2: 2e-3, 4: 2e-3, 5: 1e-3, 9: 1e-3}),
    ],
)
def test_every_kind_of_schedule_is_read_by_both_of_its_names(
    tmp_path: Path, name: str, options: dict[str, Any], length: int | None, rates: dict[int, float]
) -> None:
    old = {"scheduler": name, **options, **({"steps": length} if length else {})}
    new = {**options, **({"total_iters": length} if length else {})}

    def change(found: dict[str, Any]) -> None:
        found["init"]["schedulers"] = [{f"{name}LR": new}]

    flat = training(changed(tmp_path, optimizer={"learning_rate": [old]}))
    assert flat.schedule == training(trainer(tmp_path, change)).schedule
    schedule = schedule_of(flat, max_steps=20)
    assert {step: schedule.rate(step) for step in rates} == pytest.approx(rates)


def test_gradients_accumulate_into_one_step(tmp_path: Path) -> None:
    assert training(changed(tmp_path, optimizer={"grad_accum_steps": 3})).batch_size == 12


def test_an_old_file_has_the_precision_and_the_loss_of_its_release(tmp_path: Path) -> None:
    model = {"mixed_precision": True, "loss_weight": 0.5}
    old = read(changed(tmp_path, model=model), device="gpu")
    assert old.training["precision"] == "fp16"
    assert old.training["loss"] == {"scaling": "batch_size", "weight": 0.5}
    new = read(changed(tmp_path, model=model, optimizer={"weight_decay_rate": None, "weight_decay": 0.1}), device="gpu")
    assert new.training["precision"] == "bf16"
    assert "loss" not in new.training
    assert all(any("loss_weight" in note for note in found.notes) for found in (old, new))


def test_keys_without_effect_are_named_and_flags_win_over_the_file(tmp_path: Path) -> None:
    path = changed(tmp_path, runconfig={"num_csx": 2, "mount_dirs": ["/data"]})
    path = changed(tmp_path, source=path, train_input={"micro_batch_size": 2})  # of a Cerebras system
    found = read(path, max_steps=7)
    assert "train_input.micro_batch_size" in found.notes[0]
    assert "runconfig.num_csx" in found.notes[0]
    assert "runconfig.mount_dirs" in found.notes[0]
    assert found.control.max_steps == 7


@pytest.mark.parametrize(
    ("sections", "field", "near"),
    [
        ({"runconfig": {"max_step": 3}}, "runconfig.max_step", "max_steps"),
        ({"model": {"hiden_size": 3}}, "model.hiden_size", "hidden_size"),
        ({"train_input": {"shufle": True}}, "train_input.shufle", "shuffle"),
        ({"optimizer": {"weigth_decay": 0.1}}, "optimizer.weigth_decay", "weight_decay"),
        ({"train_input": {"data_processor": "GptHDF5DataProcesor"}}, "GptHDF5DataProcesor", "GptHDF5DataProcessor"),
        ({"trainin_input": {"a": 1}}, "trainin_input", "train_input"),
        ({"optimizer": {"learning_rate": {"scheduler": "Cosine"}}}, "Cosine", "CosineDecay"),
        ({"runconfig": {"load_checkpoint_states": "model,optimiser"}}, "optimiser", "optimizer"),
    ],
)
def test_an_unknown_name_is_refused_with_the_nearest(
    tmp_path: Path, sections: dict[str, Any], field: str, near: str
) -> None:
    found = refusal(changed(tmp_path, **sections))
    assert field in str(found)
    assert f"Did you mean {near}?" in found.remedy


@pytest.mark.parametrize(
    "change",
    [
        lambda t: t["init"]["loop"].update(max_step=3),
        lambda t: t["init"].update(callbacks=[{"KeepCheckpoints": {"n": 2}}]),
        lambda t: t["init"]["model"].update(hiden_size=3),
        lambda t: t["fit"].update(train_dataloaders={}),
        lambda t: t["init"]["checkpoint"].update(step=3),
        lambda t: t["init"].update(schedulers=[{"LinearLR": {}}, {"ConstantLR": {}}]),
    ],
)
def test_the_trainer_form_is_as_strict(tmp_path: Path, change: Any) -> None:
    assert refusal(trainer(tmp_path, change)).field


@pytest.mark.parametrize("mode", ["train", "eval", "train_and_eval", "eval_all"])
@pytest.mark.parametrize("section", ["train_input", "eval_input", "optimizer"])
def test_sections_that_the_mode_does_not_read_are_as_strict(tmp_path: Path, section: str, mode: str) -> None:
    known = {"optimizer": {"disable_lr_steps_reset": None}}.get(section, {"num_samples": None})
    read(changed(tmp_path, **{section: known}), mode=mode)
    found = refusal(changed(tmp_path, **{section: {"batch_sice": 3}}), mode=mode)
    assert (found.field, found.reason) == (f"{section}.batch_sice", "unknown_key")


@pytest.mark.parametrize("mode", ["train", "eval"])
@pytest.mark.parametrize(
    ("block", "key", "several"),
    [("fit", "train_dataloader", False), ("fit", "val_dataloader", True), ("validate_all", "val_dataloaders", True)],
)
def test_inputs_of_blocks_that_the_mode_does_not_read_are_as_strict(
    tmp_path: Path, block: str, key: str, several: bool, mode: str
) -> None:
    def change(found: dict[str, Any]) -> None:
        reader = {**found["fit"]["train_dataloader"], "shufle": True}
        found["validate"] = {"val_dataloader": found["fit"]["train_dataloader"]}
        found.setdefault(block, {})[key] = [reader] if several else reader

    assert refusal(trainer(tmp_path, change), mode=mode).field == f"trainer.{block}.{key}.shufle"


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (
            lambda init: init["backend"].update(cluster_config={"num_csx": 2, "num_cs": 2}),
            "backend.cluster_config.num_cs",
        ),
        (lambda init: init.update(callbacks=[{"CheckLoss": {"every": 2}}]), "callbacks.CheckLoss.every"),
        (lambda init: init.update(callbacks=[{"DumpActivations": {"out": "x"}}]), "callbacks.DumpActivations.out"),
        (lambda init: init.update(loggers=[{"TensorBoardLogger": {"dir": "x"}}]), "loggers.TensorBoardLogger.dir"),
    ],
)
def test_options_of_what_has_no_effect_are_as_strict(tmp_path: Path, change: Any, field: str) -> None:
    assert refusal(trainer(tmp_path, lambda found: change(found["init"]))).field == f"trainer.init.{field}"


def test_options_of_what_has_no_effect_are_known(tmp_path: Path) -> None:
    def change(found: dict[str, Any]) -> None:
        found["init"]["backend"]["cluster_config"] = {"num_csx": 2, "mount_dirs": ["/data"], "job_labels": ["a=b"]}
        found["init"]["callbacks"] = [
            {"DumpActivations": {"outdir": "x", "buffer_steps": 2}},
            {"ScopedTrainFlags": {"csx.performance.micro_batch_size": "auto"}},
        ]
        found["init"]["loggers"] = [{"TensorBoardLogger": {"summary_dir": "x"}}, {"ProgressLogger": {}}]

    assert "trainer.init.callbacks.ScopedTrainFlags" in read(trainer(tmp_path, change)).notes[0]


@pytest.mark.parametrize("summary_dir", [{}, {"summary_dir": "x"}])
def test_of_the_logger_whose_files_are_written_only_the_old_layout_has_no_effect(
    tmp_path: Path, summary_dir: dict[str, str]
) -> None:
    def notes(**options: object) -> str:
        def change(found: dict[str, Any]) -> None:
            board = {"TensorBoardLogger": {**summary_dir, **options}}
            found["init"]["loggers"] = [board, {"WandbLogger": {"project": "x"}}]

        return read(trainer(tmp_path, change)).notes[0]

    assert "loggers.WandbLogger" in notes(legacy_event_dirs=False)
    assert "TensorBoardLogger" not in notes(legacy_event_dirs=False)
    assert "trainer.init.loggers.TensorBoardLogger.legacy_event_dirs" in notes(legacy_event_dirs=True)


def test_callbacks_and_precision_of_the_trainer_form_count(tmp_path: Path) -> None:
    def change(found: dict[str, Any]) -> None:
        found["init"]["callbacks"] = [{"KeepNCheckpoints": {"n": 2}}, {"LoadCheckpointStates": {}}, {"CheckLoss": {}}]
        found["init"]["precision"] = {"enabled": True, "fp16_type": "cbfloat16", "max_gradient_norm": 0.5}
        found["init"]["loop"]["grad_accum_steps"] = 2

    found = read(trainer(tmp_path, change))
    assert found.control.keep == 2
    assert found.training["precision"] == "bf16"
    assert found.training["batch_size"] == 8
    assert TrainingSpec.model_validate(found.training).optimizer.max_gradient_norm == 0.5


@pytest.mark.parametrize(
    ("sections", "field"),
    [
        ({"runconfig": {"validate_only": True}}, "runconfig.validate_only"),
        ({"runconfig": {"max_steps": None}}, "max_steps"),
        ({"runconfig": {"max_steps": "many"}}, "runconfig.max_steps"),
        ({"runconfig": {"num_steps": 2, "num_epochs": 1}}, "num_steps"),
        ({"runconfig": {"is_pretrained_checkpoint": True}}, "is_pretrained_checkpoint"),
        ({"runconfig": {"load_checkpoint_states": "model,optimizer"}}, "load_checkpoint_states"),
        ({"runconfig": {"load_checkpoint_states": "optimizer"}}, "load_checkpoint_states"),
        ({"train_input": {"data_dir": "nowhere"}}, "train_input.data_dir"),
        ({"train_input": {"batch_size": 0}}, "train_input.batch_size"),
        ({"train_input": {"num_samples": 5}}, "train_input.num_samples"),
        ({"train_input": {"mixture": []}}, "train_input.data_dir"),
        ({"optimizer": {"optimizer_type": "sgd"}}, "optimizer.optimizer_type"),
        ({"optimizer": {"max_gradient_value": 1.0, "max_gradient_norm": 1.0}}, "optimizer.max_gradient_value"),
        ({"optimizer": {"weight_decay": 0.1}}, "optimizer.weight_decay"),
        ({"optimizer": {"eps": "small"}}, "optimizer.eps"),
        ({"optimizer": {"learning_rate": None}}, "optimizer.learning_rate"),
        ({"model": {"position_embedding_type": "learned"}}, "model.position_embedding_type"),
        ({"model": {"attention_softmax_fp32": False}}, "model.attention_softmax_fp32"),
        ({"model": {"hidden_size": None}}, "model.hidden_size"),
    ],
)
def test_what_cannot_be_is_refused_with_its_field(tmp_path: Path, sections: dict[str, Any], field: str) -> None:
    assert refusal(changed(tmp_path, **sections)).field == field


def test_saving_and_scoring_must_go_together(tmp_path: Path) -> None:
    path = changed(tmp_path, runconfig={"eval_frequency": 4, "checkpoint_steps": 6})
    assert refusal(path, mode="train_and_eval").field == "runconfig.eval_frequency"


@pytest.mark.parametrize("text", ["[1, 2]", "a: [", "trainer: 3", "trainer: {init: {}}\nmodel: {}", "model: 3"])
def test_a_file_of_another_kind_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "odd.yaml").write_text(text)
    assert refusal(tmp_path / "odd.yaml")
    assert refusal(tmp_path / "absent.yaml").field == "--params"
