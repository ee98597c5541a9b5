"""Writers and mapping against files that the Model Zoo itself wrote, conversions and trained checkpoints.

The order of the parameters in an optimizer is proven by values: our own trainer, from the same weights on the same
windows, has the same moments after the same steps; with two parameters of one shape exchanged it has not.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import h5py
import hdf5plugin
import pytest
import torch
from safetensors.torch import load_file

from regraft.families import Architecture, detect, family_named
from regraft.specs import TargetSpec, TrainingSpec, TrainTask
from regraft_worker.conversion import moments
from regraft_worker.conversion.lazy import Lazy, of_tensor
from regraft_worker.conversion.mapping import cs_to_hf, hf_to_cs
from regraft_worker.conversion.moments import TrainedState, parameter_names, read_trained, write_trained
from regraft_worker.conversion.own import own_to_hf
from regraft_worker.conversion.writers import (
    trained,
    trained_kind,
    write_hdf5_05,
    write_safetensors,
    write_torch_zip,
)
from regraft_worker.trainer import loop

ASSETS = Path(__file__).parents[1] / "assets" / "modelzoo"
GOLDENS = Path(os.environ.get("REGRAFT_GOLDENS", "unset"))
needs_goldens = pytest.mark.skipif(not GOLDENS.is_dir(), reason="REGRAFT_GOLDENS names no folder of reference outputs")
HDF5 = {
    "gptj": "cs_ckpt/gptj_v512_cs-2.9/pytorch_model_to_cs-2.9.mdl",
    "gptj_by_way_of_2.0": "cs_ckpt/gptj_v512_cs-1.8/pytorch_model_to_cs-2.0_to_cs-1.9_to_cs-1.8.mdl",
    "neox": "cs_ckpt/neox_par_cs-2.9/pytorch_model_to_cs-2.9.mdl",
    "trained": "train/checkpoint_20.mdl",
}
assert hdf5plugin.LZ4  # its import lets h5py read the goldens
State = dict[str, torch.Tensor]
MOMENT_TOLERANCE = 1e-4
TRAINING = {
    "batch_size": 4,
    "shuffle": False,
    "optimizer": {"eps": 1e-6, "weight_decay": 0.1, "max_gradient_norm": 1.0},
    "schedule": [
        {"linear": {"from": 0.0, "to": 1e-3, "steps": 5}},
        {"cosine": {"from": 1e-3, "to": 2e-4, "steps": 15}},
        {"constant": {"value": 2e-4}},
    ],
}


@dataclass
class Content:
    """A checkpoint in memory, as dotted names."""

    tensors: State = field(default_factory=dict)
    values: dict[str, object] = field(default_factory=dict)
    links: dict[str, str] = field(default_factory=dict)
    order: list[str] = field(default_factory=list)

    @property
    def lazies(self) -> dict[str, Lazy]:
        return {name: of_tensor(name, tensor) for name, tensor in self.tensors.items()}

    @property
    def all_values(self) -> dict[str, object]:
        return self.values | {name: self.values[to] for name, to in self.links.items() if to in self.values}

    @property
    def all_lazies(self) -> dict[str, Lazy]:
        return self.lazies | {name: self.lazies[to] for name, to in self.links.items() if to in self.tensors}


def read_hdf5(path: Path) -> Content:
    """With h5py and JSON alone."""
    content = Content()
    with h5py.File(path) as file:
        tree, _ = json.loads(file.attrs["__spec__"])
        for name, empty in _leaves(tree):
            content.order.append(name)
            if empty is not None:
                content.values[name] = empty
            elif name in file:
                content.tensors[name] = torch.as_tensor(file[name][()])
            else:
                _add_value(content, name, json.loads(file.attrs[f"{name}.__metadata__"])[f"{name}.__metadata__"])
    return content


def _add_value(content: Content, name: str, fields: Mapping[str, object]) -> None:
    if fields["__TYPE__"] == "LinkedObject":
        content.links[name] = str(fields["key"])
    else:
        content.values[name] = fields.get("scalar_value", fields.get("string_value"))


def _leaves(node: object, name: str = "") -> Iterator[tuple[str, object]]:
    """Names of leaves, and what stands there if it is an empty container."""
    if not isinstance(node, dict | list) or not node:
        yield name, (node if node != "*" else None)
        return
    for key, below in node.items() if isinstance(node, dict) else enumerate(node):
        yield from _leaves(below, f"{name}.{key}" if name else str(key))


def read_torch(path: Path) -> Content:
    content = Content()
    for name, leaf in _torch_leaves(torch.load(path, weights_only=True)):
        content.order.append(name)
        (content.tensors if isinstance(leaf, torch.Tensor) else content.values)[name] = leaf
    return content


def _torch_leaves(node: object, name: str = "") -> Iterator[tuple[str, object]]:
    if not isinstance(node, dict | list | tuple) or not node:
        yield name, node
        return
    for key, below in node.items() if isinstance(node, dict) else enumerate(node):
        yield from _torch_leaves(below, f"{name}.{key}" if name else str(key))


def rewrite(golden: Path, path: Path) -> None:
    """The golden's content through our writer."""
    content = read_hdf5(golden)
    options = {"kind": trained_kind} if "global_step" in content.order else {}
    digests = write_hdf5_05(
        path,
        content.lazies.values(),
        values=content.values,
        aliases=content.links,
        order=content.order,
        nest=trained,
        **options,  # type: ignore[arg-type]
        tick=lambda count: None,
    )
    assert digests == {name: sha256(lazy.whole()) for name, lazy in content.all_lazies.items()}


