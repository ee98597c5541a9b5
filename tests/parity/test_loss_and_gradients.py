"""The chunked loss and plain torch on full logits: the same loss, the same gradients, the same counts."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from regraft.families import Architecture
from regraft.specs import LossSpec
from regraft_worker.model import Decoder, count_tokens, divisor_of, mean_loss, training_loss

ARCHITECTURE = {
    "family": "gptj",
    "vocab_size": 90,
    "hidden_size": 32,
    "num_layers": 2,
    "num_heads": 4,
    "filter_size": 64,
    "max_position_embeddings": 32,
    "rotary_dim": 4,
    "activation": "gelu_new",
    "layer_norm_epsilon": 1e-5,
    "initializer_range": 0.02,
    "rotary_interleaved": True,
    "separate_ffn_norm": False,
    "attention_bias": False,
}
HEADS = {
    "bias": {"lm_head_bias": True},
    "no bias": {"lm_head_bias": False},
    "tied": {"lm_head_bias": True, "tied_embeddings": True},
}


def _model(head: str) -> Decoder:
    torch.manual_seed(11)
    model = Decoder(Architecture(**ARCHITECTURE, **HEADS[head]))  # type: ignore[arg-type]
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model


def _features() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(5)
    ids, labels = torch.randint(0, 90, (2, 3, 17), generator=generator, dtype=torch.int32)
    mask = (torch.rand(3, 17, generator=generator) < 0.7).int()
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def _plain_loss(model: Decoder, features: dict[str, Tensor]) -> Tensor:
    logits = model.logits(model(features["input_ids"])).float()
    losses = cross_entropy(logits.flatten(0, 1), features["labels"].flatten().long(), reduction="none")
    mask = features["attention_mask"].flatten()
    return (losses * mask).sum() / mask.sum()


def _gradients(model: Decoder, loss: Tensor) -> dict[str, Tensor]:
    model.zero_grad(set_to_none=True)
    loss.backward()
    return {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("chunk_rows", [1, 7, 51, 1000, None])
def test_loss_and_every_gradient_are_those_of_full_logits(head: str, chunk_rows: int | None) -> None:
    model, features = _model(head), _features()
    expected = _plain_loss(model, features)
    expected_gradients = _gradients(model, 2.5 * expected)

    loss = mean_loss(model, features, chunk_rows=chunk_rows)
    gradients = _gradients(model, 2.5 * loss)

    assert loss.item() == pytest.approx(expected.item(), abs=1e-6)
    assert gradients.keys() == expected_gradients.keys() == dict(model.named_parameters()).keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, expected_gradients[name], atol=2e-6, rtol=1e-5, msg=name)


def test_a_loss_that_ignores_the_mask_would_be_told_apart() -> None:
    model, features = _model("bias"), _features()
    everything = {**features, "attention_mask": torch.ones_like(features["attention_mask"])}

    assert abs(mean_loss(model, everything).item() - _plain_loss(model, features).item()) > 1e-3


def test_bf16_differs_from_fp32_by_rounding_only() -> None:
    model, features = _model("bias"), _features()
    exact = _gradients(model, mean_loss(model, features))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = mean_loss(model, features, chunk_rows=7)
    rounded = _gradients(model, loss)

    assert loss.item() == pytest.approx(_plain_loss(model, features).item(), rel=0.02)
    assert not torch.equal(rounded["head.weight"], exact["head.weight"])
    for name, gradient in rounded.items():
        assert gradient.dtype == torch.float32
        assert (gradient - exact[name]).norm() < 0.05 * exact[name].norm(), name


def test_a_batch_without_counted_tokens_has_no_loss_and_moves_nothing() -> None:
    model, features = _model("bias"), _features()
    features["attention_mask"] = torch.zeros_like(features["attention_mask"])

    loss = mean_loss(model, features)

    assert loss.item() == 0.0
    assert all(not gradient.any() for gradient in _gradients(model, loss).values())


@pytest.mark.parametrize("chunk_rows", [7, None])
def test_counts_are_those_of_full_logits(chunk_rows: int | None) -> None:
    model, features = _model("tied"), _features()
    with torch.no_grad():
        logits = model.logits(model(features["input_ids"]))
    counted = features["attention_mask"] == 1
    features["labels"] = torch.where(torch.rand(counted.shape) < 0.5, logits.argmax(-1).int(), features["labels"])

    counts = count_tokens(model, features, chunk_rows=chunk_rows)

    right = (logits.argmax(-1) == features["labels"]) & counted
    assert int(counts.correct) == int(right.sum()) > 0
    assert int(counts.tokens) == int(counted.sum())
    mean = counts.loss_sum.item() / int(counts.tokens)
    assert mean == pytest.approx(_plain_loss(model, features).item(), abs=1e-6)


@pytest.mark.parametrize("scaling", ["num_tokens", "batch_size"])
def test_pieces_of_a_batch_add_up_to_the_whole(scaling: str) -> None:
    model, features = _model("bias"), _features()
    spec = LossSpec(scaling=scaling, weight=0.25 if scaling == "batch_size" else 1.0)  # type: ignore[arg-type]
    tokens = float(features["attention_mask"].sum())
    summed = _plain_loss(model, features) * tokens
    expected = summed / tokens if scaling == "num_tokens" else 0.25 * summed / 3
    wanted = _gradients(model, expected)

    divisor = divisor_of(spec, tokens=tokens, samples=3)
    pieces = [{name: row[rows] for name, row in features.items()} for rows in (slice(0, 1), slice(1, 3))]
    losses = [training_loss(model, piece, divisor=divisor, weight=spec.weight) for piece in pieces]
    found = _gradients(model, losses[0] + losses[1])

    assert sum(loss.item() for loss in losses) == pytest.approx(expected.item(), rel=1e-6)
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, wanted[name], atol=1e-5, rtol=1e-5, msg=name)
    # The planted mistake: each piece with a divisor of its own.
    assert abs(sum(mean_loss(model, piece).item() for piece in pieces) / 2 - summed.item() / tokens) > 1e-3


def test_a_batch_that_counts_nothing_still_has_a_divisor() -> None:
    assert divisor_of(LossSpec(), tokens=0, samples=4) == 1.0
    assert divisor_of(LossSpec(scaling="batch_size"), tokens=0, samples=4) == 4.0


def test_gradients_made_in_the_forward_pass_can_be_used_once() -> None:
    model, features = _model("bias"), _features()
    loss = mean_loss(model, features)
    loss.backward(retain_graph=True)

    with pytest.raises(RuntimeError, match=r"modified by an inplace operation|second time"):
        loss.backward()


def test_losses_of_unlikely_labels_stay_exact() -> None:
    model, features = _model("bias"), _features()
    with torch.no_grad():
        model.head.weight.mul_(400.0)  # the probability of most labels is below what fp32 can hold

    found = mean_loss(model, features)

    assert found.item() > 200
    assert found.item() == pytest.approx(_plain_loss(model, features).item(), rel=1e-6)


def test_features_of_another_type_are_a_programming_mistake() -> None:
    model, features = _model("bias"), _features()
    features["labels"] = features["labels"].long()

    with pytest.raises(AssertionError, match="int32"):
        mean_loss(model, features)
