"""What `regraft convert` asks `transformers`: in both directions, of every kind of file, and what it then refuses."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from convert_commands import convert, run
from convert_samples import edit_config, sample, to_bin

from regraft.errors import InvalidDataError
from regraft_worker.conversion import transfer
from regraft_worker.conversion.config_files import ConvertedConfig

WIDE = {"std": 0.3, "hidden_size": 32, "num_heads": 2, "max_position_embeddings": 300}


def asked(source: Path, src: str, tgt: str, out: Path, *options: str) -> tuple[str, dict[str, Any]]:
    """The command's last word of the proof, and what it kept of the answer."""
    words = ("convert", source, "--src-fmt", src, "--tgt-fmt", tgt, "--output-dir", out, *options)
    done = run(*words, asks_transformers=True)
    proven = next(line for line in done.stderr.splitlines() if line.startswith("Proven: "))
    return proven, json.loads(next(out.rglob("*verification.json")).read_text())["transformers"]


def agrees(said: str, facts: dict[str, Any]) -> bool:
    assert ". transformers computes them too, at most " in said
    assert facts["compared"].startswith("transformers ")
    return bool(0 < facts["max_abs_difference"] <= 1e-4 * facts["largest_logit"])


@pytest.fixture
def hostile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder whose modules leave a trace when they are imported; the trace."""
    folder, trace = tmp_path / "downloaded", tmp_path / "trace"
    folder.mkdir()
    for name in ("transformers", "numpy", "regraft"):
        (folder / f"{name}.py").write_text(f"open({str(trace)!r}, 'w').close()")
    monkeypatch.chdir(folder)
    return trace


@pytest.mark.parametrize("family", ["gptj", "gptneox"])
def test_it_is_asked_of_the_hugging_face_side_in_both_directions(tmp_path: Path, family: str, hostile: Path) -> None:
    """Of one file and of a folder; not with buffers of old files, and not with tensors that were dropped.

    The working folder is no place for modules of anybody.
    """
    base = sample(tmp_path / "base", family, **WIDE)
    extra = {"gptj": "transformer.h.0.attn.bias", "gptneox": "value_head.weight"}[family]
    to_bin(base, **{extra: torch.ones(1, 1, 300, 300)})
    assert agrees(*asked(base / "pytorch_model.bin", "hf", "cs-1.9", tmp_path / "there", "--drop-unmatched-keys"))
    there = tmp_path / "there" / "pytorch_model_to_cs-1.9.mdl"
    if family == "gptj":  # one file, whose config does not say of what kind the model is
        assert agrees(*asked(there, "cs-1.9", "hf", tmp_path / "back"))
        newer = convert(there, "cs-1.9", "cs-2.9", tmp_path / "newer")
        assert agrees(*asked(newer, "cs-2.9", "hf", tmp_path / "folder", "--export-safetensors"))
    else:
        there = convert(there, "cs-1.9", "cs-2.0", tmp_path / "newer")
        assert agrees(*asked(there, "cs-2.0", "hf", tmp_path / "back", "--hf-shard-size", "20KB"))
    assert not hostile.exists()


def plant(monkeypatch: pytest.MonkeyPatch, **keys: object) -> None:
    """Have other values for these keys in the config that is written."""
    real = transfer.convert_config

    def wrong(*words: Any, **named: Any) -> ConvertedConfig:
        found = real(*words, **named)
        if found.text.startswith("{"):
            return replace(found, text=json.dumps({**json.loads(found.text), **keys}))
        return replace(found, text=yaml.safe_dump({"model": {**yaml.safe_load(found.text)["model"], **keys}}))

    monkeypatch.setattr(transfer, "convert_config", wrong)


@pytest.mark.parametrize(
    ("src", "tgt", "planted", "field"),
    [
        ("cs-1.8", "hf", {"vocab_size": 600}, "vocab_size"),
        ("cs-1.8", "hf", {"n_inner": 65}, "filter_size"),
        ("hf", "cs-1.8", {"filter_size": 65}, "filter_size"),
        ("hf", "cs-2.9", {"layer_norm_epsilon": 0.1}, "layer_norm_epsilon"),
    ],
)
def test_a_config_that_says_another_model_than_was_converted_is_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, src: str, tgt: str, planted: dict[str, object], field: str
) -> None:
    source = sample(tmp_path / "base")
    source = source if src == "hf" else convert(source, "hf", src, tmp_path / "cs")
    plant(monkeypatch, **planted)
    with pytest.raises(InvalidDataError, match=f"does not describe the same model; it differs in {field}") as caught:
        convert(source, src, tgt, tmp_path / "out")
    assert caught.value.reason == "conversion_not_exact"
    assert list((tmp_path / "out").iterdir()) == []


def test_a_config_that_transformers_reads_otherwise_is_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The planted error: a rotary base said twice, of which we take one and `transformers` the other."""
    there = convert(sample(tmp_path / "base", "gptneox", **WIDE), "hf", "cs-1.8", tmp_path / "cs")
    rope = {"rope_type": "default", "rope_theta": 500.0}
    plant(monkeypatch, rotary_emb_base=10000, rope_parameters=rope)
    with pytest.raises(InvalidDataError, match="result and transformers compute different logits") as caught:
        asked(there, "cs-1.8", "hf", tmp_path / "out")
    assert caught.value.reason == "conversion_not_equivalent"
    assert list((tmp_path / "out").iterdir()) == []
    convert(there, "cs-1.8", "hf", tmp_path / "out")  # our own sides agree


def test_what_it_cannot_be_asked_is_said(tmp_path: Path) -> None:
    base = sample(tmp_path / "base")
    there = convert(base, "hf", "cs-1.8", tmp_path / "cs")
    said, facts = asked(there, "cs-1.8", "cs-1.9", tmp_path / "newer")
    assert said.endswith("transformers was not asked: neither side is a Hugging Face checkpoint.")
    assert facts == {"not_compared": "neither side is a Hugging Face checkpoint"}
    edit_config(base, architectures=["GPTJModel"])
    _, facts = asked(there, "cs-1.8", "hf", tmp_path / "headless", "--model", "gptj-headless")
    assert facts == {"not_compared": "a model without its head computes no logits"}