def attributes(item: h5py.HLObject) -> dict[str, tuple[object, ...]]:
    """Value, type and shape of each; the number and kinds of dimensions too."""
    found: dict[str, tuple[object, ...]] = {}
    for name, value in item.attrs.items():
        handle = item.attrs.get_id(name)
        shown = value.tolist() if hasattr(value, "tolist") else value
        found[name] = (shown, str(handle.dtype), handle.shape, handle.get_space().get_simple_extent_type())
    return found


def sha256(tensor: torch.Tensor) -> str:
    return hashlib.sha256(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()).hexdigest()


def model_of(name: str) -> tuple[Architecture, State]:
    folder = ASSETS / "hf_ckpt" / name
    config = json.loads((folder / "config.json").read_text())
    return detect(config).read_config(config), load_file(folder / "model.safetensors")


@needs_goldens
@pytest.mark.parametrize("name", HDF5)
def test_a_golden_rewritten_has_the_same_attributes_and_tensors(name: str, tmp_path: Path) -> None:
    rewrite(GOLDENS / HDF5[name], tmp_path / "ours.mdl")
    with h5py.File(GOLDENS / HDF5[name]) as theirs, h5py.File(tmp_path / "ours.mdl") as ours:
        assert attributes(ours) == attributes(theirs)
        assert list(ours) == list(theirs)
        for key in theirs:
            assert attributes(ours[key]) == attributes(theirs[key])
            assert (ours[key].dtype, ours[key].shape) == (theirs[key].dtype, theirs[key].shape)
            assert ours[key][()].tobytes() == theirs[key][()].tobytes()


@needs_goldens
def test_an_attribute_of_another_type_would_be_seen(tmp_path: Path) -> None:
    rewrite(GOLDENS / HDF5["gptj"], tmp_path / "ours.mdl")
    with h5py.File(GOLDENS / HDF5["gptj"]) as theirs, h5py.File(tmp_path / "ours.mdl", "r+") as ours:
        ours["model.ln_f.bias"].attrs["compressed"] = 0
        assert ours["model.ln_f.bias"].attrs["compressed"] == theirs["model.ln_f.bias"].attrs["compressed"]
        assert attributes(ours["model.ln_f.bias"]) != attributes(theirs["model.ln_f.bias"])


@needs_goldens
@pytest.mark.parametrize(("name", "golden"), [("gptj_v512", "gptj"), ("neox_par", "neox")])
def test_a_conversion_has_the_tensors_and_leaf_attributes_of_the_golden(name: str, golden: str, tmp_path: Path) -> None:
    made, hf = model_of(name)
    mapped = hf_to_cs(family_named(made.family), made, {n: of_tensor(n, t) for n, t in hf.items()})
    tensors = [Lazy(f"model.{lazy.name}", lazy.dtype, lazy.shape, lazy.read_rows) for lazy in mapped.tensors]
    aliases = {f"model.{alias}": f"model.{target}" for alias, target in mapped.aliases.items()}
    write_hdf5_05(tmp_path / "ours.mdl", tensors, aliases=aliases, tick=lambda count: None)
    with h5py.File(GOLDENS / HDF5[golden]) as theirs, h5py.File(tmp_path / "ours.mdl") as ours:
        assert list(ours) == list(theirs)
        left, right = attributes(ours), attributes(theirs)
        nesting = [json.loads(str(found.pop("__spec__")[0]))[0] for found in (left, right)]
        assert left == right
        assert nesting[0] == nesting[1]
        for key in theirs:
            assert ours[key][()].tobytes() == theirs[key][()].tobytes()


