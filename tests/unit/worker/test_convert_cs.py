"""Cerebras checkpoints read and written, and the command line that converts them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml
from convert_samples import assert_same, run, sample, tensors_of, tie, to_bin
from typer.testing import CliRunner

from regraft.errors import ConflictError, InvalidDataError, InvalidInputError
from regraft.families import FAMILIES, family_named
from regraft.storage import local_path, read_manifest
from regraft_worker import cli_convert
from regraft_worker.conversion import cs, hf
from regraft_worker.conversion.cs_config import hf_config, model_section, read_section
from regraft_worker.conversion.tensors import same_bits

ASSETS = Path(__file__).parents[2] / "assets" / "modelzoo"


@pytest.fixture(params=["gptj", "gptneox"])
def base(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return sample(tmp_path / "base", request.param)


def write_cs(base: Path, folder: Path) -> Path:
    config = hf.load_config(base)
    family = next(family for family in FAMILIES if family.model_type == config["model_type"])
    architecture = family.read_config(config)
    folder.mkdir()
    cs.write_model(folder / cs.MODEL_FILE, hf.read_tensors(base), family=family, architecture=architecture)
    section = model_section(config, family=family, architecture=architecture)
    (folder / cs.CONFIG_FILE).write_text(yaml.safe_dump({"model": section}))
    return folder / cs.MODEL_FILE


def test_a_cerebras_checkpoint_becomes_the_same_folder(base: Path, tmp_path: Path) -> None:
    result = run(write_cs(base, tmp_path / "cs"), tmp_path / "out")
    folder = local_path(result.uri)
    assert_same(tensors_of(folder), tensors_of(base))
    family = family_named(result.family)
    assert family.read_config(hf.load_config(folder)) == family.read_config(hf.load_config(base))
    manifest = read_manifest(folder)
    assert manifest is not None
    assert manifest.kind == "checkpoint"
    assert manifest.parents.keys() == {"base_checkpoint"}


def test_a_checkpoint_saved_in_training_is_read_without_its_optimizer(base: Path, tmp_path: Path) -> None:
    path = write_cs(base, tmp_path / "cs")
    state = torch.load(path, weights_only=True)["model"]
    torch.save(
        {"model": {f"model.{n}": t for n, t in state.items()}, "global_step": 3, "optimizer": {"state": {}}}, path
    )
    assert_same(tensors_of(local_path(run(path, tmp_path / "out").uri)), tensors_of(base))


def test_a_tied_head_survives_cerebras_even_when_stored_as_none(tmp_path: Path) -> None:
    base = sample(tmp_path / "base")
    tie(base, head=None)
    path = write_cs(base, tmp_path / "cs")
    state = torch.load(path, weights_only=True)["model"]
    assert same_bits(state["lm_head.weight"], state["embedding_layer.word_embeddings.weight"])
    assert_same(tensors_of(local_path(run(path, tmp_path / "a").uri)), tensors_of(base))
    torch.save({"model": {**state, "lm_head.weight": None}}, path)
    assert_same(tensors_of(local_path(run(path, tmp_path / "b").uri)), tensors_of(base))
    torch.save({"model": {**state, "lm_head.weight": torch.zeros(300, 16)}}, path)
    with pytest.raises(InvalidDataError, match="other values for the head"):
        run(path, tmp_path / "c")


def test_a_cerebras_file_that_is_not_one_is_refused(tmp_path: Path) -> None:
    path = write_cs(sample(tmp_path / "base"), tmp_path / "cs")
    path.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100))
    with pytest.raises(InvalidDataError, match="HDF5"):
        run(path, tmp_path / "out")
    for content in ({"weights": 1}, {"model": {"lm_head.weight": "text"}}):
        torch.save(content, path)
        with pytest.raises(InvalidDataError) as caught:
            run(path, tmp_path / "out")
        assert caught.value.reason == "unsupported_checkpoint"


def test_cerebras_tensors_of_another_shape_are_refused(tmp_path: Path) -> None:
    path = write_cs(sample(tmp_path / "base"), tmp_path / "cs")
    config = path.with_name(cs.CONFIG_FILE)
    config.write_text(config.read_text().replace("vocab_size: 300", "vocab_size: 301"))
    with pytest.raises(InvalidDataError, match=r"lm_head.bias: expected \[301\], found \[300\]"):
        run(path, tmp_path / "out")


def test_the_yaml_of_a_cerebras_checkpoint_is_found_by_name_or_alone(tmp_path: Path) -> None:
    path = tmp_path / "pytorch_model_to_cs-1.8.mdl"
    with pytest.raises(InvalidInputError, match="0 YAML files"):
        cs.config_beside(path)
    (tmp_path / "params.yaml").write_text("")
    assert cs.config_beside(path).name == "params.yaml"
    (tmp_path / "other.yml").write_text("")
    with pytest.raises(InvalidInputError, match="2 YAML files"):
        cs.config_beside(path)
    (tmp_path / "config_to_cs-1.8.yaml").write_text("")
    assert cs.config_beside(path).name == "config_to_cs-1.8.yaml"
    path.with_suffix(".yaml").write_text("")
    assert cs.config_beside(path).name == "pytorch_model_to_cs-1.8.yaml"


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


def test_the_command_line_names_its_outputs_like_the_model_zoo(base: Path, tmp_path: Path) -> None:
    app = cli_app()
    options = ["--src-fmt", "hf", "--tgt-fmt", "cs-1.8", "--output-dir", str(tmp_path / "cs")]
    to_bin(base)
    expected = tensors_of(base)
    first = CliRunner().invoke(app, ["convert", str(base / "pytorch_model.bin"), *options], catch_exceptions=False)
    model = tmp_path / "cs" / "pytorch_model_to_cs-1.8.mdl"
    assert first.output.splitlines() == [
        f"Checkpoint saved to {model}",
        f"Config saved to {tmp_path / 'cs' / 'config_to_cs-1.8.yaml'}",
    ]
    assert sorted(path.name for path in (tmp_path / "cs").iterdir()) == ["config_to_cs-1.8.yaml", model.name]
    back = ["convert", str(model), "--src-fmt", "cs-1.8", "--tgt-fmt", "hf", "--output-dir", str(tmp_path / "hf")]
    second = CliRunner().invoke(app, back, catch_exceptions=False)
    folder = tmp_path / "hf" / "pytorch_model_to_cs-1.8_to_hf"
    assert second.output.splitlines()[0] == f"Checkpoint saved to {folder}"
    assert_same(tensors_of(folder), expected)
    with pytest.raises(ConflictError):
        CliRunner().invoke(app, back, catch_exceptions=False)


def test_the_command_line_refuses_what_it_cannot_do(tmp_path: Path) -> None:
    base = sample(tmp_path / "base")
    for options, field in (
        (["--src-fmt", "hf", "--tgt-fmt", "cs-2.9"], "--tgt-fmt"),
        (["--src-fmt", "cs-auto", "--tgt-fmt", "hf"], "--src-fmt"),
        (["--src-fmt", "hf", "--tgt-fmt", "hf"], "--tgt-fmt"),
        (["--src-fmt", "hf", "--tgt-fmt", "cs-1.8", "--model", "gpt-neox"], "--model"),
        (["--src-fmt", "hf", "--tgt-fmt", "cs-1.8", "--model", "gpt2"], "--model"),
    ):
        with pytest.raises(InvalidInputError) as caught:
            CliRunner().invoke(cli_app(), ["convert", str(base), *options], catch_exceptions=False)
        assert caught.value.field == field
    assert sorted(path.suffix for path in base.iterdir()) == [".json", ".json", ".safetensors"]


def cli_app():  # type: ignore[no-untyped-def]
    import typer

    app = typer.Typer()
    app.command("convert")(cli_convert.convert)
    app.command("export")(cli_convert.export)
    app.command("sample")(cli_convert.sample_checkpoint)
    return app
