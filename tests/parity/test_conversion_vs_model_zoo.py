"""Conversions compared with the files that the Cerebras Model Zoo's own converters wrote.

`release-1.8.0` is the output of that release's converter for `hf_ckpt/gptj_v512`; `neox_par_to_cs-2.9.json` holds the
digests of the tensors that release 2.10.0 wrote for `hf_ckpt/neox_par` (the same for all its formats).
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from regraft.ports import NullProgress
from regraft.specs.stages import ConvertTask, ExportTask
from regraft.storage import local_path
from regraft_worker.conversion import export as export_module
from regraft_worker.conversion import hf, mapping
from regraft_worker.conversion.bits import digest, same_bits
from regraft_worker.conversion.containers import open_container
from regraft_worker.conversion.convert import convert
from regraft_worker.conversion.export import export
from regraft_worker.conversion.lazy import Lazy, of_tensor
from regraft_worker.conversion.transfer import transfer

ASSETS = Path(__file__).parents[1] / "assets" / "modelzoo"
GOLDENS = Path(os.environ.get("REGRAFT_GOLDENS", "unset"))
MODEL, CONFIG = "pytorch_model_to_cs-1.8.mdl", "config_to_cs-1.8.yaml"
State = dict[str, torch.Tensor]
UNPROVEN = {"verified": False, "logits": {"max_abs_difference": None}}


def exported(name: str, folder: Path) -> Path:
    task = ExportTask(checkpoint_uri=str(ASSETS / "hf_ckpt" / name), formats=("cs-1.8",), output_uri=str(folder))
    return local_path(export(task, transformers_share=0.0).artifacts["cs-1.8"])


def converted(path: Path, folder: Path) -> State:
    result = convert(ConvertTask(checkpoint_uri=str(path), output_uri=str(folder)), transformers_share=0.0)
    with hf.open_folder(local_path(result.uri)) as side:
        return {name: lazy.whole().clone() for name, lazy in side.tensors.items()}


def assert_same(ours: State, theirs: State) -> None:
    assert ours.keys() == theirs.keys()
    assert [name for name in theirs if not same_bits(ours[name], theirs[name])] == []


def state_of(path: Path) -> State:
    content = torch.load(path, weights_only=True)
    assert list(content) == ["model"]
    return dict(content["model"])


def digests(state: State) -> dict[str, str]:
    return {name: hashlib.sha256(tensor.numpy().tobytes()).hexdigest() for name, tensor in state.items()}


def neox_record() -> dict[str, dict[str, object]]:
    record = json.loads((ASSETS / "convert" / "neox_par_to_cs-2.9.json").read_text())
    return dict(record["tensors"])


def test_gptj_to_cs_is_what_release_1_8_writes(tmp_path: Path) -> None:
    folder = exported("gptj_v512", tmp_path)
    ours, theirs = state_of(folder / MODEL), state_of(ASSETS / "release-1.8.0" / MODEL)
    assert len(theirs) == 27
    assert_same(ours, theirs)
    for name in ("ln_f.weight", "ln_f.bias"):  # stored once under two names, there and here
        twin = name.replace("ln_f", "transformer_decoder.norm")
        assert theirs[name].data_ptr() == theirs[twin].data_ptr()
        assert ours[name].data_ptr() == ours[twin].data_ptr()


def test_the_gptj_config_is_release_1_8s_letter_for_letter(tmp_path: Path) -> None:
    ours = (exported("gptj_v512", tmp_path) / CONFIG).read_bytes()
    assert ours == (ASSETS / "release-1.8.0" / CONFIG).read_bytes()


def test_release_1_8s_own_file_reads_back_as_the_hugging_face_tensors(tmp_path: Path) -> None:
    for name in (MODEL, CONFIG):
        shutil.copyfile(ASSETS / "release-1.8.0" / name, tmp_path / name)
    theirs = load_file(ASSETS / "hf_ckpt" / "gptj_v512" / "model.safetensors")
    assert_same(converted(tmp_path / MODEL, tmp_path / "out"), theirs)


def test_neox_to_cs_has_the_recorded_digests(tmp_path: Path) -> None:
    state = state_of(exported("neox_par", tmp_path) / MODEL)
    recorded = neox_record()
    assert {name: list(tensor.shape) for name, tensor in state.items()} == {
        name: entry["shape"] for name, entry in recorded.items()
    }
    assert digests(state) == {name: entry["sha256"] for name, entry in recorded.items()}


def test_without_the_rotary_permutation_exactly_q_and_k_would_differ(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mapping, "_interleaving", lambda architecture: torch.arange(architecture.head_dim))
    monkeypatch.setattr(export_module, "prove", lambda *args, **options: UNPROVEN)  # which would not let it pass
    found = digests(state_of(exported("neox_par", tmp_path) / MODEL))
    wrong = {name for name, entry in neox_record().items() if entry["sha256"] != found[name]}
    assert wrong == {
        f"transformer_decoder.layers.{layer}.self_attn.proj_{part}_dense_layer.{suffix}"
        for layer in range(2)
        for part in "qk"
        for suffix in ("weight", "bias")
    }


@pytest.mark.parametrize("name", ["gptj_v512", "neox_par"])
def test_hugging_face_to_cerebras_and_back_is_exact(tmp_path: Path, name: str) -> None:
    folder = exported(name, tmp_path)
    theirs = load_file(ASSETS / "hf_ckpt" / name / "model.safetensors")
    assert_same(converted(folder / MODEL, tmp_path / "back"), theirs)


@pytest.mark.skipif(not GOLDENS.is_dir(), reason="REGRAFT_GOLDENS names no folder of reference outputs")
@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("cs_ckpt/gptj_v512_cs-2.9", "gptj_v512"),
        ("cs_ckpt/gptj_v512_cs-1.8", "gptj_v512"),
        ("cs_ckpt/neox_par_cs-2.9", "neox_par"),
        ("release-1.8.0/pytorch_model_to_cs-1.8.mdl", "gptj_v512"),
        ("hf_ckpt/gptj_v512_bin", "gptj_v512"),
        ("hf_ckpt/gptj_v512_bin/pytorch_model.bin", "gptj_v512"),
    ],
)
def test_what_the_model_zoo_wrote_is_a_base_for_a_job(tmp_path: Path, given: str, expected: str) -> None:
    theirs = load_file(ASSETS / "hf_ckpt" / expected / "model.safetensors")
    assert_same(converted(GOLDENS / given, tmp_path / "out"), theirs)


@pytest.mark.skipif(not GOLDENS.is_dir(), reason="REGRAFT_GOLDENS names no folder of reference outputs")
@pytest.mark.parametrize("given", ["train/checkpoint_20.mdl", "release-1.8.0/trained_checkpoint_10.mdl"])
def test_what_the_model_zoo_trained_is_a_base_for_a_job(tmp_path: Path, given: str) -> None:
    shutil.copyfile(GOLDENS / given, tmp_path / "checkpoint.mdl")
    shutil.copyfile(ASSETS / "release-1.8.0" / CONFIG, tmp_path / "checkpoint.yaml")
    ours = converted(tmp_path / "checkpoint.mdl", tmp_path / "out")
    untrained = load_file(ASSETS / "hf_ckpt" / "gptj_v512" / "model.safetensors")
    assert {name: tensor.shape for name, tensor in ours.items()} == {n: t.shape for n, t in untrained.items()}
    assert not any(same_bits(ours[name], untrained[name]) for name in ours if name.endswith("proj.weight"))


def record_of(model: str, target: str) -> dict[str, Any]:
    """What the Model Zoo's converter made from Hugging Face."""
    found = json.loads((GOLDENS / "convert" / "records.json").read_text())
    (record,) = [entry for entry in found if (entry["model"], entry["src"], entry["tgt"]) == (model, "hf", target)]
    return dict(record)


