"""Two sides through the decoder at once: what each computes is what the decoder that trains computes with it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from convert_samples import edit_config, edit_weights, sample, tensors_of

from regraft_worker.conversion import hf, paired
from regraft_worker.conversion.lazy import of_tensor
from regraft_worker.conversion.paired import batch, logits_of_both
from regraft_worker.conversion.side import Side
from regraft_worker.trainer.weights import describe, load_model


@pytest.fixture(params=["gptj", "gptneox"])
def base(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return sample(tmp_path / "base", request.param, std=0.3, hidden_size=32, num_heads=2, max_position_embeddings=300)


def reference(folder: Path) -> torch.Tensor:
    """The logits of the model as training loads it, (1, S, V)."""
    model = load_model(folder, describe(folder), device="cpu")
    ids, positions = batch(model.architecture)
    with torch.no_grad():
        return model.logits(model(ids, position_ids=positions))


def close(found: torch.Tensor, expected: torch.Tensor) -> bool:
    return bool((found - expected).abs().max() <= 1e-5 * expected.abs().max())


def as_cerebras(side: Side) -> Side:
    return replace(side, naming="cs", tensors=side.under("cs"))


@pytest.mark.parametrize("block_bytes", [1000, 2**20])
@pytest.mark.parametrize("threads", [1, 2])
def test_both_sides_compute_what_the_decoder_computes(
    base: Path, monkeypatch: pytest.MonkeyPatch, block_bytes: int, threads: int
) -> None:
    monkeypatch.setattr(paired, "_BLOCK_BYTES", block_bytes)
    expected, before = reference(base), torch.get_num_threads()
    with hf.open_folder(base) as side:
        ids, logits, compared = logits_of_both(side, as_cerebras(side), lambda count: None, threads=threads)
    assert ids.shape == (1, 16)
    assert torch.get_num_threads() == before
    assert len(logits) == (1 if side.architecture.rotary_interleaved else 2)
    assert all(close(one, expected[0]) for one in logits)
    assert compared


def test_one_other_value_on_one_side_changes_that_side_alone_and_is_not_said_to_be_equal(base: Path) -> None:
    expected = reference(base)
    with hf.open_folder(base) as side:
        for name in (name for name in side.tensors if ".1." in name):
            changed = side.tensors[name].whole().clone()
            changed.view(-1)[-1] += 1
            other = replace(side, tensors={**side.tensors, name: of_tensor(name, changed)})
            _, logits, compared = logits_of_both(side, other, lambda count: None)
            assert len(logits) == 2
            assert close(logits[0], expected[0])
            assert not close(logits[1], expected[0])
            assert side.tensors[name].read_rows not in {ours for ours, _ in compared}


def test_a_value_that_is_no_number_is_left_to_the_comparison(base: Path) -> None:
    name = next(name for name in tensors_of(base) if name.endswith(("fc_in.weight", "dense_h_to_4h.weight")))
    edit_weights(base, **{name: torch.full_like(tensors_of(base)[name], float("nan"))})
    with hf.open_folder(base) as side:
        _, _, compared = logits_of_both(side, side, lambda count: None)
        assert side.tensors[name].read_rows not in {ours for ours, _ in compared}


def test_a_tied_embedding_is_the_head(base: Path) -> None:
    names = tensors_of(base).keys()
    head, embedding = (
        ("lm_head", "transformer.wte") if "lm_head.weight" in names else ("embed_out", "gpt_neox.embed_in")
    )
    edit_weights(base, **{f"{head}.weight": tensors_of(base)[f"{embedding}.weight"].clone()})
    edit_config(base, tie_word_embeddings=True)
    with hf.open_folder(base) as side:
        _, logits, compared = logits_of_both(side, side, lambda count: None)
        assert close(logits[0], reference(base)[0])
        assert side.tensors[f"{embedding}.weight"].read_rows in {ours for ours, _ in compared}


def test_positions_are_spread_over_all_that_the_model_has(base: Path) -> None:
    with hf.open_folder(base) as side:
        for last in (0, 3, 15, 16, 299, 2047):
            ids, positions = batch(replace(side.architecture, max_position_embeddings=last + 1))
            places = positions[0].tolist()
            assert ids.shape == positions.shape == (1, min(16, last + 1))
            assert places == sorted(set(places))
            assert places[-1] == last
            assert places[0] == 0
