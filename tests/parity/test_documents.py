"""Several documents in one window, and each of them alone: the same hidden states, losses and gradients."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from test_decoder_vs_transformers import MODELS
from torch import Tensor

from regraft.families import detect
from regraft_worker.model import Decoder, mean_loss
from regraft_worker.model.documents import document_mask

TOLERANCE = 1e-4
LENGTHS = (7, 1, 12, 4)
PADDING = 3


def _model(name: str) -> Decoder:
    config = MODELS[name].to_dict()
    torch.manual_seed(2)
    model = Decoder(detect(config).read_config(config)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn_like(parameter)
            parameter.copy_(0.3 * noise if parameter.ndim == 2 else parameter + 0.1 * noise)
    return model


def _window() -> dict[str, Tensor]:
    """One window of four documents and some padding, rows 3 and 4 as `docs/hdf5-format.md` has them."""
    span = np.concatenate([np.arange(n)[::-1] for n in LENGTHS] + [np.zeros(PADDING)])
    position = np.concatenate([np.arange(n) for n in LENGTHS] + [np.zeros(PADDING)])
    ids, labels = torch.randint(0, 160, (2, 1, len(span)), generator=torch.Generator().manual_seed(4))
    mask = torch.ones_like(ids)
    mask[:, -PADDING:] = 0
    rows = {"input_ids": ids, "attention_mask": mask, "labels": labels}
    rows |= {"attention_span": torch.tensor(span)[None], "position_ids": torch.tensor(position)[None]}
    return {name: row.int() for name, row in rows.items()}


def _difference(model: Decoder, window: dict[str, Tensor]) -> float:
    with torch.no_grad():
        together = model(window["input_ids"], window["attention_span"], window["position_ids"])[0]
        alone = [model(ids)[0] for ids in window["input_ids"].split([*LENGTHS, PADDING], dim=1)[:-1]]
    assert bool(together.isfinite().all())
    return float((together[:-PADDING] - torch.cat(alone)).abs().max())


@pytest.mark.parametrize("name", ["gptj", "neox", "neox, sequential", "neox, positions stretched"])
def test_a_document_in_a_window_computes_what_it_would_alone(name: str) -> None:
    assert _difference(_model(name), _window()) < TOLERANCE


def test_gradients_are_those_of_the_documents_alone() -> None:
    model, window = _model("gptj"), _window()
    mean_loss(model, window).backward()
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    for start, n in zip(np.cumsum((0, *LENGTHS)), LENGTHS, strict=False):
        part = {name: row[:, start : start + n] for name, row in window.items() if name not in ("attention_span",)}
        del part["position_ids"]
        (mean_loss(model, part) * n / sum(LENGTHS)).backward()
    for name, parameter in model.named_parameters():
        scale = parameter.grad.abs().max()  # type: ignore[union-attr]
        assert (found[name] - parameter.grad).abs().max() < 1e-4 * scale, name  # type: ignore[operator]


def test_planted_mistakes_exceed_the_tolerance() -> None:
    model, window = _model("gptj"), _window()
    everything = {**window, "attention_span": torch.full_like(window["attention_span"], 99)}
    shorter = {**window, "attention_span": (window["attention_span"] - 1).clamp(min=0)}

    assert _difference(model, everything) > 2 * TOLERANCE
    assert _difference(model, shorter) > 2 * TOLERANCE
    # Rotation only tells how far apart two tokens are, so positions that go on across documents change nothing ...
    onward = {**window, "position_ids": torch.arange(len(window["position_ids"][0]), dtype=torch.int32)[None]}
    assert _difference(model, onward) < TOLERANCE
    # ... but positions within a document do.
    still = {**window, "position_ids": torch.zeros_like(window["position_ids"])}
    assert _difference(model, still) > 2 * TOLERANCE


def test_the_mask_spelled_out() -> None:
    span = torch.tensor([[1, 0, 2, 1, 0, 0]], dtype=torch.int32)

    mask = document_mask(span)[0, 0].int().tolist()

    assert mask == [
        [1, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [0, 0, 1, 0, 0, 0],
        [0, 0, 1, 1, 0, 0],
        [0, 0, 1, 1, 1, 0],
        [0, 0, 0, 0, 0, 1],
    ]
