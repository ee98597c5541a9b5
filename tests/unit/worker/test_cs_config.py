"""Config keys: what a release adds or takes, what is asserted, and what becomes of keys nobody knows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from convert_samples import edit_config, sample

from regraft.errors import InvalidDataError, InvalidInputError
from regraft.families import family_named, variant_named
from regraft_worker.conversion.config_files import ConvertedConfig, convert_config
from regraft_worker.conversion.config_keys import section_of_release
from regraft_worker.conversion.cs_config import hf_config, read_section
from regraft_worker.conversion.formats import FORMATS

ASSETS = Path(__file__).parents[2] / "assets" / "modelzoo"
GPTJ = ASSETS / "cs_ckpt" / "gptj_v512_cs-2.9.yaml"
NEOX = ASSETS / "cs_ckpt" / "neox_par_cs-2.9.yaml"


def run(
    path: Path, source: str, target: str, *, model: str | None = None, drop: bool = False
) -> tuple[dict[str, Any], ConvertedConfig]:
    family = variant_named(model) if model else None
    made = convert_config(path, model=family, source=FORMATS[source], target=FORMATS[target], drop=drop)
    content = yaml.safe_load(made.text)
    return (content["model"] if FORMATS[target].is_cs else content), made


def changed(path: Path, folder: Path, **keys: object) -> Path:
    section = {**read_section(path), **keys}
    (folder / "params.yaml").write_text(yaml.safe_dump({"model": section}))
    return folder / "params.yaml"


def test_a_scaled_rotary_embedding_goes_over_from_2_1_on(tmp_path: Path) -> None:
    base = sample(tmp_path / "base", "gptneox")
    edit_config(base, rope_scaling={"type": "linear", "factor": 2.0})
    section, made = run(base / "config.json", "hf", "cs-2.1")
    assert section["pos_scaling_factor"] == made.architecture.rope_scaling_factor == 2.0
    back = hf_config(section)
    assert back["rope_scaling"] == {"type": "linear", "factor": 2.0}
    assert family_named("gpt-neox").read_config(back) == made.architecture
    with pytest.raises(InvalidInputError, match=r"scaled by 2; releases before 2\.1") as caught:
        run(base / "config.json", "hf", "cs-2.0")
    assert caught.value.reason == "not_expressible_in_cs"
    with pytest.raises(InvalidInputError, match=r"before 2\.1"):
        run(changed(NEOX, tmp_path, pos_scaling_factor=2.0), "cs-2.9", "cs-1.9")


def test_dropout_of_a_neox_is_forced_to_0_before_2_0_and_this_is_said(tmp_path: Path) -> None:
    base = sample(tmp_path / "base", "gptneox")
    edit_config(base, attention_dropout=0.1, hidden_dropout=0.2)
    section, made = run(base / "config.json", "hf", "cs-2.0")
    assert rates(section) == {"embedding": 0.2, "attention": 0.1, "residual": 0.2}
    assert made.notes == ()
    for target in ("cs-1.7", "cs-1.8", "cs-1.9"):
        section, made = run(base / "config.json", "hf", target)
        assert rates(section) == {"embedding": 0.0, "attention": 0.0, "residual": 0.0}
        assert "attention_dropout_rate, residual_dropout_rate" in made.notes[0]
    gptj = sample(tmp_path / "gptj")
    edit_config(gptj, attn_pdrop=0.1)
    assert rates(run(gptj / "config.json", "hf", "cs-1.8")[0])["attention"] == 0.1


def test_a_gptj_without_dropout_rates_gets_those_of_the_original_tool(tmp_path: Path) -> None:
    base = sample(tmp_path / "base")
    config = json.loads((base / "config.json").read_text())
    del config["attn_pdrop"], config["resid_pdrop"]
    (base / "config.json").write_text(json.dumps(config))
    section, made = run(base / "config.json", "hf", "cs-2.9")
    assert rates(section) == {"embedding": 0.0, "attention": 0.1, "residual": 0.1}
    assert made.notes[0].endswith(": attention_dropout_rate, residual_dropout_rate")
    assert made.architecture.attention_dropout == 0.0  # what Hugging Face computes with


def test_the_embedding_s_dropout_of_a_neox_is_named_when_it_is_lost(tmp_path: Path) -> None:
    path = changed(NEOX, tmp_path, embedding_dropout_rate=0.1)
    section, made = run(path, "cs-2.9", "hf")
    assert section["hidden_dropout"] == 0.0
    assert "embedding_dropout_rate 0.1 is lost" in made.notes[-1]
    for kept in (changed(NEOX, tmp_path, embedding_dropout_rate=0.1, residual_dropout_rate=0.1), GPTJ):
        assert not [note for note in run(kept, "cs-2.9", "hf")[1].notes if "lost" in note]


def rates(section: dict[str, Any]) -> dict[str, object]:
    return {place: section[f"{place}_dropout_rate"] for place in ("embedding", "attention", "residual")}


@pytest.mark.parametrize(
    "scaling", [{"type": "dynamic", "factor": 2.0}, {"rope_type": "yarn"}, {"type": "linear", "factor": 0.5}, [2.0]]
)
def test_other_scalings_are_refused(tmp_path: Path, scaling: object) -> None:
    base = sample(tmp_path / "base", "gptneox")
    edit_config(base, rope_scaling=scaling)
    with pytest.raises(InvalidDataError) as caught:
        run(base / "config.json", "hf", "cs-2.9")
    assert "rope_scaling" in caught.value.field


def test_newer_configs_scale_in_rope_parameters(tmp_path: Path) -> None:
    base = sample(tmp_path / "base", "gptneox")
    edit_config(base, rope_parameters={"rope_type": "linear", "factor": 4, "rope_theta": 10000.0})
    assert run(base / "config.json", "hf", "cs-2.9")[0]["pos_scaling_factor"] == 4.0


def test_a_sequential_neox_is_refused_for_every_release(tmp_path: Path) -> None:
    base = sample(tmp_path / "base", "gptneox")
    edit_config(base, use_parallel_residual=False)
    for target in ("cs-1.8", "cs-2.9"):
        with pytest.raises(InvalidInputError, match="one after the other") as caught:
            run(base / "config.json", "hf", target)
        assert (caught.value.field, caught.value.value) == ("--tgt-fmt", target)


def test_keys_nobody_knows_stop_a_conversion_unless_dropped(tmp_path: Path) -> None:
    base = sample(tmp_path / "base")
    edit_config(base, quantization_config={"bits": 4}, summary_type="cls_index", _name_or_path="x", use_cache=False)
    with pytest.raises(InvalidDataError, match="quantization_config") as caught:
        run(base / "config.json", "hf", "cs-1.8")
    assert caught.value.reason == "unmatched_keys"
    _, made = run(base / "config.json", "hf", "cs-1.8", drop=True)
    assert len(made.notes) == 1
    assert made.notes[0].endswith(": quantization_config")
    odd = changed(GPTJ, tmp_path, moe_params=3)
    for target in ("hf", "cs-1.8"):
        with pytest.raises(InvalidDataError, match="moe_params"):
            run(odd, "cs-2.9", target)
        content, made = run(odd, "cs-2.9", target, drop=True)
        assert "moe_params" not in content
        assert "moe_params" in made.notes[0]


def test_keys_of_training_stay_between_releases_and_are_named_when_they_go(tmp_path: Path) -> None:
    path = changed(GPTJ, tmp_path, loss_scaling="num_tokens", fp16_type="cbfloat16", mixed_precision=True)
    section, made = run(path, "cs-2.2", "cs-2.1")
    assert (section["loss_scaling"], section["fp16_type"]) == ("num_tokens", "cbfloat16")
    assert made.notes == ("config keys dropped because cs-2.1 has no place for them: name",)
    section, made = run(path, "cs-2.2", "cs-2.9")
    assert section["loss_scaling"] == "num_tokens"
    assert section.keys().isdisjoint({"fp16_type", "mixed_precision"})
    assert made.notes == ("config keys dropped because cs-2.9 has no place for them: fp16_type, mixed_precision",)
    _, made = run(path, "cs-2.2", "hf")
    assert made.notes[0].endswith("them: fp16_type, loss_scaling, mixed_precision")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("embeddings_scale", 10.0),
        ("mup_base_hidden_size", 256),
        ("attention_module", "multiquery_attention"),
        ("pos_scaling_type", "yarn"),
        ("rope_theta", 500000),
        ("pos_scaling_factor", 2.0),
        ("name", "gpt-neox"),
    ],
)
def test_what_makes_another_model_is_named(tmp_path: Path, key: str, value: object) -> None:
    with pytest.raises(InvalidDataError, match=f"{key} is {value!r}, not"):
        run(changed(GPTJ, tmp_path, **{key: value}), "cs-2.9", "hf", model="gptj")


def test_null_stands_for_the_default(tmp_path: Path) -> None:
    path = changed(GPTJ, tmp_path, output_logits_alpha=None, norm_type=None, embeddings_scale=None)
    assert run(path, "cs-2.9", "hf")[1].architecture == run(GPTJ, "cs-2.9", "hf")[1].architecture


def test_the_norm_changes_its_key_at_2_0() -> None:
    section, family = read_section(GPTJ), family_named("gptj")
    old, _ = section_of_release({**section, "norm_type": "layernorm"}, family=family, target=FORMATS["cs-1.9"])
    assert (old.get("norm_type"), old["use_biasless_norm"]) == (None, False)
    new, _ = section_of_release(old, family=family, target=FORMATS["cs-2.0"])
    assert (new["norm_type"], new.get("use_biasless_norm")) == ("layernorm", None)


def test_the_trainer_form_is_read_too(tmp_path: Path) -> None:
    content = {"trainer": {"init": {"model": read_section(GPTJ)}}}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(content))
    assert read_section(tmp_path / "params.yaml") == read_section(GPTJ)


def test_a_headless_config_is_told_by_its_class_or_by_the_user(tmp_path: Path) -> None:
    base = sample(tmp_path / "base")
    assert run(base / "config.json", "hf", "cs-1.8")[1].family.name == "gptj"
    assert run(base / "config.json", "hf", "cs-1.8", model="gptj-headless")[1].family.name == "gptj-headless"
    edit_config(base, architectures=["GPTJModel"])
    assert run(base / "config.json", "hf", "cs-1.8")[1].family.name == "gptj-headless"
    with pytest.raises(InvalidInputError, match="of the family gptj") as caught:
        run(base / "config.json", "hf", "cs-1.8", model="gpt-neox-headless")
    assert caught.value.field == "--model"


def test_a_config_of_release_1_8_without_its_type_needs_the_model(tmp_path: Path) -> None:
    path = ASSETS / "release-1.8.0" / "config_to_cs-1.8_to_hf.json"
    assert "model_type" not in json.loads(path.read_text())
    with pytest.raises(InvalidDataError, match="model_type"):
        run(path, "hf", "cs-2.9")
    section, _ = run(path, "hf", "cs-2.9", model="gptj")
    assert section == read_section(GPTJ)


def test_an_absent_config_is_refused(tmp_path: Path) -> None:
    for source in ("hf", "cs-1.8"):
        with pytest.raises(InvalidInputError, match="cannot be read"):
            run(tmp_path / "none", source, "cs-2.9" if source == "hf" else "hf")
