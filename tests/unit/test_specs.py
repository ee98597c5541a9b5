"""The job specification: defaults, refusals, recipes."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from regraft import recipes
from regraft.formats import FORMAT_NAMES, release_of
from regraft.jobs import StageName
from regraft.plan import task_for
from regraft.specs import (
    ConstantSchedule,
    ConvertTask,
    CosineSchedule,
    JobSpec,
    LinearSchedule,
    OutputSpec,
    PrepareTask,
)
from regraft.specs.dataset import DatasetSpec, RequirementsSpec, ValidationSpec

SMALLEST: dict[str, Any] = {
    "dataset": {"uri": "/data/corpus"},
    "base_checkpoint": {"uri": "/models/base"},
    "target": {"kind": "cpu"},
}


def faults(job: dict[str, Any]) -> dict[str, str]:
    with pytest.raises(ValidationError) as caught:
        JobSpec.model_validate(job)
    return {".".join(map(str, error["loc"])): error["msg"] for error in caught.value.errors()}


def with_training(**training: Any) -> dict[str, Any]:
    return {**SMALLEST, "training": training}


def test_three_things_are_enough() -> None:
    job = JobSpec.model_validate(SMALLEST)
    assert job.training.batch_size == 8
    assert job.output.formats == ("hf",)


@pytest.mark.parametrize("missing", sorted(SMALLEST))
def test_each_of_the_three_is_required(missing: str) -> None:
    assert missing in faults({key: value for key, value in SMALLEST.items() if key != missing})


def test_unknown_fields_are_refused_at_every_depth() -> None:
    assert "trainign" in faults({**SMALLEST, "trainign": {}})
    assert "training.optimizer.lr" in faults(with_training(optimizer={"lr": 1}))


@pytest.mark.parametrize(
    ("training", "field"),
    [
        ({"max_steps": -5}, "training.max_steps"),
        ({"max_steps": 0}, "training.max_steps"),
        ({"batch_size": 0}, "training.batch_size"),
        ({"learning_rate": float("nan")}, "training.learning_rate"),
        ({"learning_rate": float("inf")}, "training.learning_rate"),
        ({"precision": "fp8"}, "training.precision"),
        ({"optimizer": {"betas": [0.9, 1.0]}}, "training.optimizer.betas.1"),
        ({"checkpoint": {"keep_last": 0}}, "training.checkpoint.keep_last"),
        ({"schedule": []}, "training.schedule"),
        ({"schedule": [{"linear": {"from": 0, "to": 1}}]}, "training.schedule.0.linear.linear.steps"),
        ({"schedule": [{"linear": {}, "cosine": {}}]}, "training.schedule.0"),
        ({"schedule": [{"constant": {"value": 1}}, {"constant": {"value": 2}}]}, "training.schedule"),
    ],
)
def test_impossible_training_is_refused_by_field(training: dict[str, Any], field: str) -> None:
    assert field in faults(with_training(**training))


@pytest.mark.parametrize("length", [-1, 0, 1])
def test_a_window_needs_two_tokens(length: int) -> None:
    dataset = {"uri": "/data/corpus", "max_sequence_length": length}
    assert "dataset.max_sequence_length" in faults({**SMALLEST, "dataset": dataset})


def test_a_format_twice_or_none_is_refused() -> None:
    assert "output.formats" in faults({**SMALLEST, "output": {"formats": ["hf", "hf"]}})
    assert "output.formats" in faults({**SMALLEST, "output": {"formats": []}})


def test_every_format_can_be_asked_for_with_a_size_of_its_files() -> None:
    output = JobSpec.model_validate({**SMALLEST, "output": {"formats": list(FORMAT_NAMES)}}).output
    assert (output.formats, output.max_shard_bytes) == (FORMAT_NAMES, 5_000_000_000)
    assert [release_of(name) for name in ("hf", "cs-1.7", "cs-2.9")] == [None, (1, 7), (2, 9)]
    assert OutputSpec(max_shard_size="200MB").max_shard_bytes == 200_000_000
    for size in ("", "5", "0GB", "5 GB", "5gb", "5TB"):
        assert "output.max_shard_size" in faults({**SMALLEST, "output": {"max_shard_size": size}})
    assert "output" in faults({**SMALLEST, "output": {"formats": ["cs-1.8"], "headless": True}})
    assert JobSpec.model_validate({**SMALLEST, "output": {"headless": True}}).output.headless
    assert "output.formats.0" in faults({**SMALLEST, "output": {"formats": ["cs-2.10"]}})


@pytest.mark.parametrize(
    ("base", "folder"),
    [
        ("/m/gptj", "/m/gptj"),
        ("file:///m/gptj/model.safetensors", "file:///m/gptj"),
        ("/m/a.b/pytorch_model.bin.index.json", "/m/a.b"),
        ("/m/cs/checkpoint_10.mdl", "/m/cs"),
        ("model.safetensors", "model.safetensors"),
    ],
)
def test_the_tokenizer_of_a_checkpoint_is_beside_its_weights(base: str, folder: str) -> None:
    job = JobSpec.model_validate({**SMALLEST, "base_checkpoint": {"uri": base}})
    task = task_for(StageName.PREPARE, job_id="j", spec=job, results={}, storage="/s")
    assert isinstance(task, PrepareTask)
    assert (task.tokenizer_uri, task.checkpoint_uri) == (folder, base)
    task = task_for(StageName.CONVERT, job_id="j", spec=job, results={}, storage="/s")
    assert isinstance(task, ConvertTask)
    assert task.checkpoint_uri == base


def test_a_schedule_keeps_its_parts_through_json() -> None:
    parts = [
        {"linear": {"from": 0.0, "to": 1e-3, "steps": 5}},
        {"cosine": {"from": 1e-3, "to": 1e-4, "steps": 50}},
        {"constant": {"value": 1e-4}},
    ]
    job = JobSpec.model_validate(with_training(schedule=parts))
    again = JobSpec.model_validate_json(job.model_dump_json(by_alias=True))
    assert again == job
    assert again.training.schedule is not None
    assert [type(part) for part in again.training.schedule] == [LinearSchedule, CosineSchedule, ConstantSchedule]


def test_a_spec_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        JobSpec.model_validate(SMALLEST).name = "other"


@pytest.mark.parametrize("name", recipes.names())
def test_every_recipe_makes_a_valid_job(name: str) -> None:
    job = JobSpec.model_validate({**SMALLEST, "recipe": name})
    assert job.training != JobSpec.model_validate(SMALLEST).training
    assert JobSpec.model_validate_json(job.model_dump_json(by_alias=True)) == job


def test_what_the_job_says_wins_over_its_recipe() -> None:
    job = JobSpec.model_validate({**SMALLEST, "recipe": "gptj-6b-trc2", "training": {"max_steps": 7}})
    assert job.training.max_steps == 7
    assert job.training.batch_size == 56


@pytest.mark.parametrize("name", ["gptj-6b-trc2", "tiny-cpu"])
def test_no_recipe_for_trc2_stands_in_the_way_of_the_reference_mode(name: str) -> None:
    """What a recipe gives wins over a preset's options, so none may give one of these."""
    job = {**SMALLEST, "dataset": {**SMALLEST["dataset"], "preset": "reference"}}
    own = DatasetSpec.model_validate({"uri": "corpus", "preset": "reference"})
    filled = JobSpec.model_validate({**job, "recipe": name}).dataset
    for options in ("reading", "cleaning", "validation", "packing"):
        assert getattr(filled, options) == getattr(own, options)


