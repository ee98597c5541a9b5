"""Params files of every era from a job, compared key by key with files that really ran."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from regraft.errors import InvalidDataError, InvalidInputError
from regraft.specs import JobSpec
from regraft_worker.conversion.cs_config import read_section
from regraft_worker.conversion.formats import FORMATS
from regraft_worker.conversion.params_file import ParamsFile, params_file

ASSETS = Path(__file__).parents[2] / "assets" / "modelzoo"
CS_1_8 = ASSETS / "release-1.8.0" / "config_to_cs-1.8.yaml"
CS_2_9 = ASSETS / "cs_ckpt" / "gptj_v512_cs-2.9.yaml"
# The run of both goldens, in a job's words.
TRAINING: dict[str, Any] = {
    "batch_size": 4,
    "max_steps": 20,
    "seed": 1,
    "shuffle": False,
    "schedule": [
        {"linear": {"from": 0.0, "to": 1.0e-3, "steps": 5}},
        {"cosine": {"from": 1.0e-3, "to": 2.0e-4, "steps": 15}},
        {"constant": {"value": 2.0e-4}},
    ],
    "log_every_steps": 1,
}


def job(*, length: int = 48, packing: dict[str, Any] | None = None, **training: Any) -> JobSpec:
    return JobSpec.model_validate(
        {
            "dataset": {"uri": "corpus", "max_sequence_length": length, "packing": packing or {}},
            "base_checkpoint": {"uri": "base"},
            "target": {"kind": "cpu"},
            "training": {**TRAINING, **training},
        }
    )


def made(spec: JobSpec, release: str, config: Path = CS_1_8, **options: str) -> ParamsFile:
    return params_file(spec, read_section(config), target=FORMATS[release], data_dir="data", **options)


def read(found: ParamsFile) -> dict[str, Any]:
    return dict(yaml.safe_load(found.text()))


def differences(ours: dict[str, Any], golden: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    keys = ours.keys() | golden.keys()
    return {key: (ours.get(key), golden.get(key)) for key in keys if ours.get(key) != golden.get(key)}


def test_the_flat_file_is_the_one_that_release_1_8_ran() -> None:
    ours = read(made(job(checkpoint={"every_steps": 10}), "cs-1.8"))
    golden = yaml.safe_load((ASSETS / "release-1.8.0" / "params_flat.yaml").read_text())
    assert list(ours) == list(golden)
    assert differences(ours["model"], golden["model"]) == {}
    assert differences(ours["optimizer"], golden["optimizer"]) == {}
    assert differences(ours["runconfig"], golden["runconfig"]) == {"keep_checkpoint_max": (3, None)}
    # The golden read one folder with one process; the recipe's readers are wider.
    readers = {"data_dir", "num_workers", "persistent_workers"}
    for split in ("train_input", "eval_input"):
        assert differences(ours[split], golden[split]).keys() == readers
        assert ours[split].keys() == golden[split].keys()


def test_the_trainer_form_is_the_one_that_release_2_10_ran() -> None:
    ours = read(made(job(checkpoint={"every_steps": 20}), "cs-2.9", CS_2_9))["trainer"]
    golden = yaml.safe_load((ASSETS / "train" / "base_tb.yaml").read_text())["trainer"]
    assert differences(ours["init"]["model"], golden["init"]["model"]) == {"use_untied_layer_norm": (False, None)}
    of_the_run = {"backend", "model_dir", "loggers"}
    assert differences(ours["init"], golden["init"]).keys() == {"model", "callbacks"} | of_the_run
    theirs = golden["fit"]["train_dataloader"]
    assert theirs.items() <= (ours["fit"]["train_dataloader"] | {"data_dir": "train/", "num_workers": 0}).items()


@pytest.mark.parametrize(
    ("change", "section", "key"),
    [
        ({"batch_size": 5}, "train_input", "batch_size"),
        ({"precision": "bf16"}, "model", "mixed_precision"),
        ({"optimizer": {"eps": 1e-8}}, "optimizer", "eps"),
        ({"optimizer": {"max_gradient_norm": None}}, "optimizer", "max_gradient_norm"),
        ({"optimizer": {"betas": [0.9, 0.95]}}, "optimizer", "betas"),
        ({"schedule": [{"constant": {"value": 1e-3}}]}, "optimizer", "learning_rate"),
        ({"seed": 2}, "runconfig", "seed"),
        ({"evaluate": {"every_steps": 10}}, "runconfig", "eval_frequency"),
        ({"evaluate": {"max_windows": 9}}, "runconfig", "eval_steps"),
        ({"dropout": {"residual": 0.25}}, "model", "residual_dropout_rate"),
    ],
)
def test_what_the_job_says_otherwise_shows(change: dict[str, Any], section: str, key: str) -> None:
    spec = {"checkpoint": {"every_steps": 10}}
    before, after = read(made(job(**spec), "cs-1.8")), read(made(job(**spec, **change), "cs-1.8"))
    assert differences(before[section], after[section]).keys() - {"shuffle_seed"} == {key}


def test_the_loss_is_the_jobs_whatever_the_section_says() -> None:
    section = {**read_section(CS_1_8), "loss_scaling": "batch_size", "loss_weight": 0.5}
    spec = job(loss={"scaling": "batch_size", "weight": 0.25})
    for wanted, expected in ((job(), ("num_tokens", None)), (spec, ("batch_size", 0.25))):
        model = params_file(wanted, section, target=FORMATS["cs-1.8"], data_dir="data").content["model"]
        assert isinstance(model, dict)
        assert (model["loss_scaling"], model.get("loss_weight")) == expected


def test_words_change_from_era_to_era() -> None:
    spec = job(precision="bf16")
    old, middle, late = (read(made(spec, name)) for name in ("cs-1.9", "cs-2.2", "cs-2.9"))
    assert "max_sequence_length" not in old["train_input"]
    assert old["optimizer"]["weight_decay_rate"] == middle["optimizer"]["weight_decay"] == 0.1
    assert [part.get("steps") for part in old["optimizer"]["learning_rate"]] == [5, 15, None]
    assert [part.get("total_iters") for part in middle["optimizer"]["learning_rate"]] == [5, 15, None]
    assert "fp16_type" not in old["model"]
    assert (middle["model"]["fp16_type"], middle["runconfig"]["max_checkpoints"]) == ("bfloat16", 3)
    assert late["trainer"]["init"]["precision"] == {
        "enabled": True,
        "fp16_type": "bfloat16",
        "loss_scaling_factor": "dynamic",
        "max_gradient_norm": 1.0,
    }
    assert late["trainer"]["init"]["model"]["name"] == "gptj"
    assert {"mixed_precision", "fp16_type"}.isdisjoint(late["trainer"]["init"]["model"])


def test_the_converted_checkpoint_is_started_from() -> None:
    old, middle, late = (read(made(job(), name, checkpoint="a.mdl")) for name in ("cs-1.8", "cs-2.2", "cs-2.9"))
    assert (old["runconfig"]["checkpoint_path"], old["runconfig"]["is_pretrained_checkpoint"]) == ("a.mdl", True)
    assert middle["runconfig"]["load_checkpoint_states"] == "model"
    assert late["trainer"]["fit"]["ckpt_path"] == "a.mdl"


def test_the_validation_loader_is_written_once() -> None:
    text = made(job(), "cs-2.9").text()
    assert (text.count("data/eval"), text.count("&id001"), text.count("*id001")) == (1, 1, 2)


def test_the_published_recipe_has_the_published_figures() -> None:
    spec = JobSpec.model_validate(
        {
            "recipe": "gptj-6b-trc2",
            "dataset": {"uri": "corpus"},
            "base_checkpoint": {"uri": "base"},
            "target": {"kind": "cpu"},
        }
    )
    section = {**read_section(CS_1_8), "max_position_embeddings": 2048}
    flat = params_file(spec, section, target=FORMATS["cs-2.2"], data_dir="data")
    content = read(flat)
    assert content["train_input"]["batch_size"] == 56
    assert content["runconfig"] | {"max_checkpoints": 3, "eval_frequency": 500} == content["runconfig"]
    assert [content["runconfig"][key] for key in ("max_steps", "log_steps", "checkpoint_steps", "seed")] == [
        25000,
        50,
        1000,
        1,
    ]
    assert [part.get("total_iters") for part in content["optimizer"]["learning_rate"]] == [500, 50000, None]
    assert flat.notes == ["not in the file: training.checkpoint.keep_best (Cerebras keeps the newest checkpoints only)"]


def test_a_default_schedule_is_written_out() -> None:
    parts = read(made(job(schedule=None, learning_rate=1e-3, max_steps=200), "cs-1.8"))["optimizer"]["learning_rate"]
    assert [(part["scheduler"], part["steps"]) for part in parts] == [("Linear", 2), ("CosineDecay", 198)]


@pytest.mark.parametrize(
    ("spec", "name"),
    [
        (job(max_steps=None), "training.max_steps"),
        (job(length=129), "dataset.max_sequence_length"),
        (job(mixture=[{"uri": "other", "weight": 1.0}]), "training.mixture"),
        (job(data_subset="0.0-0.5"), "training.data_subset"),
        (
            job(evaluate={"every_steps": 10}, early_stopping={}, checkpoint={"every_steps": 10}),
            "training.early_stopping",
        ),
        (job(loss_spike={"policy": "skip"}), "training.loss_spike.policy"),
        (job(packing={"document_boundaries": True}), "dataset.packing.document_boundaries"),
        (job(evaluate={"every_steps": 7}, checkpoint={"every_steps": 10}), "training.evaluate.every_steps"),
    ],
)
def test_what_a_release_cannot_be_told_is_refused(spec: JobSpec, name: str) -> None:
    for release in ("cs-1.8", "cs-2.9"):
        with pytest.raises(InvalidInputError) as caught:
            made(spec, release)
        assert (caught.value.field, caught.value.reason) == (name, "not_expressible_in_cs")


def test_keys_not_known_of_a_release_are_left_out_and_named() -> None:
    found = made(job(), "cs-1.9")
    assert read(found)["runconfig"].keys() == {"max_steps", "log_steps", "checkpoint_steps", "seed"}
    assert any("keep_last" in note for note in found.notes)


def test_a_section_of_another_model_is_refused() -> None:
    with pytest.raises(InvalidDataError, match="use_ffn_bias"):
        params_file(job(), {**read_section(CS_1_8), "use_ffn_bias": False}, target=FORMATS["cs-1.8"], data_dir="d")
