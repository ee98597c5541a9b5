"""Every reference checkpoint read through `open_container`: names, types, shapes and bytes are those recorded.

The records are the other tools' own: `records.json` has a digest of each tensor that release 2.10's converter wrote.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from regraft_worker.conversion.containers import open_container
from regraft_worker.conversion.containers.base import Container
from regraft_worker.conversion.lazy import Lazy

GOLDENS = os.environ.get("REGRAFT_GOLDENS")
FOLDER = Path(GOLDENS or "unset")
ASSETS = Path(__file__).parents[1] / "assets" / "modelzoo"
needs_goldens = pytest.mark.skipif(not GOLDENS, reason="REGRAFT_GOLDENS names no folder of reference outputs")

MODELS = ("gptj_v512", "neox_par")
MDL = {
    "gptj_v512_cs-1.8/pytorch_model_to_cs-2.0_to_cs-1.9_to_cs-1.8.mdl": ("gptj", "cs-2.0"),
    "gptj_v512_cs-2.9/pytorch_model_to_cs-2.9.mdl": ("gptj", "cs-2.9"),
    "neox_par_cs-2.9/pytorch_model_to_cs-2.9.mdl": ("gpt-neox", "cs-2.9"),
}

Facts = dict[str, tuple[str, list[int], str]]


def digest(lazy: Lazy) -> str:
    found = hashlib.sha256()
    for block in lazy.blocks(4096):
        found.update(block.reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()


def facts(container: Container, *, without: str = "") -> Facts:
    return {
        name.removeprefix(without): (str(lazy.dtype).removeprefix("torch."), list(lazy.shape), digest(lazy))
        for name, lazy in container.tensors.items()
    }


def recorded(entries: dict[str, Any]) -> Facts:
    return {
        name.removeprefix("model/"): (entry["dtype"].removeprefix("torch."), entry["shape"], entry["sha256"])
        for name, entry in entries.items()
    }


def record(model: str, target: str) -> Facts:
    for entry in json.loads((FOLDER / "convert" / "records.json").read_text(encoding="utf-8")):
        if (entry["model"], entry["src"], entry["tgt"]) == (model, "hf", target):
            return recorded(entry["tensors"])
    raise AssertionError(f"no record of {model} to {target}")


def hf_record(name: str) -> Facts:
    return recorded(json.loads((FOLDER / "convert" / f"{name}_hf_tensors.json").read_text(encoding="utf-8")))


def test_the_file_of_release_1_8() -> None:
    with (
        open_container(ASSETS / "release-1.8.0" / "pytorch_model_to_cs-1.8.mdl") as container,
        open_container(ASSETS / "hf_ckpt" / "gptj_v512" / "model.safetensors") as source,
    ):
        assert (container.encoding, len(container.tensors), container.values) == ("torch-zip", 27, {})
        assert container.aliases == {
            f"model.ln_f.{part}": f"model.transformer_decoder.norm.{part}" for part in ("weight", "bias")
        }
        embedding = container.tensors["model.embedding_layer.word_embeddings.weight"]
        assert digest(embedding) == digest(source.tensors["transformer.wte.weight"])
        assert digest(embedding) != digest(container.tensors["model.lm_head.weight"])


@needs_goldens
@pytest.mark.parametrize("path", MDL)
def test_converted_files_have_the_recorded_bytes(path: str) -> None:
    with open_container(FOLDER / "cs_ckpt" / path) as container:
        assert container.encoding == "hdf5-0.5"
        assert facts(container, without="model.") == record(*MDL[path])


@needs_goldens
def test_release_1_8_wrote_the_recorded_bytes_too() -> None:
    with open_container(FOLDER / "release-1.8.0" / "pytorch_model_to_cs-1.8.mdl") as container:
        assert facts(container, without="model.") == record("gptj", "cs-2.9")


@needs_goldens
@pytest.mark.parametrize("name", MODELS)
def test_safetensors_have_the_recorded_bytes(name: str) -> None:
    with open_container(FOLDER / "hf_ckpt" / name / "model.safetensors") as container:
        assert facts(container) == hf_record(name)


@needs_goldens
def test_a_bin_has_the_recorded_bytes() -> None:
    with open_container(FOLDER / "hf_ckpt" / "gptj_v512_bin" / "pytorch_model.bin") as container:
        assert container.encoding == "torch-zip"
        assert facts(container) == hf_record("gptj_v512")


@needs_goldens
def test_another_models_bytes_are_noticed() -> None:
    """The planted error."""
    with open_container(FOLDER / "hf_ckpt" / "neox_par" / "model.safetensors") as container:
        assert facts(container) != hf_record("gptj_v512")
    with open_container(FOLDER / "train" / "checkpoint_20.mdl") as container:
        prefix = "model.model."
        trained = {
            name.removeprefix(prefix): fact for name, fact in facts(container).items() if name.startswith(prefix)
        }
        assert trained.keys() == record("gptj", "cs-2.9").keys()
        assert trained != record("gptj", "cs-2.9")


@needs_goldens
def test_the_checkpoint_that_release_1_8_trained() -> None:
    with open_container(FOLDER / "release-1.8.0" / "trained_checkpoint_10.mdl") as container:
        assert container.encoding == "torch-zip"
        assert container.values["global_step"] == 10
        assert any(name.startswith("lr_scheduler.") for name in container.values)
        assert container.values["optimizer.param_groups.0.params.0"] == 0
        expected = torch.load(container.path, weights_only=True)
        check_moments(container, expected)
        assert [
            name for name in expected["model"] if not same_as(container, f"model.{name}", expected["model"][name])
        ] == []


@needs_goldens
def test_the_checkpoint_that_release_2_10_trained() -> None:
    with open_container(FOLDER / "train" / "checkpoint_20.mdl") as container:
        assert container.encoding == "hdf5-0.5"
        assert container.values["global_step"] == 20  # a link to a link
        assert container.values["schedulers.0._milestones.1"] == 20
        assert container.values["__metadata__.0.version"] == "2.10.0"
        assert container.values["schedulers.0.param_group_tags"] is None
        moments = [name for name in container.tensors if name.endswith((".exp_avg", ".exp_avg_sq"))]
        assert len(moments) == 2 * 27 or len(moments) == 2 * 25
        for name in moments:
            assert bool(container.tensors[name].whole().isfinite().all())
        assert any(float(container.tensors[name].whole().abs().max()) > 0 for name in moments)


def check_moments(container: Container, expected: dict[str, Any]) -> None:
    state = expected["optimizer"]["state"]
    assert state
    for number, entry in state.items():
        for key in ("exp_avg", "exp_avg_sq"):
            assert same_as(container, f"optimizer.state.{number}.{key}", entry[key])


def same_as(container: Container, name: str, tensor: torch.Tensor) -> bool:
    return torch.equal(container.tensors[name].whole(), tensor)