def test_the_trc2_recipe_has_the_published_figures() -> None:
    training = JobSpec.model_validate({**SMALLEST, "recipe": "gptj-6b-trc2"}).training
    assert (training.batch_size, training.max_steps, training.seed) == (56, 25000, 1)
    assert (training.optimizer.eps, training.optimizer.weight_decay) == (1e-6, 0.1)
    assert isinstance(training.schedule[1], CosineSchedule) if training.schedule else False


def test_an_unknown_recipe_is_refused_with_the_known_ones() -> None:
    assert "gptj-6b-trc2" in next(iter(faults({**SMALLEST, "recipe": "gpt-5"}).values()))


@pytest.mark.parametrize("file", sorted(Path("examples").glob("*.yaml")), ids=lambda file: file.name)
def test_every_example_job_is_valid(file: Path) -> None:
    JobSpec.model_validate(yaml.safe_load(file.read_text()))


def job_blocks() -> list[dict[str, Any]]:
    blocks = re.findall(r"```yaml\n(.*?)```", Path("README.md").read_text(), re.DOTALL)
    return [job for job in map(yaml.safe_load, blocks) if "base_checkpoint" in job]


def test_the_readmes_job_is_valid_and_says_what_its_recipe_says() -> None:
    (job,) = job_blocks()
    by_recipe = {key: value for key, value in job.items() if key not in ("training", "output")}
    assert JobSpec.model_validate(job) == JobSpec.model_validate(by_recipe)


def dataset_faults(**dataset: Any) -> dict[str, str]:
    return faults({**SMALLEST, "dataset": {"uri": "/data/corpus", **dataset}})