def test_the_torch_file_of_release_1_8_is_written_with_the_same_tensors(tmp_path: Path) -> None:
    made, hf = model_of("gptj_v512")
    mapped = hf_to_cs(family_named("gptj"), made, {n: of_tensor(n, t) for n, t in hf.items()})
    tensors = [Lazy(f"model.{lazy.name}", lazy.dtype, lazy.shape, lazy.read_rows) for lazy in mapped.tensors]
    aliases = {f"model.{alias}": f"model.{target}" for alias, target in mapped.aliases.items()}
    write_torch_zip(tmp_path / "ours.mdl", tensors, aliases=aliases, tick=lambda count: None)
    ours = torch.load(tmp_path / "ours.mdl", weights_only=True)["model"]
    theirs = torch.load(ASSETS / "release-1.8.0" / "pytorch_model_to_cs-1.8.mdl", weights_only=True)["model"]
    assert {name: sha256(tensor) for name, tensor in ours.items()} == {n: sha256(t) for n, t in theirs.items()}
    assert ours["ln_f.bias"].data_ptr() == ours["transformer_decoder.norm.bias"].data_ptr()
    back = cs_to_hf(family_named("gptj"), made, {n: of_tensor(n, t) for n, t in theirs.items()})
    write_safetensors(tmp_path / "back", back.tensors, tick=lambda count: None)
    assert {n: sha256(t) for n, t in load_file(tmp_path / "back").items()} == {n: sha256(t) for n, t in hf.items()}


@needs_goldens
def test_a_trained_torch_checkpoint_is_rewritten_with_the_same_content(tmp_path: Path) -> None:
    golden = read_torch(GOLDENS / "release-1.8.0" / "trained_checkpoint_10.mdl")
    options = {"values": golden.values, "nest": trained, "kind": trained_kind, "order": golden.order}
    write_torch_zip(tmp_path / "ours.mdl", golden.lazies.values(), **options, tick=lambda count: None)
    ours = read_torch(tmp_path / "ours.mdl")
    assert ours.order == golden.order
    assert ours.values == golden.values
    assert {n: sha256(t) for n, t in ours.tensors.items()} == {n: sha256(t) for n, t in golden.tensors.items()}
    theirs = torch.load(GOLDENS / "release-1.8.0" / "trained_checkpoint_10.mdl", weights_only=True)
    again = torch.load(tmp_path / "ours.mdl", weights_only=True)
    assert list(again["optimizer"]["state"]) == list(theirs["optimizer"]["state"])
    assert [type(again[key]) for key in again] == [type(theirs[key]) for key in theirs]
    assert isinstance(again["optimizer"]["param_groups"][1]["betas"], tuple)


def trained_state(steps: int) -> TrainedState:
    file = "train/checkpoint_20.mdl" if steps == 20 else "release-1.8.0/trained_checkpoint_10.mdl"
    content = (read_hdf5 if steps == 20 else read_torch)(GOLDENS / file)
    made, _ = model_of("gptj_v512")
    state = read_trained(family_named("gptj"), made, content.all_lazies, content.all_values)
    assert state is not None
    return state


