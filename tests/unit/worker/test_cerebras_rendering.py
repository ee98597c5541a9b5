"""Params files for a Cerebras cluster: the published recipe in every form, and there and back."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.kinds import BadParamsError
from appliance.schema import check, release_of
from regraft import recipes
from regraft.cerebrassite import CerebrasSite
from regraft.errors import InvalidInputError
from regraft.specs import CerebrasTargetSpec, JobSpec, TrainingSpec
from regraft_worker.cerebras.command import client_words
from regraft_worker.cerebras.options import Options, options_of
from regraft_worker.cerebras.reading import read_rendered
from regraft_worker.cerebras.rendering import Places, Rendered, numbers, render

ASSETS = Path(__file__).parents[2] / "assets"
RELEASES = ("1.8", "1.9", "2.0", "2.1", "2.2", "2.3", "2.4", "2.9", "2.10")
# GPT-J-6B, as `regraft convert` writes its section for release 2.9.
SECTION: dict[str, Any] = yaml.safe_load((ASSETS / "cerebras" / "gptj-6b.yaml").read_text())["model"]
SITE = CerebrasSite(
    mgmt_address="cluster.example:443",
    mgmt_namespace="job-operator",
    credentials_path="/opt/cerebras/certs/tls.crt",
    mount_dirs="/shared/regraft,/shared/venv",
    python_paths="/shared/modelzoo/src",
    compile_dir="regraft",
)
LABELS = {"regraft-job": "j1", "regraft-stage": "s1", "regraft-attempt": "1", "regraft-epoch": "1"}
PLACES = Places(
    data_dir="/shared/regraft/datasets/d1",
    model_dir="/shared/regraft/jobs/j1/attempt-1",
    max_sequence_length=512,
    checkpoint="/shared/regraft/jobs/j1/base.mdl",
)
# The keys of the published TRC2 recipe.
READER = "data_processor data_dir vocab_size batch_size shuffle num_workers prefetch_factor persistent_workers"
MODEL = (
    "vocab_size position_embedding_type embedding_dropout_rate share_embedding_weights hidden_size num_heads "
    "num_hidden_layers max_position_embeddings attention_type use_projection_bias_in_attention "
    "use_ffn_bias_in_attention use_ffn_bias filter_size nonlinearity attention_dropout_rate residual_dropout_rate "
    "rotary_dim layer_norm_epsilon use_bias_in_output initializer_range loss_scaling embedding_initializer "
    "initializer output_layer_initializer"
)
OPTIMIZER = "optimizer_type eps max_gradient_norm correct_bias learning_rate loss_scaling_factor"
CLUSTER = (
    "num_csx num_workers_per_csx job_labels job_time_sec mount_dirs python_paths credentials_path mgmt_address "
    "mgmt_namespace"
)


def job(**target: Any) -> JobSpec:
    given = {"kind": "cerebras", "workers": 2, "time_limit_seconds": 864000, "priority": "p1", **target}
    return JobSpec.model_validate(
        {
            "recipe": "gptj-6b-trc2",
            "dataset": {"uri": "corpus"},
            "base_checkpoint": {"uri": "base"},
            "target": given,
            "training": {"evaluate": {"every_steps": 500, "max_windows": 5600}},
        }
    )


def published(release: str) -> Rendered:
    spec = job(**({"fp16_type": "cbfloat16"} if numbers(release) >= (2, 0) else {}))
    assert isinstance(spec.target, CerebrasTargetSpec)
    options = options_of(spec.target, SITE, labels=LABELS)
    return render(spec.training, SECTION, release=release, places=PLACES, options=options)


@pytest.mark.parametrize("release", ["1.9", "2.2", "2.4", "2.10"])
def test_the_published_recipe_is_the_file_that_was_checked(release: str) -> None:
    expected = (ASSETS / "cerebras" / f"params_{release}.yaml").read_text()
    assert yaml.safe_load(published(release).text()) == yaml.safe_load(expected)


@pytest.mark.parametrize("release", ["1.8", "1.9", "2.0", "2.2"])
def test_a_flat_file_has_every_key_of_the_published_one(release: str) -> None:
    found = published(release)
    content: dict[str, Any] = found.content
    newer = release_of(release) >= (2, 0)
    length = [] if release != "1.8" else ["max_sequence_length"]
    assert {*READER.split(), "shuffle_seed", *length} == content["train_input"].keys()
    assert {*READER.split(), *length} == content["eval_input"].keys()
    assert {*MODEL.split(), "mixed_precision", *(["fp16_type"] if newer else [])} <= content["model"].keys()
    assert {*OPTIMIZER.split(), "weight_decay" if newer else "weight_decay_rate"} == content["optimizer"].keys()
    assert {*CLUSTER.split(), "compile_dir", "model_dir", "max_steps", "log_steps", "checkpoint_steps", "seed"} <= (
        content["runconfig"].keys()
    )
    assert content["runconfig"].get("job_priority", found.flags[-1:]) in ("p1", ["p1"])
    lengths = [part.get("total_iters" if newer else "steps") for part in content["optimizer"]["learning_rate"]]
    assert lengths == [500, 50000, None]


@pytest.mark.parametrize("release", ["2.3", "2.4", "2.10"])
def test_a_trainer_file_has_every_key_of_the_published_one(release: str) -> None:
    trainer: Any = published(release).content["trainer"]
    init = trainer["init"]
    assert set(MODEL.split()) <= init["model"].keys()
    assert {"mixed_precision", "fp16_type"}.isdisjoint(init["model"])
    assert init["model"].get("name") == (None if release == "2.3" else "gptj")
    assert init["optimizer"] == {"adamw": {"eps": 1e-6, "weight_decay": 0.1, "correct_bias": True}}
    ((name, schedulers),) = init["schedulers"][0].items()
    parts = [key for part in schedulers["schedulers"] for key in part]
    assert (name, parts) == ("SequentialLR", ["LinearLR", "CosineDecayLR", "ConstantLR"])
    assert init["precision"] == {
        "enabled": True,
        "fp16_type": "cbfloat16",
        "loss_scaling_factor": "dynamic",
        "max_gradient_norm": 1.0,
    }
    assert (init["seed"], init["loop"]["max_steps"], init["checkpoint"]["steps"]) == (1, 25000, 1000)
    assert init["logging"] == {"log_steps": 50}
    assert {*CLUSTER.split(), "job_priority"} == init["backend"]["cluster_config"].keys()
    assert {*READER.split(), "shuffle_seed"} == trainer["fit"]["train_dataloader"].keys()
    for loader in (trainer["fit"]["val_dataloader"], trainer["validate"]["val_dataloader"]):
        assert loader is trainer["validate_all"]["val_dataloaders"]


@pytest.mark.parametrize("release", RELEASES)
def test_every_release_takes_its_own_file_and_not_one_with_another_key(release: str) -> None:
    content = yaml.safe_load(published(release).text())
    check(content, release_of(release))
    wrong = copy.deepcopy(content)
    section = wrong["runconfig"] if "runconfig" in wrong else wrong["trainer"]["init"]["backend"]["cluster_config"]
    section["num_cs2"] = 1
    with pytest.raises(BadParamsError, match="num_cs2"):
        check(wrong, release_of(release))


def test_two_ten_is_not_two_one() -> None:
    assert "trainer" in published("2.10").content
    assert "runconfig" in published("2.1").content
    assert numbers("2.10") > numbers("2.9")


def test_the_client_is_started_in_the_releases_words() -> None:
    def words(release: str, **more: Any) -> str:
        client = ["/venv/cszoo"] if release_of(release) >= (2, 4) else ["python", "run.py"]
        return " ".join(client_words(client, release=release, params="p.yaml", model_dir="m", **more))

    assert words("1.8", mode="train") == "python run.py CSX weight_streaming --params p.yaml --mode train --model_dir m"
    assert words("2.3", mode="eval") == "python run.py CSX --params p.yaml --mode eval --model_dir m"
    last = "p.yaml --target_device CSX --model_dir m"
    assert words("2.4", mode="train", only="compile_only") == f"/venv/cszoo fit {last} --compile_only"
    assert words("2.10", mode="eval_all", flags=["--a", "b"]) == f"/venv/cszoo validate_all {last} --a b"


def test_going_on_takes_everything_and_starting_takes_the_weights() -> None:
    going_on = Places(**{**PLACES.__dict__, "resume": True})
    options = Options(mgmt_address="a:1", mgmt_namespace="n", mount_dirs=("/shared",))
    for release in RELEASES:
        start, on = (
            render(job().training, SECTION, release=release, places=places, options=options).text()
            for places in (PLACES, going_on)
        )
        for word in ("is_pretrained_checkpoint: true", "load_checkpoint_states: model"):
            assert word not in on
        assert ("is_pretrained_checkpoint: true" in start) == (release_of(release) < (2, 0))
        assert PLACES.checkpoint in on
        assert "autoload_last_checkpoint: false" in on


SCHEDULES = st.sampled_from(
    [
        [{"constant": {"value": 1e-4}}],
        [{"linear": {"from": 0.0, "to": 1e-3, "steps": 5}}, {"cosine": {"from": 1e-3, "to": 1e-4, "steps": 7}}],
        [{"polynomial": {"from": 1e-3, "to": 0.0, "power": 2.0, "steps": 9}}],
        [{"exponential": {"from": 1e-3, "decay_rate": 0.5, "steps": 3, "staircase": True}}],
        [{"inverse_square_root": {"value": 1e-2, "scale": 2.0, "warmup_steps": 4}}],
        [{"piecewise_constant": {"values": [1e-3, 1e-4], "milestones": [4]}}],
    ]
)
COUNTS = st.integers(1, 10**6)
RATES = st.floats(0.0, 0.9)
PLACES_OF_DROPOUT = st.sampled_from(["embedding", "attention", "residual"])
POSITIVE = st.floats(1e-9, 1e3, allow_subnormal=False)


@st.composite
def trainings(draw: st.DrawFn, *, precisions: list[str], keep: int | None) -> TrainingSpec:
    saved, batch = draw(st.integers(1, 1000)), draw(st.integers(1, 64)) * 2
    every, windows = draw(st.none() | st.integers(1, 9)), draw(st.none() | st.integers(1, 99))
    clipping: dict[str, Any] = draw(
        st.sampled_from([{"max_gradient_norm": None}, {"max_gradient_norm": None, "max_gradient_value": 0.5}])
        | POSITIVE.map(lambda norm: {"max_gradient_norm": norm})
    )
    loss = draw(st.just({}) | POSITIVE.map(lambda weight: {"scaling": "batch_size", "weight": weight}))
    return TrainingSpec.model_validate(
        {
            "batch_size": batch,
            "max_steps": draw(COUNTS),
            "seed": draw(st.integers(0, 2**31)),
            "shuffle": draw(st.booleans()),
            "precision": draw(st.sampled_from(precisions)),
            "dropout": draw(st.dictionaries(PLACES_OF_DROPOUT, RATES.map(_moved))),
            "loss": loss,
            "optimizer": {
                "betas": [draw(RATES), draw(RATES)],
                "eps": draw(POSITIVE),
                "weight_decay": draw(RATES),
                "correct_bias": draw(st.booleans()),
                **clipping,
            },
            "schedule": draw(SCHEDULES),
            "evaluate": {"every_steps": every and every * saved, "max_windows": windows and windows * batch},
            "checkpoint": {"every_steps": saved, "keep_last": keep or draw(st.integers(1, 9))},
            "log_every_steps": draw(COUNTS),
        }
    )


def _moved(rate: float) -> float:
    """A rate that is not the checkpoint's own, which is 0."""
    return rate / 2 + 0.01