def described(tensors: Mapping[str, Lazy]) -> dict[str, dict[str, object]]:
    """As the records describe a tensor, under their names."""
    return {
        name.replace(".", "/", 1): {"shape": list(lazy.shape), "dtype": str(lazy.dtype), "sha256": digest(lazy)}
        for name, lazy in tensors.items()
    }


@pytest.mark.skipif(not GOLDENS.is_dir(), reason="REGRAFT_GOLDENS names no folder of reference outputs")
@pytest.mark.parametrize(
    ("model", "target"),
    [
        *(("gptj", f"cs-2.{minor}") for minor in range(10)),
        *(("gpt-neox", f"cs-2.{minor}") for minor in range(1, 10)),  # the tool has none to 2.0
    ],
)
def test_names_shapes_types_and_digests_are_those_of_the_record(tmp_path: Path, model: str, target: str) -> None:
    record, h5 = record_of(model, target), target >= "cs-2.6"
    source = ASSETS / "hf_ckpt" / ("gptj_v512" if model == "gptj" else "neox_par")
    made = transfer(
        source,
        config=source / "config.json",
        model=model,
        src_fmt="hf",
        tgt_fmt=target,
        output_dir=tmp_path,
        drop_unmatched_keys=False,
        hf_shard_size=2**30,
        export_safetensors=False,
        export_h5=h5,
        progress=NullProgress(),
        transformers_share=0.0,
    )
    assert (made.checkpoint.name, made.config.name) == (Path(record["out_ckpt"]).name, Path(record["out_cfg"]).name)
    assert made.config.read_text() == record["config"]
    with open_container(made.checkpoint) as container:
        assert container.encoding == ("hdf5-0.5" if h5 else "torch-zip")
        assert described(container.tensors) == record["tensors"]
        # One other bit in one tensor, or its rows in another order, would be seen.
        name = "model.transformer_decoder.layers.1.self_attn.proj_k_dense_layer.weight"
        whole = container.tensors[name].whole()
    changed = whole.clone()
    changed.view(torch.int32)[0, 0] ^= 1
    for wrong in (changed, whole.flip(0)):
        ((key, found),) = described({name: of_tensor(name, wrong)}).items()
        assert found != record["tensors"][key]