@pytest.fixture(scope="module")
def own_moments(tmp_path_factory: pytest.TempPathFactory) -> dict[int, dict[str, State]]:
    """What our trainer has after 10 and after 20 steps, by moment and Hugging Face name."""
    folder = tmp_path_factory.mktemp("run")
    training = TrainingSpec.model_validate({**TRAINING, "max_steps": 20, "checkpoint": {"every_steps": 10}})
    task = TrainTask(
        dataset_uri=str(ASSETS),
        checkpoint_uri=str(ASSETS / "hf_ckpt" / "gptj_v512"),
        training=training,
        target=TargetSpec(kind="cpu"),
        output_uri=str(folder),
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        loop.train(task, None)
    return {steps: own(folder / f"step-{steps:08d}") for steps in (10, 20)}


def own(checkpoint: Path) -> dict[str, State]:
    stored = load_file(checkpoint / "training_state" / "optimizer.safetensors")
    made, _ = model_of("gptj_v512")
    found = {}
    for moment in moments.MOMENTS:
        mapped = own_to_hf(family_named("gptj"), made, below(stored, f"{moment}/"))
        found[moment] = {lazy.name: lazy.whole() for lazy in mapped}
    return found


def below(stored: State, prefix: str) -> dict[str, Lazy]:
    names = {name: name.removeprefix(prefix) for name in stored if name.startswith(prefix)}
    return {bare: of_tensor(bare, stored[name]) for name, bare in names.items()}


def distance(ours: Mapping[str, torch.Tensor], theirs: Mapping[str, Lazy]) -> float:
    """The largest difference within a tensor, as a share of its largest value."""
    assert ours.keys() == theirs.keys()
    return max(float((tensor - theirs[name].whole()).abs().max() / tensor.abs().max()) for name, tensor in ours.items())


@needs_goldens
@pytest.mark.parametrize("steps", [10, 20])
def test_moments_are_found_under_the_names_of_their_weights(
    steps: int, own_moments: dict[int, dict[str, State]]
) -> None:
    state, ours = trained_state(steps), own_moments[steps]
    assert distance(ours["exp_avg"], state.exp_avg) < MOMENT_TOLERANCE
    assert distance(ours["exp_avg_sq"], state.exp_avg_sq) < MOMENT_TOLERANCE
    assert state.global_step == steps
    assert state.beta1_power == pytest.approx(0.9 ** (steps + 1), rel=1e-5)
    assert state.beta2_power == pytest.approx(0.999 ** (steps + 1), rel=1e-5)
    assert [group["weight_decay"] for group in state.groups] == [pytest.approx(0.1), 0.0]
    assert any(name.endswith("last_epoch") for name in (*state.values, *state.tensors))


@needs_goldens
@pytest.mark.parametrize(
    "exchanged",
    [
        ("layers.0.self_attn.proj_q_dense_layer.weight", "layers.0.self_attn.proj_k_dense_layer.weight"),
        ("layers.1.self_attn.proj_v_dense_layer.weight", "layers.1.self_attn.proj_output_dense_layer.weight"),
        ("layers.0.norm1.weight", "layers.0.norm1.bias"),
        ("layers.0.norm1.bias", "layers.1.norm1.bias"),
        ("ln_f.bias", "layers.0.norm1.bias"),
        ("word_embeddings.weight", "lm_head.weight"),
    ],
)
def test_two_parameters_exchanged_would_be_seen(
    exchanged: tuple[str, str], own_moments: dict[int, dict[str, State]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(*arguments: object, **options: object) -> list[str]:
        names = parameter_names(*arguments, **options)  # type: ignore[arg-type]
        first, second = (next(n for n, name in enumerate(names) if name.endswith(end)) for end in exchanged)
        names[first], names[second] = names[second], names[first]
        return names

    monkeypatch.setattr(moments, "parameter_names", wrong)
    assert distance(own_moments[10]["exp_avg"], trained_state(10).exp_avg) > 100 * MOMENT_TOLERANCE


@needs_goldens
@pytest.mark.parametrize("steps", [10, 20])
def test_the_state_of_a_run_goes_back_where_it_was(steps: int) -> None:
    file = "train/checkpoint_20.mdl" if steps == 20 else "release-1.8.0/trained_checkpoint_10.mdl"
    golden = (read_hdf5 if steps == 20 else read_torch)(GOLDENS / file)
    made, _ = model_of("gptj_v512")
    tensors, values = write_trained(family_named("gptj"), made, trained_state(steps))
    ours = {lazy.name: sha256(lazy.whole()) for lazy in tensors}
    beside = {n: lazy for n, lazy in golden.all_lazies.items() if not n.startswith(("model.", "optimizer.param_gr"))}
    theirs = {name: sha256(lazy.whole()) for name, lazy in beside.items()}
    assert ours == theirs
    kept = {n: v for n, v in golden.all_values.items() if n.startswith(("optimizer.", "global_step"))}
    assert {name: values[name] for name in kept} == kept
    assert {n for n in values if ".params." in n} == {n for n in kept if ".params." in n}


@needs_goldens
def test_the_parameters_stand_in_the_order_of_the_golden_model() -> None:
    made, _ = model_of("gptj_v512")
    stored = read_hdf5(GOLDENS / HDF5["trained"]).order
    theirs = [name.removeprefix("model.model.") for name in stored if name.startswith("model.model.")]
    twins = {"transformer_decoder.norm.weight", "transformer_decoder.norm.bias"}
    assert parameter_names(family_named("gptj"), made, groups=1) == [name for name in theirs if name not in twins]
