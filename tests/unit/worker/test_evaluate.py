"""Scores over a held-out split, against numbers made by hand from the logits of `transformers`."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_runs import GPTJ, NEOX, Recorder, windows, write_dataset, write_model, write_split
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM

from regraft.errors import InterruptedStageError, InvalidDataError, InvalidInputError
from regraft.specs import EvaluateTask, Scores, TargetSpec
from regraft.storage import is_published, local_path
from regraft_worker.trainer.evaluate import evaluate


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two models and a dataset of seven held-out windows."""
    write_model(tmp_path / "base", GPTJ)
    write_model(tmp_path / "trained", NEOX, seed=4)
    write_dataset(tmp_path / "dataset", train=0)
    return tmp_path


def _task(folder: Path, *names: str, batch_size: int = 3, precision: str = "fp32") -> EvaluateTask:
    return EvaluateTask(
        dataset_uri=str(folder / "dataset"),
        checkpoints={name: str(folder / name) for name in names},
        batch_size=batch_size,
        precision=precision,
        target=TargetSpec(kind="cpu"),
        output_uri=str(folder / "out"),
    )


def _by_hand(folder: Path) -> Scores:
    data = torch.from_numpy(windows(7, seed=2)).long()
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        logits = model(data[:, 0]).logits.double()
    counted, labels = data[:, 1] == 1, data[:, 2]
    losses = cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none").view_as(labels)[counted]
    right = (logits.argmax(-1) == labels)[counted]
    loss = losses.mean().item()
    return Scores(loss=loss, perplexity=math.exp(loss), accuracy=right.double().mean().item(), tokens=len(losses))


@pytest.mark.parametrize("batch_size", [1, 3, 7, 50])
def test_scores_are_those_made_by_hand(batch_size: int, folder: Path) -> None:
    result = evaluate(_task(folder, "base", "trained", batch_size=batch_size))

    for name in ("base", "trained"):
        found, expected = result.scores[name], _by_hand(folder / name)
        assert found.loss == pytest.approx(expected.loss, abs=2e-6)
        assert found.perplexity == pytest.approx(expected.perplexity, rel=2e-6)
        assert found.accuracy == pytest.approx(expected.accuracy, abs=1e-12)
        assert found.tokens == expected.tokens
    change = result.scores["trained"].perplexity / result.scores["base"].perplexity - 1
    assert result.perplexity_change == pytest.approx(change)


def test_a_mean_of_batches_would_be_another_number(folder: Path) -> None:
    whole = evaluate(_task(folder, "base")).scores["base"].loss
    mask = windows(7, seed=2)
    means = []
    for start in (0, 3, 6):
        part = folder / f"part{start}"
        write_split(part / "dataset" / "eval", mask[start : start + 3])
        (part / "base").symlink_to(folder / "base")
        means.append(evaluate(_task(part, "base")).scores["base"].loss)

    assert abs(sum(means) / 3 - whole) > 1e-4


def test_the_table_is_published_and_reported(folder: Path) -> None:
    progress = Recorder()

    result = evaluate(_task(folder, "base", "trained"), progress)

    published = local_path(result.uri)
    assert published == folder / "out" / "evaluation"
    assert is_published(published)
    table = json.loads((published / "evaluation.json").read_text())
    assert table["scores"]["base"] == result.scores["base"].model_dump()
    assert table["change"] == result.perplexity_change
    assert progress.artifacts == [("evaluation", table)]
    assert [step for step, _ in progress.steps] == [0, 1, 2, 3, 3, 4, 5, 6]  # each begins with what is done
    assert {total for total, _ in progress.totals} == {6}


def test_a_later_table_replaces_an_earlier_one(folder: Path) -> None:
    evaluate(_task(folder, "base"))

    result = evaluate(_task(folder, "trained"))

    table = json.loads((local_path(result.uri) / "evaluation.json").read_text())
    assert list(table["scores"]) == ["trained"]
    assert result.perplexity_change is None


def test_bf16_scores_are_close_and_not_the_same(folder: Path) -> None:
    exact = evaluate(_task(folder, "base")).scores["base"].loss

    rounded = evaluate(_task(folder, "base", precision="bf16")).scores["base"].loss

    assert rounded != exact
    assert rounded == pytest.approx(exact, abs=0.02)


def test_an_unknown_precision_is_refused(folder: Path) -> None:
    with pytest.raises(InvalidInputError) as caught:
        evaluate(_task(folder, "base", precision="fp8"))

    assert caught.value.field == "precision"


def test_a_broken_checkpoint_has_no_scores(folder: Path) -> None:
    file = folder / "base" / "model.safetensors"
    tensors = load_file(file)
    tensors["transformer.ln_f.weight"][0] = math.nan
    save_file(tensors, file, metadata={"format": "pt"})

    with pytest.raises(InvalidDataError) as caught:
        evaluate(_task(folder, "base"))

    assert caught.value.reason == "loss_not_finite"
    assert not (folder / "out").exists()


def test_windows_without_counted_tokens_are_refused(folder: Path) -> None:
    data = windows(2)
    data[:, 1] = 0
    write_split(folder / "empty" / "dataset" / "eval", data)
    (folder / "empty" / "base").symlink_to(folder / "base")

    with pytest.raises(InvalidDataError) as caught:
        evaluate(_task(folder / "empty", "base"))

    assert caught.value.reason == "empty_split"


def test_a_model_with_too_few_positions_is_refused_before_the_other_is_scored(folder: Path) -> None:
    write_model(folder / "short", {**GPTJ, "n_positions": 8})
    progress = Recorder()

    with pytest.raises(InvalidInputError):
        evaluate(_task(folder, "base", "short"), progress)

    assert progress.steps == []


def test_a_stop_is_heeded_between_batches(folder: Path) -> None:
    progress = Recorder(stop_after=2)

    with pytest.raises(InterruptedStageError):
        evaluate(_task(folder, "base", "trained"), progress)

    assert [step for step, _ in progress.steps] == [0, 1, 2]
    assert not (folder / "out").exists()