@st.composite
def jobs(draw: st.DrawFn) -> tuple[str, TrainingSpec, CerebrasTargetSpec]:
    release = draw(st.sampled_from(RELEASES))
    old = numbers(release) < (2, 0)
    keep = 3 if release == "1.9" else None  # a release without a key for it
    training = draw(trainings(precisions=["fp32", "bf16"] if old else ["fp32", "bf16", "fp16"], keep=keep))
    types = ["cbfloat16", None] if not old and training.precision == "bf16" else [None]
    count = st.none() | st.integers(1, 100)
    target = {
        "kind": "cerebras",
        "release": release,
        "num_csx": draw(st.sampled_from([1, 2])),
        "workers": draw(count),
        "weight_servers": draw(count),
        "activation_servers": draw(count),
        "priority": draw(st.sampled_from(["p1", "p2", "p3"])),
        "time_limit_seconds": draw(count),
        "compile_dir": draw(st.none() | st.sampled_from(["shared", "mine/too"])),
        "fp16_type": draw(st.sampled_from(types)),
        "precision_opt_level": draw(st.sampled_from([None, 0, 1, 2])) if numbers(release) >= (2, 2) else None,
    }
    return release, training, CerebrasTargetSpec.model_validate(target)


@settings(max_examples=150, deadline=None)
@given(jobs(), st.booleans())
def test_a_job_comes_back_from_its_params_file(
    made: tuple[str, TrainingSpec, CerebrasTargetSpec], resume: bool
) -> None:
    release, training, target = made
    site = SITE.model_copy(update={"compile_dir": ""})
    places = Places(**{**PLACES.__dict__, "resume": resume, "max_sequence_length": SECTION["max_position_embeddings"]})
    options = options_of(target, site, labels=LABELS)
    found = render(training, SECTION, release=release, places=places, options=options)
    text = yaml.safe_load(found.text())
    check(text, release_of(release))
    back = read_rendered(text, SECTION, release=release, flags=found.flags)
    assert back.training == training
    assert back.target == target
    assert back.places == places
    site_fields = ("mgmt_address", "mgmt_namespace", "credentials_path", "mount_dirs", "python_paths")
    assert back.site == {name: getattr(options, name) for name in site_fields} | {"job_labels": LABELS}


