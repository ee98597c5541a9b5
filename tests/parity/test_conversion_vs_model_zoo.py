"""Conversions compared with the files that the Cerebras Model Zoo's own converters wrote.

`release-1.8.0` is the output of that release's converter for `hf_ckpt/gptj_v512`; `neox_par_to_cs-2.9.json` holds the
digests of the tensors that release 2.10.0 wrote for `hf_ckpt/neox_par` (the same for all its formats).
"""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from regraft.specs.stages import ConvertTask, ExportTask
from regraft.storage import local_path
from regraft_worker.conversion import cs, hf, tensors
from regraft_worker.conversion.convert import convert
from regraft_worker.conversion.export import export
from regraft_worker.conversion.tensors import same_bits

ASSETS = Path(__file__).parents[1] / "assets" / "modelzoo"
State = dict[str, torch.Tensor]


def exported(name: str, folder: Path) -> Path:
    task = ExportTask(checkpoint_uri=str(ASSETS / "hf_ckpt" / name), formats=("cs-1.8",), output_uri=str(folder))
    return local_path(export(task).artifacts["cs-1.8"])


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
    ours, theirs = state_of(folder / cs.MODEL_FILE), state_of(ASSETS / "release-1.8.0" / cs.MODEL_FILE)
    assert len(theirs) == 27
    assert ours.keys() == theirs.keys()
    assert [name for name in theirs if not same_bits(ours[name], theirs[name])] == []
    for name in ("ln_f.weight", "ln_f.bias"):  # stored once under two names, there and here
        twin = name.replace("ln_f", "transformer_decoder.norm")
        assert theirs[name].data_ptr() == theirs[twin].data_ptr()
        assert ours[name].data_ptr() == ours[twin].data_ptr()


def test_the_gptj_config_is_release_1_8s_letter_for_letter(tmp_path: Path) -> None:
    ours = (exported("gptj_v512", tmp_path) / cs.CONFIG_FILE).read_bytes()
    assert ours == (ASSETS / "release-1.8.0" / cs.CONFIG_FILE).read_bytes()


def test_release_1_8s_own_file_reads_back_as_the_hugging_face_tensors(tmp_path: Path) -> None:
    for name in (cs.MODEL_FILE, cs.CONFIG_FILE):
        shutil.copyfile(ASSETS / "release-1.8.0" / name, tmp_path / name)
    result = convert(ConvertTask(checkpoint_uri=str(tmp_path / cs.MODEL_FILE), output_uri=str(tmp_path / "out")))
    ours = dict(hf.read_tensors(local_path(result.uri)))
    theirs = load_file(ASSETS / "hf_ckpt" / "gptj_v512" / "model.safetensors")
    assert ours.keys() == theirs.keys()
    assert [name for name in theirs if not same_bits(ours[name], theirs[name])] == []


def test_neox_to_cs_has_the_recorded_digests(tmp_path: Path) -> None:
    state = state_of(exported("neox_par", tmp_path) / cs.MODEL_FILE)
    recorded = neox_record()
    assert {name: list(tensor.shape) for name, tensor in state.items()} == {
        name: entry["shape"] for name, entry in recorded.items()
    }
    assert digests(state) == {name: entry["sha256"] for name, entry in recorded.items()}


def test_without_the_rotary_permutation_exactly_q_and_k_would_differ(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tensors, "_interleaving", lambda architecture: torch.arange(architecture.head_dim))
    found = digests(state_of(exported("neox_par", tmp_path) / cs.MODEL_FILE))
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
    result = convert(ConvertTask(checkpoint_uri=str(folder / cs.MODEL_FILE), output_uri=str(tmp_path / "back")))
    ours = dict(hf.read_tensors(local_path(result.uri)))
    theirs = load_file(ASSETS / "hf_ckpt" / name / "model.safetensors")
    assert ours.keys() == theirs.keys()
    assert [key for key in theirs if not same_bits(ours[key], theirs[key])] == []
