"""The export stage: formats, model card, and what it refuses."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from convert_samples import Recorder, assert_same, published, tensors_of
from convert_samples import run as run_convert
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoModelForCausalLM
from typer.testing import CliRunner

from regraft.errors import ConflictError, InterruptedStageError, InvalidDataError, InvalidInputError
from regraft.families import family_named
from regraft.formats import FORMAT_NAMES
from regraft.specs.stages import ExportResult, ExportTask
from regraft.storage import file_sha256, is_published, local_path, publish, read_manifest
from regraft_worker.cli_convert import export as export_command
from regraft_worker.conversion import export as export_module
from regraft_worker.conversion import hf
from regraft_worker.conversion.export import cs_outputs, export
from regraft_worker.conversion.formats import FORMATS
from regraft_worker.conversion.lazy import Lazy
from regraft_worker.conversion.mapping import Mapped
from regraft_worker.conversion.model_card import model_card
from regraft_worker.sample import write_sample_checkpoint

ASSETS = Path(__file__).parents[2] / "assets" / "modelzoo"
HEADS = ("lm_head.", "embed_out.")
PROVENANCE: dict[str, object] = {
    "name": "gptj-trc2",
    "base_model": "EleutherAI/gpt-j-6b",
    "datasets": ["file:///data/trc2"],
    "training": {"max_steps": 25, "evaluation": {"perplexity": 12.5}},
}


@pytest.fixture(params=["gptj", "gptneox"])
def trained(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return sample(tmp_path / "step-00000010", request.param)


def sample(folder: Path, family: str = "gptj", seed: int = 0) -> Path:
    text = folder.parent / "text.txt"
    text.write_text("one small corpus, two small corpora\n" * 20)
    write_sample_checkpoint(
        folder,
        family=family,  # type: ignore[arg-type]
        tokenizer_text=text,
        vocab_size=300,
        hidden_size=16,
        num_heads=2,
        max_position_embeddings=16,
        seed=seed,
    )
    (folder / "training_state").mkdir()
    (folder / "training_state" / "optimizer.pt").write_bytes(b"moments")
    return folder


def run(
    checkpoint: Path, output: Path, *formats: str, progress: Recorder | None = None, **options: object
) -> ExportResult:
    task = ExportTask(
        checkpoint_uri=str(checkpoint),
        formats=formats,  # type: ignore[arg-type]
        output_uri=str(output),
        provenance=PROVENANCE,
        **options,  # type: ignore[arg-type]
    )
    return export(task, progress, transformers_share=0.0)


def test_every_format_is_published_and_reported(trained: Path, tmp_path: Path) -> None:
    progress = Recorder()
    result = run(trained, tmp_path / "out", "hf", "cs-1.8", progress=progress)
    assert list(result.artifacts) == ["hf", "cs-1.8"]
    for name, uri in result.artifacts.items():
        assert local_path(uri) == tmp_path / "out" / name
        assert is_published(local_path(uri))
    assert progress.artifacts == [("export", uri, {"format": name}) for name, uri in result.artifacts.items()]
    nbytes = sum(tensor.nbytes for tensor in load_file(trained / "model.safetensors").values())
    assert progress.steps[-1] == ((2 + 3 * 2) * nbytes,) * 2


def test_the_hugging_face_export_is_the_model_without_its_training_state(trained: Path, tmp_path: Path) -> None:
    folder = local_path(run(trained, tmp_path / "out", "hf").artifacts["hf"])
    assert sorted(path.name for path in folder.iterdir()) == [
        "README.md",
        "config.json",
        "generation_config.json",
        "manifest.json",
        "model.safetensors",
        "special_tokens_map.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "verification.json",
    ]
    assert_same(load_file(folder / "model.safetensors"), load_file(trained / "model.safetensors"))
    assert file_sha256(folder / "tokenizer.json") == file_sha256(trained / "tokenizer.json")


def test_a_headless_export_is_the_bare_model_and_another_export(trained: Path, tmp_path: Path) -> None:
    folder = local_path(run(trained, tmp_path / "out", "hf", "cs-1.8", headless=True).artifacts["hf"])
    whole = load_file(trained / "model.safetensors")
    bare = {name.partition(".")[2]: tensor for name, tensor in whole.items() if not name.startswith(HEADS)}
    assert_same(load_file(folder / "model.safetensors"), bare)
    config = hf.load_config(folder)
    assert config["architectures"] == [{"gptj": "GPTJModel", "gpt_neox": "GPTNeoXModel"}[str(config["model_type"])]]
    assert "model = AutoModel.from_pretrained(folder)" in (folder / "README.md").read_text()
    model, found = AutoModel.from_pretrained(folder, output_loading_info=True)
    assert not any(found.values())
    full = AutoModelForCausalLM.from_pretrained(trained)
    ids = torch.arange(16)[None]
    with torch.no_grad():
        expected = full(ids, output_hidden_states=True).hidden_states[-1]
        assert torch.equal(model(ids).last_hidden_state, expected)
    cs_state = torch.load(tmp_path / "out" / "cs-1.8" / "pytorch_model_to_cs-1.8.mdl")["model"]
    assert "lm_head.weight" in cs_state  # as every .mdl
    with pytest.raises(ConflictError):
        run(trained, tmp_path / "out", "hf")


def test_a_headless_export_with_one_other_bit_is_not_published(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = hf.write_checkpoint

    def flipped(folder: Path, *words: Any, **named: Any) -> dict[str, str]:
        written = real(folder, *words, **named)
        content = bytearray((folder / "model.safetensors").read_bytes())
        content[-4] ^= 1
        (folder / "model.safetensors").write_bytes(content)
        return written

    monkeypatch.setattr(hf, "write_checkpoint", flipped)
    with pytest.raises(InvalidDataError) as caught:
        run(trained, tmp_path / "out", "hf", headless=True)
    assert caught.value.reason == "conversion_not_exact"
    assert published(tmp_path / "out") == []


@pytest.mark.parametrize("name", [name for name in FORMAT_NAMES if name != "hf"])
def test_a_cerebras_export_reads_back_as_the_model(trained: Path, tmp_path: Path, name: str) -> None:
    folder = local_path(run(trained, tmp_path / "out", name).artifacts[name])
    outputs = cs_outputs(folder, FORMATS[name])
    assert (outputs.checkpoint.name, outputs.config.name) == (f"pytorch_model_to_{name}.mdl", f"config_to_{name}.yaml")
    assert {outputs.checkpoint.name, outputs.config.name, "tokenizer.json", "verification.json"} <= {
        path.name for path in folder.iterdir()
    }
    assert not [path for path in folder.iterdir() if path.is_dir()]
    assert outputs.checkpoint.read_bytes()[:4] == (b"\x89HDF" if name == "cs-2.9" else b"PK\x03\x04")
    back = run_convert(outputs.checkpoint, tmp_path / "back")
    assert_same(tensors_of(local_path(back.uri)), load_file(trained / "model.safetensors"))


def test_a_large_export_is_sharded_as_asked(trained: Path, tmp_path: Path) -> None:
    folder = local_path(run(trained, tmp_path / "out", "hf", max_shard_bytes=20_000).artifacts["hf"])
    assert len(list(folder.glob("model-*-of-*.safetensors"))) > 1
    assert_same(tensors_of(folder), load_file(trained / "model.safetensors"))


def test_exports_name_their_parent(tmp_path: Path) -> None:
    base = sample(tmp_path / "base")
    converted = run_convert(base, tmp_path / "checkpoints")
    result = run(local_path(converted.uri), tmp_path / "out", "hf")
    manifest = read_manifest(local_path(result.artifacts["hf"]))
    assert manifest is not None
    assert (manifest.kind, manifest.address) == ("export", "hf")
    assert manifest.parents == {"checkpoint": converted.address}
    assert manifest.made_by["provenance"] == PROVENANCE
    assert (manifest.summary["format"], manifest.summary["verified"]) == ("hf", True)


def test_a_retry_keeps_what_is_there(tmp_path: Path) -> None:
    checkpoint = sample(tmp_path / "a")
    folder = local_path(run(checkpoint, tmp_path / "out", "hf").artifacts["hf"])
    stamp = (folder / "model.safetensors").stat().st_mtime_ns
    result = run(checkpoint, tmp_path / "out", "hf", "cs-1.8")
    assert (folder / "model.safetensors").stat().st_mtime_ns == stamp
    assert is_published(local_path(result.artifacts["cs-1.8"]))


def test_an_export_of_other_weights_is_not_replaced(tmp_path: Path) -> None:
    run(sample(tmp_path / "a"), tmp_path / "out", "hf")
    before = file_sha256(tmp_path / "out" / "hf" / "model.safetensors")
    with pytest.raises(ConflictError) as caught:
        run(sample(tmp_path / "b", seed=1), tmp_path / "out", "hf")
    assert caught.value.reason == "export_exists"
    assert file_sha256(tmp_path / "out" / "hf" / "model.safetensors") == before


def test_a_sequential_neox_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    checkpoint = sample(tmp_path / "a", "gptneox")
    config = hf.load_config(checkpoint)
    (checkpoint / "config.json").write_text(json.dumps({**config, "use_parallel_residual": False}))
    with pytest.raises(InvalidInputError, match="one after the other") as caught:
        run(checkpoint, tmp_path / "out", "hf", "cs-1.8")
    assert caught.value.reason == "not_expressible_in_cs"
    assert not (tmp_path / "out").exists()
    assert list(run(checkpoint, tmp_path / "out", "hf").artifacts) == ["hf"]


def test_weights_that_are_not_finite_are_not_exported(tmp_path: Path) -> None:
    checkpoint = sample(tmp_path / "a")
    bad = load_file(checkpoint / "model.safetensors")
    bad["lm_head.bias"][4] = float("nan")
    save_file(bad, checkpoint / "model.safetensors")
    with pytest.raises(InvalidDataError, match=r"1 of 300 values of 'lm_head.bias'"):
        run(checkpoint, tmp_path / "out", "cs-1.8")
    assert not (tmp_path / "out").exists()


def test_a_checkpoint_damaged_since_it_was_published_is_refused(tmp_path: Path) -> None:
    with publish(tmp_path / "step-00000010", kind="checkpoint") as draft:
        write_sample_checkpoint(draft.folder, family="gptj", vocab_size=300, hidden_size=16, num_heads=2)
    path = tmp_path / "step-00000010" / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(InvalidDataError) as caught:
        run(path.parent, tmp_path / "out", "hf")
    assert (caught.value.reason, caught.value.value) == ("corrupt_artifact", str(path))


@pytest.mark.parametrize("name", ["hf", "cs-1.8", "cs-2.9"])
def test_an_export_that_reads_back_otherwise_is_not_published(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """A writer that negates one tensor is planted."""
    victims = ("lm_head.weight", "embed_out.weight")

    def negated(tensors: list[Lazy]) -> list[Lazy]:
        return [
            replace(lazy, read_rows=lambda start, stop, lazy=lazy: -lazy.read_rows(start, stop))
            if lazy.name in victims
            else lazy
            for lazy in tensors
        ]

    write_hf, write_cs = hf.write_checkpoint, export_module.write_cs

    def wrong_hf(folder: Path, tensors: list[Lazy], **options: object) -> None:
        write_hf(folder, negated(tensors), **options)  # type: ignore[arg-type]

    def wrong_cs(path: Path, mapped: Mapped, *args: object, **options: object) -> None:
        write_cs(path, mapped._replace(tensors=negated(mapped.tensors)), *args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(hf, "write_checkpoint", wrong_hf)
    monkeypatch.setattr(export_module, "write_cs", wrong_cs)
    with pytest.raises(InvalidDataError, match="was read back with other values") as caught:
        run(trained, tmp_path / "out", name)
    assert caught.value.value in victims
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("looks", [0, 30, 70, 120, 160, 200])
def test_a_stop_leaves_only_whole_exports(tmp_path: Path, looks: int) -> None:
    with pytest.raises(InterruptedStageError):
        run(sample(tmp_path / "a"), tmp_path / "out", "hf", "cs-1.8", progress=Recorder(looks=looks))
    left = published(tmp_path / "out")
    assert all(is_published(folder) for folder in left)
    assert [folder.name for folder in left] == (["hf"] if looks > 130 else [])


def card(provenance: dict[str, object]) -> tuple[dict[str, object], str]:
    family = family_named("gptj")
    config: dict[str, object] = {"n_embd": 64, "n_head": 4, "n_layer": 2, "rotary_dim": 8, "dtype": "bfloat16"}
    text = model_card(config, family, family.read_config(config), provenance)
    _, front, body = text.split("---\n", 2)
    return yaml.safe_load(front), body


def test_the_model_card_says_what_is_known() -> None:
    front, body = card(PROVENANCE)
    assert front == {
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["gptj", "continued-pretraining", "regraft"],
        "base_model": "EleutherAI/gpt-j-6b",
        "datasets": ["trc2"],
    }
    assert "# gptj-trc2" in body
    assert "| stored as | bfloat16 |" in body
    assert yaml.safe_load(body.split("```yaml\n")[1].split("```")[0]) == PROVENANCE


def test_the_model_card_is_silent_about_what_is_not_known() -> None:
    front, body = card({})
    assert "base_model" not in front
    assert "datasets" not in front
    assert "Provenance" not in body
    assert "needed" not in body.lower()
    assert card({"base_model": "file:///", "datasets": [3, None]})[0].keys() == front.keys()


def test_a_name_cannot_break_out_of_the_front_matter() -> None:
    front, _ = card({"base_model": "x\nlicense: mit", "datasets": "a: b\n---\n"})
    assert front.keys() == {"library_name", "pipeline_tag", "tags"}


def test_the_command_line_exports_each_format_once(tmp_path: Path) -> None:
    import typer

    app = typer.Typer()
    app.command()(export_command)
    options = ["--checkpoint", str(sample(tmp_path / "a")), "--output-dir", str(tmp_path / "out")]
    formats = ["--format", "hf", "--format", "cs-1.8", "--format", "hf"]
    result = CliRunner().invoke(app, [*options, *formats], catch_exceptions=False)
    assert [line.split()[0] for line in result.output.splitlines()] == ["hf", "cs-1.8"]
    with pytest.raises(InvalidInputError, match=r"Use one of: hf, cs-1\.7, cs-1\.8"):
        CliRunner().invoke(app, [*options, "--format", "cs-3.0"], catch_exceptions=False)
