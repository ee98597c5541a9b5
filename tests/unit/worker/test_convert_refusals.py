"""What the convert stage refuses, with the cause; nothing of it is run, written or kept."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from convert_samples import edit_config, edit_weights, run, sample, tensors_of, tie, to_bin
from safetensors.torch import save_file

from regraft.errors import InvalidDataError, InvalidInputError


class _Evil:
    def __reduce__(self) -> tuple[object, ...]:
        return os.system, ("echo run",)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ({"transformer.wte.weight": _Evil()}, "unsafe_checkpoint"),
        ([torch.ones(1)], "config_tensors_disagree"),
        ({"state_dict": {"a": torch.ones(1)}}, "config_tensors_disagree"),
        ({"transformer.wte.weight": torch.ones(1)}, "config_tensors_disagree"),
    ],
)
def test_bin_files_with_anything_but_the_models_tensors_are_refused(
    tmp_path: Path, content: object, reason: str
) -> None:
    base = sample(tmp_path / "base")
    (base / "model.safetensors").unlink()
    torch.save(content, base / "pytorch_model.bin")
    with pytest.raises(InvalidDataError) as caught:
        run(base, tmp_path / "out")
    assert caught.value.reason == reason


def test_a_truncated_bin_file_is_refused(tmp_path: Path) -> None:
    base = sample(tmp_path / "base")
    to_bin(base)
    path = base / "pytorch_model.bin"
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(InvalidDataError) as caught:
        run(base, tmp_path / "out")
    assert caught.value.reason == "unreadable_checkpoint"


def test_quantised_bin_weights_are_refused(tmp_path: Path) -> None:
    base = sample(tmp_path / "base")
    to_bin(base, **{"lm_head.bias": torch.ones(300, dtype=torch.int8)})
    with pytest.raises(InvalidDataError) as caught:
        run(base, tmp_path / "out")
    assert caught.value.reason == "unsupported_dtype"


@pytest.mark.parametrize("family", ["gptj", "gptneox"])
def test_weights_that_are_not_finite_are_named_and_counted(tmp_path: Path, family: str) -> None:
    base = sample(tmp_path / "base", family)
    name = sorted(n for n, t in tensors_of(base).items() if t.ndim == 2)[0]
    bad = tensors_of(base)[name].clone()
    bad[0, :3] = torch.tensor([float("nan"), float("inf"), float("-inf")])
    edit_weights(base, **{name: bad})
    with pytest.raises(InvalidDataError, match=f"3 of {bad.numel()} values of '{name}'") as caught:
        run(base, tmp_path / "out")
    assert (caught.value.reason, caught.value.value) == ("weights_not_finite", name)
    assert caught.value.field == "base_checkpoint.uri"
    assert not (tmp_path / "out").exists()


def test_a_missing_base_is_the_users_mistake(tmp_path: Path) -> None:
    for name in ("nowhere", "nowhere.mdl"):
        with pytest.raises(InvalidInputError) as caught:
            run(tmp_path / name, tmp_path / "out")
        assert caught.value.reason == "checkpoint_not_found"


def test_a_tied_head_with_values_of_its_own_is_refused(tmp_path: Path) -> None:
    base = sample(tmp_path / "base")
    tie(base, head=torch.zeros(300, 16))
    with pytest.raises(InvalidDataError, match=r"ties 'lm_head.weight' to the embedding"):
        run(base, tmp_path / "out")


@pytest.mark.parametrize(
    ("family", "change", "named"),
    [
        ("gptj", {"vocab_size": 299}, "transformer.wte.weight: expected [299, 16], found [300, 16]"),
        ("gptneox", {"vocab_size": 301}, "embed_out.weight: expected [301, 16], found [300, 16]"),
        ("gptj", {"rotary_dim": 3}, "rotary dimension"),
        ("gptj", {"rotary_dim": 10}, "rotary dimension"),
        ("gptneox", {"rotary_pct": 0.2}, "rotary dimension"),
        ("gptj", {"n_head": 3}, "number of heads"),
        ("gptj", {"n_layer": 3}, "transformer.h.2.ln_1.weight: expected [16], not found"),
        ("gptj", {"n_layer": 1}, "transformer.h.1.attn.k_proj.weight: not expected"),
        ("gptj", {"n_inner": 60}, "mlp.fc_in.bias: expected [60], found [64]"),
    ],
)
def test_a_config_that_is_not_of_these_weights_is_refused_and_the_difference_named(
    tmp_path: Path, family: str, change: dict[str, object], named: str
) -> None:
    base = sample(tmp_path / "base", family)
    for spoil in (lambda: None, lambda: to_bin(base)):  # both kinds of files say the same
        spoil()
        edit_config(base, **change)
        with pytest.raises(InvalidDataError) as caught:
            run(base, tmp_path / "out")
        assert named in str(caught.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_a_model_without_its_head_is_refused_as_such(tmp_path: Path, kind: str) -> None:
    base = sample(tmp_path / "base", "gptneox")
    body = {n.removeprefix("gpt_neox."): t for n, t in tensors_of(base).items() if n.startswith("gpt_neox.")}
    save_file(body, base / "model.safetensors")
    if kind == "bin":
        to_bin(base)
    with pytest.raises(InvalidDataError) as caught:
        run(base, tmp_path / "out")
    assert caught.value.reason == "headless_checkpoint"
    assert "--model gpt-neox-headless" in caught.value.remedy


@pytest.mark.parametrize(
    ("family", "name", "right", "wrong"),
    [
        ("gptneox", "gpt_neox.layers.0.attention.rotary_emb.inv_freq", (1,), (2,)),
        ("gptj", "transformer.h.1.attn.embed_positions", (16, 4), (16, 8)),
    ],
)
def test_rotary_frequencies_in_old_files_must_be_of_the_configs_dimension(
    tmp_path: Path, family: str, name: str, right: tuple[int, ...], wrong: tuple[int, ...]
) -> None:
    base = sample(tmp_path / "base", family)
    edit_weights(base, **{name: torch.ones(right)})
    run(base, tmp_path / "out")
    edit_weights(base, **{name: torch.ones(wrong)})
    with pytest.raises(InvalidDataError, match="another rotary dimension") as caught:
        run(base, tmp_path / "out")
    assert caught.value.value == {"gptneox": 2, "gptj": 4}[family]
