"""Cerebras checkpoints of every release and encoding as the base of a job, and their configs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from convert_samples import Recorder, assert_same, run, sample, tensors_of, tie

from regraft.checkpoint_files import config_beside, locate
from regraft.errors import InvalidDataError, InvalidInputError
from regraft.families import family_named
from regraft.formats import FORMAT_NAMES
from regraft.specs.stages import ExportTask
from regraft.storage import local_path, read_manifest
from regraft_worker.conversion import hf
from regraft_worker.conversion.bits import same_bits
from regraft_worker.conversion.cs_config import hf_config, model_section, read_section
from regraft_worker.conversion.export import export

ASSETS = Path(__file__).parents[2] / "assets" / "modelzoo"
RELEASES = [name for name in FORMAT_NAMES if name != "hf"]


@pytest.fixture(params=["gptj", "gptneox"])
def base(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return sample(tmp_path / "base", request.param)


def write_cs(base: Path, folder: Path, name: str = "cs-1.8") -> Path:
    """The `.mdl` alone with its YAML."""
    task = ExportTask(checkpoint_uri=str(base), formats=(name,), output_uri=str(folder))  # type: ignore[arg-type]
    made = local_path(export(task, transformers_share=0.0).artifacts[name])
    for path in made.iterdir():
        if path.suffix in (".json", ".md"):
            path.unlink()
    return next(made.glob("*.mdl"))


def state_of(path: Path) -> dict[str, torch.Tensor]:
    return dict(torch.load(path, weights_only=True)["model"])


@pytest.mark.parametrize("name", RELEASES)
def test_a_checkpoint_of_any_release_becomes_the_same_folder(base: Path, tmp_path: Path, name: str) -> None:
    path = write_cs(base, tmp_path / "cs", name)
    result = run(path, tmp_path / "out")
    folder = local_path(result.uri)
    assert_same(tensors_of(folder), tensors_of(base))
    family = family_named(result.family)
    assert family.read_config(hf.load_config(folder)) == family.read_config(hf.load_config(base))
    manifest = read_manifest(folder)
    assert manifest is not None
    assert (manifest.kind, manifest.summary["verified"]) == ("checkpoint", True)
    assert manifest.parents.keys() == {"base_checkpoint"}
    assert run(path.parent, tmp_path / "out").cached  # the folder stands for its one .mdl


def test_a_rate_that_hugging_face_has_no_key_for_is_named_when_it_is_lost(tmp_path: Path) -> None:
    path = write_cs(sample(tmp_path / "base", "gptneox"), tmp_path / "cs")
    (yaml_file,) = path.parent.glob("*.yaml")
    content = yaml.safe_load(yaml_file.read_text())
    for embedding, lost in ((0.2, 1), (0.1, 0)):
        content["model"] |= {"embedding_dropout_rate": embedding, "residual_dropout_rate": 0.1}
        yaml_file.write_text(yaml.safe_dump(content))
        for _ in range(2):  # also when it is there already
            progress = Recorder()
            folder = local_path(run(path, tmp_path / "out", progress).uri)
            said = [event for event in progress.events if "embedding_dropout_rate 0.2 is lost" in event]
            assert len(said) == lost
        assert hf.load_config(folder)["hidden_dropout"] == 0.1
        manifest = read_manifest(folder)
        assert manifest is not None
        assert len(manifest.summary.get("lost", [])) == lost  # type: ignore[arg-type]


@pytest.mark.parametrize("form", ["flat", "trainer"])
def test_the_config_may_be_a_complete_params_file(base: Path, tmp_path: Path, form: str) -> None:
    path = write_cs(base, tmp_path / "cs")
    (yaml_file,) = path.parent.glob("*.yaml")
    section = yaml.safe_load(yaml_file.read_text())["model"]
    rest: dict[str, Any] = {"train_input": {"batch_size": 4}, "optimizer": {"optimizer_type": "AdamW"}}
    trainer = {"trainer": {"init": {"model": section, "backend": {"backend_type": "CPU"}}, "fit": {}}}
    yaml_file.unlink()
    complete = trainer if form == "trainer" else {**rest, "model": section, "runconfig": {"max_steps": 3}}
    (path.parent / "params_train.yml").write_text(yaml.safe_dump(complete))
    assert_same(tensors_of(local_path(run(path, tmp_path / "out").uri)), tensors_of(base))


def test_a_checkpoint_saved_in_training_is_read_without_its_optimizer(base: Path, tmp_path: Path) -> None:
    path = write_cs(base, tmp_path / "cs")
    state = {f"model.{name}": tensor for name, tensor in state_of(path).items()}
    moments = {0: {"exp_avg": torch.ones(3), "exp_avg_sq": torch.full((3,), float("nan"))}}
    trained = {"model": state, "global_step": 3, "optimizer": {"state": moments, "param_groups": [{"lr": 0.1}]}}
    torch.save({**trained, "lr_scheduler": {"last_epoch": 3}}, path)
    progress = Recorder()
    assert_same(tensors_of(local_path(run(path, tmp_path / "out", progress).uri)), tensors_of(base))
    assert ["optimizer's state" in message for message in progress.events] == [True]


def test_a_pickle_from_before_zip_archives_is_read(base: Path, tmp_path: Path) -> None:
    path = write_cs(base, tmp_path / "cs")
    torch.save({"model": state_of(path)}, path, _use_new_zipfile_serialization=False)
    assert_same(tensors_of(local_path(run(path, tmp_path / "out").uri)), tensors_of(base))


def test_a_tied_head_survives_cerebras_even_when_stored_as_none(tmp_path: Path) -> None:
    base = sample(tmp_path / "base")
    tie(base, head=None)
    path = write_cs(base, tmp_path / "cs")
    state = state_of(path)
    assert same_bits(state["lm_head.weight"], state["embedding_layer.word_embeddings.weight"])
    assert_same(tensors_of(local_path(run(path, tmp_path / "a").uri)), tensors_of(base))
    torch.save({"model": {**state, "lm_head.weight": None}}, path)
    assert_same(tensors_of(local_path(run(path, tmp_path / "b").uri)), tensors_of(base))
    torch.save({"model": {**state, "lm_head.weight": torch.zeros(300, 16)}}, path)
    with pytest.raises(InvalidDataError, match=r"lm_head\.weight: copies of one tensor, with different values"):
        run(path, tmp_path / "c")


def test_a_cerebras_file_that_is_not_one_is_refused(tmp_path: Path) -> None:
    path = write_cs(sample(tmp_path / "base"), tmp_path / "cs")
    for content in ({"weights": 1}, {"model": {"lm_head.weight": "text"}}):
        torch.save(content, path)
        with pytest.raises(InvalidDataError, match="tensors are missing") as caught:
            run(path, tmp_path / "out")
        assert caught.value.reason == "config_tensors_disagree"
    for junk in (b"\x89HDF\r\n\x1a\n" + bytes(100), b"", b"PK\x03\x04"):
        path.write_bytes(junk)
        with pytest.raises(InvalidDataError) as caught:
            run(path, tmp_path / "out")
        assert caught.value.reason in ("unreadable_checkpoint", "unsupported_checkpoint")
        assert caught.value.field == "base_checkpoint.uri"
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (("vocab_size: 300", "vocab_size: 301"), r"'lm_head.*' should have shape \[301"),
        (("filter_size: 64", "filter_size: 60"), r"'transformer_decoder.*ffn.*' should have shape \[60"),
        (("num_hidden_layers: 2", "num_hidden_layers: 1"), "no tensors transformer_decoder.layers.1"),
        (("num_hidden_layers: 2", "num_hidden_layers: 3"), "missing: transformer.h.2"),
        (("rotary_dim: 4", "rotary_dim: 3"), "rotary dimension"),
    ],
)
def test_a_yaml_of_another_model_is_refused_and_the_difference_named(
    tmp_path: Path, change: tuple[str, str], named: str
) -> None:
    path = write_cs(sample(tmp_path / "base"), tmp_path / "cs")
    (config,) = path.parent.glob("*.yaml")
    assert change[0] in config.read_text()
    config.write_text(config.read_text().replace(*change))
    with pytest.raises(InvalidDataError, match=named):
        run(path, tmp_path / "out")


def test_quantised_and_infinite_cerebras_weights_are_refused(base: Path, tmp_path: Path) -> None:
    path = write_cs(base, tmp_path / "cs")
    state = state_of(path)
    name = "transformer_decoder.layers.1.self_attn.proj_k_dense_layer.weight"
    bad = state[name].clone()
    bad[3, 5] = float("inf")
    for tensor, reason in ((state[name].to(torch.int8), "unsupported_dtype"), (bad, "weights_not_finite")):
        torch.save({"model": {**state, name: tensor}}, path)
        with pytest.raises(InvalidDataError) as caught:
            run(path, tmp_path / "out")
        assert caught.value.reason == reason
    assert caught.value.value == name


def test_the_yaml_of_a_cerebras_checkpoint_is_found_by_name_or_alone(tmp_path: Path) -> None:
    path = tmp_path / "pytorch_model_to_cs-1.8.mdl"
    path.touch()
    with pytest.raises(InvalidInputError, match="0 YAML files"):
        locate(path, field="base_checkpoint.uri")
    (tmp_path / "params.yaml").write_text("")
    assert config_beside(path).name == "params.yaml"
    (tmp_path / "other.yml").write_text("")
    with pytest.raises(InvalidInputError, match="2 YAML files"):
        config_beside(path)
    (tmp_path / "config_to_cs-1.8.yaml").write_text("")
    assert config_beside(path).name == "config_to_cs-1.8.yaml"
    path.with_suffix(".yaml").write_text("")
    assert config_beside(path).name == "pytorch_model_to_cs-1.8.yaml"
    assert locate(tmp_path, field="") == locate(path, field="")


@pytest.mark.parametrize("name", ["gptj", "gptneox"])
def test_a_cerebras_config_comes_back_as_the_same_architecture(tmp_path: Path, name: str) -> None:
    config = hf.load_config(sample(tmp_path / "base", name))
    family = family_named("gptj" if name == "gptj" else "gpt-neox")
    architecture = family.read_config(config)
    section = model_section(config, family=family, architecture=architecture)
    assert family.read_config(hf_config(section)) == architecture


def test_every_rotary_share_of_neox_survives(tmp_path: Path) -> None:
    family = family_named("gpt-neox")
    base = hf.load_config(sample(tmp_path / "base", "gptneox"))
    for head in range(2, 130):
        for rotary in range(2, head + 1, 2):
            section = model_section(base, family=family, architecture=family.read_config(base))
            section |= {"hidden_size": 2 * head, "num_heads": 2, "rotary_dim": rotary}
            assert family.read_config(hf_config(section)).rotary_dim == rotary


def test_the_rotary_position_embedding_is_named_only_when_the_config_names_it(tmp_path: Path) -> None:
    family = family_named("gptj")
    config = hf.load_config(sample(tmp_path / "base"))
    architecture = family.read_config(config)
    assert "position_embedding_type" not in model_section(config, family=family, architecture=architecture)
    named = model_section({**config, "rotary": True}, family=family, architecture=architecture)
    assert named["position_embedding_type"] == "rotary"


def test_absent_cerebras_keys_have_cerebras_defaults(tmp_path: Path) -> None:
    section = read_section(ASSETS / "release-1.8.0" / "config_to_cs-1.8.yaml")
    for key in ("nonlinearity", "attention_dropout_rate", "rotary_dim"):
        del section[key]
    config = hf_config(section)
    assert (config["activation_function"], config["attn_pdrop"], config["rotary_dim"]) == ("gelu", 0.1, 4)
    with pytest.raises(InvalidDataError) as caught:
        hf_config({key: value for key, value in section.items() if key != "filter_size"})
    assert caught.value.field == "model.filter_size"


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        ({"use_ffn_bias": False}, "use_ffn_bias is False, not True"),
        ({"use_untied_layer_norm": True}, "no supported model"),
        ({"position_embedding_type": "learned"}, "position_embedding_type is 'learned'"),
        ({"embedding_layer_norm": True}, "embedding_layer_norm is True"),
        ({"norm_type": "rmsnorm"}, "norm_type is 'rmsnorm'"),
        ({"name": "gpt-neox"}, "another name"),
    ],
)
def test_cerebras_switches_the_family_has_not_are_refused(change: dict[str, object], cause: str) -> None:
    section = read_section(ASSETS / "release-1.8.0" / "config_to_cs-1.8.yaml")
    with pytest.raises(InvalidDataError) as caught:
        hf_config({**section, **change})
    assert cause in caught.value.message


@pytest.mark.parametrize("text", ["model: [", "- 1", "optimizer: {}", "model: 3"])
def test_a_yaml_without_a_model_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "params.yaml").write_text(text)
    with pytest.raises(InvalidDataError):
        read_section(tmp_path / "params.yaml")
