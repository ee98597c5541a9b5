"""Our decoder and recorded logits: of `transformers`, and of the Model Zoo's own models with two loss masks.

The Model Zoo's attention mask counts positions in the loss and hides none, so all three are of the same pass.
`REGRAFT_GOLDENS` names the folder with the records.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F  # noqa: N812  # its usual name

from regraft_worker.model import Decoder
from regraft_worker.model.loss import count_tokens
from regraft_worker.trainer.weights import describe, load_model

GOLDENS = Path(os.environ.get("REGRAFT_GOLDENS", "unset"))
pytestmark = pytest.mark.skipif(not GOLDENS.is_dir(), reason="REGRAFT_GOLDENS names no folder of reference outputs")
TOLERANCE = 1e-4
RECORDED = ("hf_logits", "zoo_logits_mask", "zoo_logits_ones")


def record(name: str) -> dict[str, torch.Tensor]:
    with np.load(GOLDENS / "logits" / f"{name}.npz") as found:
        return {key: torch.from_numpy(found[key]) for key in found.files}


def decoder(name: str) -> Decoder:
    folder = GOLDENS / "hf_ckpt" / name
    return load_model(folder, describe(folder), device="cpu").eval()


def apart(model: Decoder, recorded: dict[str, torch.Tensor], which: str) -> float:
    with torch.no_grad():
        logits = model.logits(model(recorded["input_ids"]))
    assert logits.shape == recorded[which].shape
    return float((logits - recorded[which]).abs().max())


@pytest.mark.parametrize("which", RECORDED)
@pytest.mark.parametrize("name", ["gptj_v512", "neox_par"])
def test_logits_are_those_recorded(name: str, which: str) -> None:
    assert apart(decoder(name), record(name), which) < TOLERANCE


@pytest.mark.parametrize("name", ["gptj_v512", "neox_par"])
def test_the_loss_is_that_of_the_recorded_logits_where_the_mask_counts(name: str) -> None:
    recorded = record(name)
    mask = recorded["mask"]
    features = {"input_ids": recorded["input_ids"], "labels": recorded["labels"], "attention_mask": mask}

    counted = count_tokens(decoder(name), features)

    each = F.cross_entropy(
        recorded["zoo_logits_mask"].flatten(0, 1), recorded["labels"].flatten().long(), reduction="none"
    )
    expected = float((each * mask.flatten()).sum() / mask.sum())
    assert 0 < int(counted.tokens) == int(mask.sum()) < mask.numel()
    assert float(counted.loss_sum / counted.tokens) == pytest.approx(expected, abs=1e-5)
    assert abs(float(each.mean()) - expected) > 1e-3  # the mask matters


@pytest.mark.parametrize("which", RECORDED)
@pytest.mark.parametrize(
    ("name", "mistake"),
    [
        ("gptj_v512", {"rotary_interleaved": False}),
        ("gptj_v512", {"activation": "gelu"}),
        ("neox_par", {"rotary_interleaved": True}),
        ("neox_par", {"parallel_residual": False}),
    ],
)
def test_a_planted_mistake_exceeds_the_tolerance(name: str, mistake: dict[str, object], which: str) -> None:
    model = decoder(name)
    wrong = Decoder(replace(model.architecture, **mistake)).eval()  # type: ignore[arg-type]
    wrong.load_state_dict(model.state_dict())

    assert apart(wrong, record(name), which) > 2 * TOLERANCE
