"""The bounds that a model puts on a dataset."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from regraft.errors import InvalidDataError, InvalidInputError
from regraft.specs.dataset import DatasetSpec
from regraft.specs.stages import PrepareTask
from regraft_dataprep.limits import Limits, check_limits, limits_of
from regraft_dataprep.pipeline import prepare
from regraft_dataprep.tokenize import load_tokenizer

CONFIG = {
    "architectures": ["GPTJForCausalLM"],
    "model_type": "gptj",
    "vocab_size": 600,
    "n_embd": 64,
    "n_layer": 2,
    "n_head": 4,
    "n_positions": 128,
    "rotary_dim": 8,
    "activation_function": "gelu_new",
    "layer_norm_epsilon": 1e-5,
    "initializer_range": 0.02,
    "tie_word_embeddings": False,
}


def task(*, checkpoint: Path | None, vocab_size: int | None = None) -> PrepareTask:
    return PrepareTask(
        dataset=DatasetSpec(uri="corpus"),
        tokenizer_uri="tokenizer",
        checkpoint_uri=str(checkpoint) if checkpoint else None,
        vocab_size=vocab_size,
        output_uri="out",
    )


def test_the_checkpoint_bounds_both_and_the_task_may_say_otherwise(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    assert limits_of(task(checkpoint=tmp_path)) == Limits(600, 128)
    assert limits_of(task(checkpoint=tmp_path, vocab_size=700)) == Limits(700, 128)


def test_without_a_hugging_face_config_only_the_task_speaks(tmp_path: Path) -> None:
    assert limits_of(task(checkpoint=None)) == limits_of(task(checkpoint=tmp_path)) == Limits()
    assert limits_of(task(checkpoint=tmp_path, vocab_size=700)) == Limits(700)


SECTION = "{vocab_size: 500, max_position_embeddings: 64, hidden_size: 8}"


@pytest.mark.parametrize("content", [f"model: {SECTION}", f"trainer: {{init: {{model: {SECTION}}}}}"])
def test_a_cerebras_checkpoint_is_bounded_by_the_yaml_beside_it(content: str, tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text(content)
    (tmp_path / "checkpoint_10.mdl").touch()
    assert limits_of(task(checkpoint=tmp_path)) == Limits(500, 64)
    assert limits_of(task(checkpoint=tmp_path / "checkpoint_10.mdl", vocab_size=700)) == Limits(700, 64)
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    assert limits_of(task(checkpoint=tmp_path / "checkpoint_10.mdl")) == Limits(500, 64)
    assert limits_of(task(checkpoint=tmp_path / "model.safetensors")) == limits_of(task(checkpoint=tmp_path))
    assert limits_of(task(checkpoint=tmp_path)) == Limits(600, 128)


def test_a_yaml_without_these_numbers_bounds_nothing_and_a_broken_one_is_refused(tmp_path: Path) -> None:
    (tmp_path / "checkpoint_10.mdl").touch()
    for content in ("", "model: 3", "model: {vocab_size: many, max_position_embeddings: true}"):
        (tmp_path / "checkpoint_10.yaml").write_text(content)
        assert limits_of(task(checkpoint=tmp_path)) == Limits()
    (tmp_path / "checkpoint_10.yaml").write_text("model: {")
    with pytest.raises(InvalidDataError, match=r"checkpoint_10\.yaml is not valid YAML"):
        limits_of(task(checkpoint=tmp_path))


def test_the_work_on_a_cerebras_checkpoint_ends_before_the_corpus_is_read(tokenizer_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "checkpoint_10.yaml").write_text(f"model: {SECTION}")
    (tmp_path / "checkpoint_10.mdl").touch()
    wanted = task(checkpoint=tmp_path / "checkpoint_10.mdl").model_copy(update={"tokenizer_uri": str(tokenizer_dir)})
    with pytest.raises(InvalidInputError, match=r"512 tokens .* 500 rows"):
        prepare(wanted)  # whose corpus does not exist


def test_a_tokenizer_larger_than_the_embedding_is_refused_with_both_numbers(tokenizer_dir: Path) -> None:
    encoder = load_tokenizer(str(tokenizer_dir))
    check_limits(Limits(512, 128), encoder=encoder, max_sequence_length=128)
    with pytest.raises(InvalidInputError, match=r"512 tokens .* 511 rows") as caught:
        check_limits(Limits(511), encoder=encoder, max_sequence_length=128)
    assert caught.value.field == "dataset.tokenizer"
    assert caught.value.remedy


def test_windows_longer_than_the_positions_are_refused(tokenizer_dir: Path) -> None:
    with pytest.raises(InvalidInputError, match="128 positions") as caught:
        check_limits(Limits(None, 128), encoder=load_tokenizer(str(tokenizer_dir)), max_sequence_length=129)
    assert (caught.value.field, caught.value.value) == ("dataset.max_sequence_length", 129)