@pytest.mark.parametrize(
    ("release", "training", "target", "field"),
    [
        ("2.4", {"batch_size": 7}, {"num_csx": 2}, "target.num_csx"),
        ("1.9", {"precision": "bf16"}, {"fp16_type": "cbfloat16"}, "target.fp16_type"),
        ("2.4", {"precision": "fp32"}, {"fp16_type": "cbfloat16"}, "target.fp16_type"),
        ("2.1", {}, {"precision_opt_level": 2}, "target.precision_opt_level"),
        ("2.4", {"early_stopping": {}, "evaluate": {"every_steps": 10}}, {}, "training.early_stopping"),
        ("2.4", {"max_steps": None}, {}, "training.max_steps"),
    ],
)
def test_what_cannot_be_told_is_refused_by_name(
    release: str, training: dict[str, Any], target: dict[str, Any], field: str
) -> None:
    spec = TrainingSpec.model_validate({"max_steps": 100, "checkpoint": {"every_steps": 10}, **training})
    options = options_of(CerebrasTargetSpec.model_validate({"kind": "cerebras", **target}), SITE, labels={})
    with pytest.raises(InvalidInputError) as caught:
        render(spec, SECTION, release=release, places=PLACES, options=options)
    assert (caught.value.field, caught.value.reason) == (field, "not_expressible_in_cs")


