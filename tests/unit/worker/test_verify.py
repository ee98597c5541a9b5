"""The proof of a conversion: what it measures, that planted mistakes fail it, and that nothing goes without it."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from convert_commands import convert
from convert_samples import Recorder, edit_config, edit_weights, run, sample, tensors_of

from regraft.errors import InvalidDataError, InvalidInputError
from regraft.families import Architecture
from regraft.ports import NullProgress
from regraft.specs.stages import ExportTask
from regraft.storage import local_path, publish, read_manifest
from regraft_worker.conversion import export as export_module
from regraft_worker.conversion import hf, in_transformers, mapping, streamed
from regraft_worker.conversion.export import cs_outputs, export
from regraft_worker.conversion.files_digest import FilesDigest
from regraft_worker.conversion.formats import FORMATS
from regraft_worker.conversion.in_transformers import compare_with_transformers
from regraft_worker.conversion.lazy import Lazy
from regraft_worker.conversion.parity import TOLERANCE, Output, batch, compare_outputs, output_of, run_side
from regraft_worker.conversion.source import open_source
from regraft_worker.conversion.verify import Steps, read_through
from regraft_worker.trainer.weights import describe, load_model


@pytest.fixture(params=["gptj", "gptneox"])
def base(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return sample(tmp_path / "base", request.param, std=0.3, hidden_size=32, num_heads=2)


def write(base: Path, folder: Path, name: str) -> Path:
    task = ExportTask(checkpoint_uri=str(base), formats=(name,), output_uri=str(folder))  # type: ignore[arg-type]
    return local_path(export(task, transformers_share=0.0).artifacts[name])


def facts_of(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "verification.json").read_text()))


@pytest.mark.parametrize("way", ["from hf", "from cs-1.8", "to hf", "to cs-1.8", "to cs-2.9"])
def test_the_proof_is_kept_with_the_artifact(base: Path, tmp_path: Path, way: str) -> None:
    direction, name = way.split()
    if direction == "to":
        folder = write(base, tmp_path / "out", name)
    else:
        given = base if name == "hf" else cs_outputs(write(base, tmp_path / "cs", name), FORMATS[name]).checkpoint
        folder = local_path(run(given, tmp_path / "out").uri)
    facts, manifest = facts_of(folder), read_manifest(folder)
    assert manifest is not None
    assert "verification.json" in {entry.path for entry in manifest.files}
    assert facts["verified"] is manifest.summary["verified"] is True
    logits = facts["logits"]
    assert manifest.summary["logits_differ_by"] == logits["max_abs_difference"] <= TOLERANCE * logits["largest_logit"]
    assert logits["batch"] == [2, 16]
    assert math.isclose(logits["loss"]["source"], logits["loss"]["result"], abs_tol=TOLERANCE)
    if way != "from cs-1.8":
        expected = {n: hashlib.sha256(t.numpy().tobytes()).hexdigest() for n, t in tensors_of(base).items()}
        assert facts["tensors"]["sha256"] == expected


WRONG: list[Callable[[Architecture], torch.Tensor]] = [
    lambda made: torch.arange(made.head_dim),
    lambda made: torch.cat([torch.arange(4).reshape(2, 2).flip(0).T.reshape(-1), torch.arange(4, made.head_dim)]),
    lambda made: torch.arange(made.head_dim).roll(1),
]


@pytest.mark.parametrize("wrong", WRONG)
def test_rotary_rows_in_the_wrong_order_fail_the_proof_in_both_directions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wrong: Callable[[Architecture], torch.Tensor]
) -> None:
    """The round trip alone would not notice: what goes there wrongly comes back."""
    base = sample(tmp_path / "base", "gptneox", std=0.3, hidden_size=32, num_heads=2)
    path = cs_outputs(write(base, tmp_path / "cs", "cs-1.8"), FORMATS["cs-1.8"]).checkpoint
    right = mapping._interleaving
    monkeypatch.setattr(mapping, "_interleaving", lambda made: right(made) if made.rotary_interleaved else wrong(made))
    attempts = (
        lambda: run(path, tmp_path / "out"),
        lambda: write(base, tmp_path / "out", "cs-2.9"),
        lambda: convert(base, "hf", "cs-1.8", tmp_path / "out"),
        lambda: convert(path, "cs-1.8", "hf", tmp_path / "out"),
    )
    for attempt in attempts:
        with pytest.raises(InvalidDataError, match="compute different logits") as caught:
            attempt()
        assert caught.value.reason == "conversion_not_equivalent"
    assert list((tmp_path / "out").iterdir()) == []


def test_a_config_that_speaks_of_another_model_fails_the_proof(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    section_of = export_module.model_section
    monkeypatch.setattr(
        export_module, "model_section", lambda *args, **options: {**section_of(*args, **options), "rotary_dim": 2}
    )
    with pytest.raises(InvalidDataError, match="does not describe the same model"):
        write(base, tmp_path / "out", "cs-1.8")
    assert list((tmp_path / "out").iterdir()) == []


def test_the_same_bytes_as_another_type_fail_the_proof(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = sample(tmp_path / "base")
    edit_weights(base, **{name: tensor.half() for name, tensor in tensors_of(base).items()})
    write_right = hf.write_checkpoint

    def relabelled(lazy: Lazy) -> Lazy:
        return replace(
            lazy,
            dtype=torch.bfloat16,
            read_rows=lambda start, stop: lazy.read_rows(start, stop).contiguous().view(torch.bfloat16),
        )

    def wrong(folder: Path, tensors: list[Lazy], **options: Any) -> None:
        write_right(folder, [relabelled(lazy) for lazy in tensors], **options)

    monkeypatch.setattr(hf, "write_checkpoint", wrong)
    with pytest.raises(InvalidDataError, match="another type or shape") as caught:
        run(base, tmp_path / "out")
    assert caught.value.reason == "conversion_not_exact"


@pytest.mark.parametrize("block_bytes", [1, 1000, 2**20])
@pytest.mark.parametrize("tied", [True, False])
def test_the_streamed_decoder_computes_what_the_decoder_computes(
    base: Path, monkeypatch: pytest.MonkeyPatch, block_bytes: int, tied: bool
) -> None:
    monkeypatch.setattr(streamed, "_BLOCK_BYTES", block_bytes)
    if tied:
        head, embedding = (
            ("lm_head", "transformer.wte") if "wte" in str(tensors_of(base)) else ("embed_out", "gpt_neox.embed_in")
        )
        edit_weights(base, **{f"{head}.weight": tensors_of(base)[f"{embedding}.weight"].clone()})
        edit_config(base, tie_word_embeddings=True)
    counted: list[int] = []
    with hf.open_folder(base) as side:
        found = run_side(side, counted.append)
        ids = batch(side.architecture)
        shared = side.tensors[embedding + ".weight"].nbytes if tied else 0
        assert sum(counted) == side.nbytes + shared  # every tensor once, a tied embedding twice
    model = load_model(base, describe(base), device="cpu")
    with torch.no_grad():
        expected = output_of(ids, model.logits(model(ids)))
    compare_outputs(expected, found)
    with pytest.raises(InvalidDataError):
        compare_outputs(expected, found._replace(logits=found.logits + 3e-5 * expected.logits.abs().max()))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_logits_that_are_no_numbers_prove_nothing(value: float) -> None:
    ids = torch.zeros(1, 2, dtype=torch.int64)
    broken = Output(ids, torch.full((1, 2, 3), value), 1.0)
    with pytest.raises(InvalidDataError):
        compare_outputs(broken, broken)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_one_value_that_is_not_finite_is_found_in_any_dtype(tmp_path: Path, dtype: torch.dtype, value: float) -> None:
    base = sample(tmp_path / "base")
    name = "transformer.h.1.mlp.fc_in.weight"
    whole = {n: t.to(dtype) for n, t in tensors_of(base).items()}
    edit_weights(base, **whole)
    with open_source(base) as source:
        read_through(source, Steps(NullProgress(), total=1))
    bad = whole[name].clone()
    bad[-1, -1] = value
    edit_weights(base, **{name: bad})
    with pytest.raises(InvalidDataError, match=f"1 of 1024 values of '{name}'"), open_source(base) as source:
        read_through(source, Steps(NullProgress(), total=1))


def test_digests_are_those_of_the_files_and_of_the_tensors(base: Path) -> None:
    progress = Recorder()
    with open_source(base) as source:
        found = read_through(source, Steps(progress, total=source.side.nbytes))
        assert {path.name for path in source.files} == {"config.json", "generation_config.json", "model.safetensors"}
    for name, digest in found.files.items():
        assert digest == hashlib.sha256((base / name).read_bytes()).hexdigest()
    assert found.tensors == {n: hashlib.sha256(t.numpy().tobytes()).hexdigest() for n, t in tensors_of(base).items()}
    assert progress.steps[-1][0] == progress.steps[-1][1]


def test_files_are_hashed_in_any_steps(tmp_path: Path) -> None:
    contents = {"a": b"x" * 10_007, "b": b"", "c": b"y" * 3}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    for step in (1, 999, 10_007, 10_008, 50_000):
        with FilesDigest([tmp_path / name for name in contents]) as digest:
            for _ in range(3):
                digest.go_on(step)()
            found = digest.finish(lambda: None)
        assert found == {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}


def output_for(folder: Path) -> Output:
    with hf.open_folder(folder) as side:
        return run_side(side, lambda count: None)


def ask(folder: Path | None, output: Output, **options: Any) -> dict[str, object]:
    return compare_with_transformers(
        folder, output, **{"parameters": 9, "share": 0.25, "check": lambda: None, **options}
    )


def test_transformers_agrees_and_is_heard_when_it_does_not(base: Path, tmp_path: Path) -> None:
    facts = ask(base, output_for(base))
    assert "transformers" in str(facts["compared"])
    assert 0 < float(str(facts["max_abs_difference"])) < 1e-4 * float(str(facts["largest_logit"]))
    other = sample(
        tmp_path / "other",
        json.loads((base / "config.json").read_text())["model_type"].replace("_", ""),
        std=0.3,
        hidden_size=32,
        num_heads=2,
        seed=1,
    )
    with pytest.raises(InvalidDataError, match="result and transformers compute different logits"):
        ask(other, output_for(base))


@pytest.mark.parametrize(
    ("planted", "found"),
    [({"n_layer": 3}, "missing keys: transformer.h.2."), ({"vocab_size": 600}, "mismatched keys: lm_head.bias, ")],
)
def test_tensors_that_transformers_misses_or_cannot_place_fail_the_proof(
    tmp_path: Path, planted: dict[str, object], found: str
) -> None:
    base = sample(tmp_path / "base")
    output = output_for(base)
    edit_config(base, **planted)
    with pytest.raises(InvalidDataError, match=f"finds other tensors in the model: {found}"):
        ask(base, output)


def test_what_transformers_cannot_be_asked_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = sample(tmp_path / "base")
    output = output_for(base)
    assert "no Hugging Face folder" in str(ask(None, output)["not_compared"])
    assert str(ask(base, output, parameters=10**12)["not_compared"]).startswith("the model needs 8000000000000 bytes")
    assert "are allowed" in str(ask(base, output, share=1e-15)["not_compared"])
    assert ask(base, output, share=0.0) == {"not_compared": "it was left out on request"}
    with pytest.raises(InvalidDataError, match="fails with the model") as caught:
        (base / "model.safetensors").write_bytes(b"none")
        ask(base, output)
    assert caught.value.reason == "conversion_not_equivalent"
    monkeypatch.setattr(in_transformers, "_SECONDS", 0.5)
    assert str(ask(base, output)["not_compared"]).startswith("did not answer (status -9): it took more than 0.5 sec")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "transformers.py").write_text("raise ValueError('half an installation')")
    monkeypatch.setattr(in_transformers, "_SECONDS", 60)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "broken"))
    assert ask(base, output) == {"not_compared": "did not answer (status 1): ValueError: half an installation"}

    def missing(name: str) -> str:
        raise in_transformers.PackageNotFoundError(name)

    monkeypatch.setattr(in_transformers, "version", missing)
    assert ask(base, output) == {"not_compared": "transformers is not installed"}


def test_a_base_checkpoint_that_was_not_verified_is_not_trained_from(tmp_path: Path) -> None:
    for verified in (True, False):
        with publish(tmp_path / str(verified), kind="checkpoint") as draft:
            sample(draft.folder)
            draft.summary = {"verified": verified}
    describe(tmp_path / "True")
    describe(sample(tmp_path / "the user's own"))
    with pytest.raises(InvalidDataError) as caught:
        describe(tmp_path / "False")
    assert caught.value.reason == "checkpoint_not_verified"


def test_a_scaled_rotary_embedding_goes_where_it_can(tmp_path: Path) -> None:
    base = sample(tmp_path / "base", "gptneox", std=0.3)
    edit_config(base, rope_scaling={"type": "linear", "factor": 2.0})
    with pytest.raises(InvalidInputError, match=r"releases before 2\.1"):
        write(base, tmp_path / "out", "cs-2.0")
    folder = write(base, tmp_path / "out", "cs-2.1")
    assert facts_of(folder)["verified"]
    with open_source(folder) as source:
        assert source.architecture.rope_scaling_factor == 2.0