def dataset(**values: Any) -> DatasetSpec:
    return DatasetSpec.model_validate({"uri": "/data/corpus", **values})


def test_a_dataset_of_nothing_but_a_place_is_split_and_packed_as_documented() -> None:
    found = dataset()
    assert (found.validation.fraction, found.validation.order, found.validation.near_duplicates) == (
        0.1,
        "chronological",
        0.8,
    )
    assert (found.packing.pack_sequences, found.packing.remainder, found.packing.document_boundaries) == (
        True,
        "pad",
        False,
    )
    assert (found.special_tokens, found.require) == ("text", RequirementsSpec())
    assert set(found.require.model_dump().values()) == {None, ()}


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"validation": {"fraction": 0}}, "dataset.validation.fraction"),
        ({"validation": {"fraction": 1}}, "dataset.validation.fraction"),
        ({"validation": {"order": "random"}}, "dataset.validation.order"),
        ({"validation": {"near_duplicates": 0}}, "dataset.validation.near_duplicates"),
        ({"validation": {"near_duplicates": 1.1}}, "dataset.validation.near_duplicates"),
        ({"validation": {"uri": []}}, "dataset.validation.uri"),
        ({"validation": {"uri": ["/data/held out", ""]}}, "dataset.validation.uri"),
        ({"packing": {"remainder": "keep"}}, "dataset.packing.remainder"),
        ({"packing": {"short_seq_prob": 1}}, "dataset.packing.short_seq_prob"),
        ({"packing": {"short_seq_prob": -0.1}}, "dataset.packing.short_seq_prob"),
        ({"packing": {"seed": -1}}, "dataset.packing.seed"),
        ({"packing": {"seed": 2**63}}, "dataset.packing.seed"),
        ({"packing": {"pack_sequences": False, "remainder": "drop"}}, "dataset.packing"),
        ({"packing": {"pack_sequences": False, "short_seq_prob": 0.1}}, "dataset.packing"),
        ({"special_tokens": "ignored"}, "dataset.special_tokens"),
        ({"cleaning": ["drop_duplicates", "fix_text", "drop_duplicates"]}, "dataset.cleaning"),
        (
            {"cleaning": [{"drop_near_duplicates": {}}, {"drop_near_duplicates": {"threshold": 0.9}}]},
            "dataset.cleaning",
        ),
        ({"require": {"min_train_tokens": 0}}, "dataset.require.min_train_tokens"),
        ({"require": {"max_dropped_share": 1.1}}, "dataset.require.max_dropped_share"),
        ({"require": {"max_duplicate_share": -0.1}}, "dataset.require.max_duplicate_share"),
        ({"require": {"max_padding_share": 2}}, "dataset.require.max_padding_share"),
        ({"require": {"max_eval_overlap": 2}}, "dataset.require.max_eval_overlap"),
        ({"require": {"max_tokens_per_word": 0}}, "dataset.require.max_tokens_per_word"),
        ({"require": {"languages": [""]}}, "dataset.require.languages.0"),
    ],
)
def test_an_impossible_dataset_is_refused_by_field(values: dict[str, Any], field: str) -> None:
    assert field in dataset_faults(**values)


def test_the_ends_of_the_ranges_are_possible() -> None:
    dataset(validation={"near_duplicates": 1.0}, packing={"seed": 2**63 - 1, "short_seq_prob": 0.999})
    dataset(validation={"near_duplicates": None}, packing={"pack_sequences": False, "document_boundaries": True})
    dataset(require={name: 0 for name in RequirementsSpec.model_fields if name.endswith("share")})
    dataset(cleaning=["drop_duplicates", {"drop_near_duplicates": {}}], special_tokens="recognised")


def test_one_place_or_several_are_a_list_either_way() -> None:
    assert dataset().uris == ("/data/corpus",)
    assert DatasetSpec.model_validate({"uri": ["/a", "/b"]}).uris == ("/a", "/b")
    assert ValidationSpec().uris == ()
    assert ValidationSpec.model_validate({"uri": "/a"}).uris == ("/a",)
    assert ValidationSpec.model_validate({"uri": ["/a", "/b"]}).uris == ("/a", "/b")


def test_a_dataset_keeps_all_of_it_through_json() -> None:
    found = dataset(
        validation={"order": "hashed", "uri": ["/a", "/b"], "near_duplicates": None},
        packing={"remainder": "drop", "short_seq_prob": 0.1, "seed": 3, "document_boundaries": True},
        require={"min_train_tokens": 5, "languages": ["en", "de"], "max_eval_overlap": 0.1},
        special_tokens="recognised",
    )
    assert DatasetSpec.model_validate_json(found.model_dump_json()) == found