def test_data_outside_of_the_mounts_and_a_site_without_an_address_are_refused() -> None:
    options = options_of(CerebrasTargetSpec(kind="cerebras"), SITE, labels={})
    elsewhere = Places(**{**PLACES.__dict__, "data_dir": "/home/me/d1"})
    with pytest.raises(InvalidInputError) as caught:
        render(job().training, SECTION, release="2.4", places=elsewhere, options=options)
    assert caught.value.field == "REGRAFT_CEREBRAS_MOUNT_DIRS"
    with pytest.raises(InvalidInputError) as caught:
        options_of(CerebrasTargetSpec(kind="cerebras"), SITE.model_copy(update={"mgmt_address": ""}), labels={})
    assert caught.value.field == "REGRAFT_CEREBRAS_MGMT_ADDRESS"


def test_the_recipes_of_a_cluster_are_told_or_named() -> None:
    for name in recipes.names():
        training = TrainingSpec.model_validate(
            yaml.safe_load(recipes.text(name)).get("training", {}) | {"max_steps": 100}
        )
        options = options_of(CerebrasTargetSpec(kind="cerebras"), SITE, labels={})
        found = render(training, SECTION, release="2.10", places=PLACES, options=options)
        assert (training.checkpoint.keep_best is None) != any("keep_best" in note for note in found.notes)
