"""Options of a job that change the model while it trains."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from tiny_runs import DROPOUT, GPTJ, task, write_dataset, write_model

from regraft.specs import DropoutSpec, LossSpec, TrainingSpec
from regraft_worker.model import Decoder, mean_loss
from regraft_worker.trainer.allocator import keep_freed_memory
from regraft_worker.trainer.inputs import open_inputs
from regraft_worker.trainer.weights import describe, with_dropout


def test_dropout_replaces_the_rates_that_are_named(tmp_path: Path) -> None:
    described = describe(write_model(tmp_path / "base", {**GPTJ, **DROPOUT}))

    kept = with_dropout(described, DropoutSpec()).architecture
    changed = with_dropout(described, DropoutSpec(attention=0.0, residual=0.3)).architecture

    assert kept == described.architecture
    found = (changed.embedding_dropout, changed.attention_dropout, changed.residual_dropout)
    assert found == (0.1, 0.0, 0.3)


def test_a_job_trains_with_its_own_dropout(tmp_path: Path) -> None:
    write_model(tmp_path / "base")
    write_dataset(tmp_path / "dataset")
    with open_inputs(task(tmp_path, tmp_path / "run", dropout={"embedding": 0.25})) as inputs:
        assert inputs.description.architecture.embedding_dropout == 0.25
        assert "embd_pdrop" not in inputs.description.config  # the checkpoint's config stays as it is


@pytest.mark.parametrize("options", [{"dropout": {"attention": 1.0}}, {"dropout": {"input": 0.1}}])
def test_impossible_rates_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        TrainingSpec.model_validate(options)


def test_a_weight_goes_with_batch_size_only() -> None:
    assert LossSpec(scaling="batch_size", weight=0.01).weight == 0.01
    with pytest.raises(ValidationError, match="goes with scaling: batch_size"):
        LossSpec(weight=0.01)


def test_freed_memory_can_be_kept() -> None:
    assert keep_freed_memory()


@pytest.mark.filterwarnings("ignore")  # torch.compile warns of what it does itself
@pytest.mark.parametrize("documents", [False, True])
def test_blocks_compile(documents: bool) -> None:
    from regraft.families import FAMILIES

    torch.manual_seed(0)
    model = Decoder(FAMILIES[0].read_config(GPTJ))
    ids = torch.randint(0, 61, (2, 16), dtype=torch.int32)
    features = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids.roll(-1, 1)}
    if documents:
        span = torch.arange(15, -1, -1, dtype=torch.int32).expand(2, 16).contiguous()
        features |= {"attention_span": span, "position_ids": span.flip(1)}
    plain = mean_loss(model, features)
    plain.backward()
    wanted = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    for layer in model.layers:
        # No code generation: what is tested is that a block is one graph, backward pass included.
        layer.compile(backend="aot_eager", fullgraph=True)
    loss = mean_loss(model, features)
    loss.backward()

    assert loss.item() == pytest.approx(plain.item(), abs=1e-6)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, wanted[name], atol=1e-6, rtol=1e-4, msg=name)
