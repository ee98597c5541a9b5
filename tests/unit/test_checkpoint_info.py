"""Looking into a checkpoint folder without torch."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from regraft.checkpoint_info import CheckpointInfo, inspect_checkpoint
from regraft.errors import InvalidDataError, InvalidInputError, RegraftError
from regraft.families import expected_tensors, family_named

GPTJ = {
    "model_type": "gptj",
    "vocab_size": 10,
    "n_embd": 8,
    "n_layer": 2,
    "n_head": 2,
    "rotary_dim": 2,
    "n_positions": 16,
}
Shapes = dict[str, tuple[int, ...]]


def shapes_of(config: dict[str, object], family: str = "gptj") -> Shapes:
    found = family_named(family)
    return expected_tensors(found, found.read_config(config))


def write_safetensors(path: Path, shapes: Shapes, dtype: str = "F16") -> None:
    header, end = {}, 0
    for name, shape in shapes.items():
        begin, end = end, end + 2 * math.prod(shape)
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(end))


def make(folder: Path, *, change: Callable[[Shapes], object] | None = None, **config: object) -> Path:
    settings = {**GPTJ, **config}
    shapes = shapes_of(settings)
    if change is not None:
        change(shapes)
    (folder / "config.json").write_text(json.dumps(settings))
    write_safetensors(folder / "model.safetensors", shapes)
    return folder


def shard(folder: Path) -> dict[str, str]:
    """Split the single file in two; returns the weight map."""
    shapes = shapes_of(GPTJ)
    names = sorted(shapes)
    weight_map = {}
    for number, part in enumerate((names[:5], names[5:])):
        file = f"model-0000{number + 1}-of-00002.safetensors"
        write_safetensors(folder / file, {name: shapes[name] for name in part})
        weight_map |= dict.fromkeys(part, file)
    (folder / "model.safetensors").unlink()
    write_index(folder, weight_map)
    return weight_map


def write_index(folder: Path, weight_map: object) -> None:
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def refused(folder: Path, kind: type[RegraftError] = InvalidDataError) -> RegraftError:
    with pytest.raises(kind) as caught:
        inspect_checkpoint(folder)
    assert caught.value.field
    assert caught.value.value is not None
    assert caught.value.remedy
    return caught.value


def test_a_whole_checkpoint_is_described(tmp_path: Path) -> None:
    make(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    info = inspect_checkpoint(tmp_path)
    assert isinstance(info, CheckpointInfo)
    assert (info.family, info.architecture.num_layers, info.architecture.filter_size) == ("gptj", 2, 32)
    assert info.tensors == shapes_of(GPTJ)
    assert info.dtypes == {"F16": 25}
    assert info.parameters == sum(math.prod(shape) for shape in shapes_of(GPTJ).values())
    assert info.files == ("config.json", "model.safetensors", "tokenizer.json")
    assert info.has_tokenizer


def test_a_tokenizer_is_one_file_or_a_pair(tmp_path: Path) -> None:
    make(tmp_path)
    (tmp_path / "vocab.json").write_text("{}")
    assert not inspect_checkpoint(tmp_path).has_tokenizer
    (tmp_path / "merges.txt").write_text("")
    assert inspect_checkpoint(tmp_path).has_tokenizer


def test_shards_count_as_one_checkpoint(tmp_path: Path) -> None:
    make(tmp_path)
    shard(tmp_path)
    info = inspect_checkpoint(tmp_path)
    assert info.tensors == shapes_of(GPTJ)
    assert info.files[1:] == (
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
        "model.safetensors.index.json",
    )


def test_a_weight_file_or_an_index_stands_for_its_checkpoint(tmp_path: Path) -> None:
    by_folder = inspect_checkpoint(make(tmp_path))
    assert inspect_checkpoint(tmp_path / "model.safetensors") == by_folder
    shard(tmp_path)
    index = inspect_checkpoint(tmp_path / "model.safetensors.index.json")
    assert index == inspect_checkpoint(tmp_path)
    assert len(index.weights.files) == 2
    assert refused(tmp_path / "model.bin", InvalidInputError).reason == "checkpoint_not_found"
    (tmp_path / "config.json").unlink()
    assert refused(tmp_path / "model.safetensors.index.json").reason == "no_config"


def test_of_a_bin_checkpoint_only_the_files_are_known(tmp_path: Path) -> None:
    make(tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    info = inspect_checkpoint(tmp_path)
    assert (info.weights.kind, info.tensors, info.dtypes) == ("bin", None, {})
    assert info.parameters > 0


def test_buffers_of_old_files_are_ignored(tmp_path: Path) -> None:
    make(tmp_path, change=lambda shapes: shapes.update({"transformer.h.0.attn.masked_bias": ()}))
    assert inspect_checkpoint(tmp_path).tensors == shapes_of(GPTJ)


def test_a_tied_head_may_be_stored_or_not(tmp_path: Path) -> None:
    make(tmp_path, tie_word_embeddings=True)
    assert "lm_head.weight" not in (inspect_checkpoint(tmp_path).tensors or {})
    make(tmp_path, change=lambda shapes: shapes.update({"lm_head.weight": (10, 8)}), tie_word_embeddings=True)
    assert "lm_head.weight" in (inspect_checkpoint(tmp_path).tensors or {})


def test_a_missing_folder_is_the_users_mistake(tmp_path: Path) -> None:
    error = refused(tmp_path / "nowhere", InvalidInputError)
    assert (error.reason, error.field) == ("checkpoint_not_found", "base_checkpoint.uri")
    assert error.value == str(tmp_path / "nowhere")


def test_the_field_is_the_callers(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError) as caught:
        inspect_checkpoint(tmp_path / "nowhere", field="--checkpoint")
    assert caught.value.field == "--checkpoint"


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert refused(tmp_path / "file", InvalidInputError).reason == "checkpoint_not_a_folder"
    assert refused(tmp_path / "file" / "below", InvalidInputError).reason == "checkpoint_not_found"


def test_a_name_with_a_null_byte_is_refused() -> None:
    assert refused(Path("/tmp/a\0b"), InvalidInputError).reason == "checkpoint_unreadable"


def test_an_empty_folder_has_no_config(tmp_path: Path) -> None:
    assert refused(tmp_path).reason == "no_config"


@pytest.mark.parametrize("text", ["{", "[]", "", '{"a": ' * 100_000, '{"a": \xff'])
def test_a_broken_config_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_bytes(text.encode("latin-1"))
    error = refused(tmp_path)
    assert error.reason == "broken_json"
    assert "config.json" in error.message


def test_another_kind_of_model_is_refused_with_the_supported_ones(tmp_path: Path) -> None:
    make(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    error = refused(tmp_path)
    assert (error.reason, error.value) == ("unsupported_model", "llama")
    assert "gptj, gpt_neox" in error.remedy


def test_an_absurd_number_of_layers_is_refused_before_it_costs_memory(tmp_path: Path) -> None:
    make(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({**GPTJ, "n_layer": 10**12}))
    assert "1000 layers" in refused(tmp_path).message


def test_a_folder_without_weights_is_refused(tmp_path: Path) -> None:
    (make(tmp_path) / "model.safetensors").unlink()
    assert refused(tmp_path).reason == "no_weights"


def test_a_shard_that_is_not_there_is_named(tmp_path: Path) -> None:
    make(tmp_path)
    shard(tmp_path)
    (tmp_path / "model-00002-of-00002.safetensors").unlink()
    error = refused(tmp_path)
    assert error.reason == "missing_shard"
    assert "model-00002-of-00002.safetensors" in error.message


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "a/b", "", "..", "a\\b", 7])
def test_an_index_may_not_reach_out_of_the_folder(tmp_path: Path, name: object) -> None:
    make(tmp_path)
    write_index(tmp_path, {**shard(tmp_path), "lm_head.weight": name})
    error = refused(tmp_path)
    assert error.reason == "broken_json"
    assert "not beside it" in error.message


def test_an_index_that_lies_about_a_shard_is_refused(tmp_path: Path) -> None:
    make(tmp_path)
    weight_map = shard(tmp_path)
    write_index(tmp_path, {**weight_map, "lm_head.bias": "model-00002-of-00002.safetensors"})
    assert "'lm_head.bias' is not in model-00002-of-00002.safetensors" in refused(tmp_path).message


def test_a_tensor_in_two_shards_is_refused(tmp_path: Path) -> None:
    make(tmp_path)
    shard(tmp_path)
    write_safetensors(tmp_path / "model-00002-of-00002.safetensors", shapes_of(GPTJ))
    assert "is in two files" in refused(tmp_path).message


def test_an_index_without_a_map_is_refused(tmp_path: Path) -> None:
    make(tmp_path)
    shard(tmp_path)
    write_index(tmp_path, {})
    assert "no weight_map" in refused(tmp_path).message


def test_wrong_shapes_are_shown_with_what_was_expected(tmp_path: Path) -> None:
    make(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({**GPTJ, "vocab_size": 12}))
    error = refused(tmp_path)
    assert error.reason == "config_tensors_disagree"
    assert "transformer.wte.weight: expected [12, 8], found [10, 8]" in error.message
    assert "more" not in error.message


def test_missing_and_unexpected_tensors_are_named_and_the_rest_counted(tmp_path: Path) -> None:
    make(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({**GPTJ, "n_layer": 3}))
    message = refused(tmp_path).message
    assert message.count("not found") == 3
    assert "transformer.h.2.ln_1.weight: expected [8], not found" in message
    assert message.endswith("and 7 more")
    (tmp_path / "config.json").write_text(json.dumps({**GPTJ, "n_layer": 1}))
    assert "transformer.h.1.ln_1.weight: not expected, found [8]" in refused(tmp_path).message


def test_quantised_weights_are_refused(tmp_path: Path) -> None:
    make(tmp_path)
    write_safetensors(tmp_path / "model.safetensors", shapes_of(GPTJ), dtype="I16")
    error = refused(tmp_path)
    assert (error.reason, error.value) == ("unsupported_dtype", "I16")


def test_a_model_without_its_head_is_refused_as_such(tmp_path: Path) -> None:
    make(tmp_path)
    bare = {
        name.removeprefix("transformer."): shape for name, shape in shapes_of(GPTJ).items() if "lm_head" not in name
    }
    write_safetensors(tmp_path / "model.safetensors", bare)
    error = refused(tmp_path)
    assert error.reason == "headless_checkpoint"
    assert "GPTJForCausalLM" in error.remedy


def test_a_truncated_weight_file_is_refused(tmp_path: Path) -> None:
    path = make(tmp_path) / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    assert refused(tmp_path).reason == "corrupt_safetensors"
