"""Named sets, the forgetting table, early stopping and the watch for spikes."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError
from tiny_runs import NEOX, VOCAB, Recorder, contents, task, windows, write_dataset, write_model, write_split

from regraft.errors import InvalidDataError, InvalidInputError
from regraft.specs import EvaluateTask, LossSpikeSpec, TargetSpec, TrainingSpec
from regraft.storage import local_path
from regraft_worker.trainer import loop
from regraft_worker.trainer.checkpoint import read_state
from regraft_worker.trainer.evaluate import evaluate
from regraft_worker.trainer.flops import flops_per_token, peak_flops
from regraft_worker.trainer.folders import step_folder
from regraft_worker.trainer.run import Run
from regraft_worker.trainer.spikes import judged
from regraft_worker.trainer.state import Spikes
from regraft_worker.trainer.token_bytes import token_bytes
from regraft_worker.trainer.weights import describe

TOKENIZER = {
    "model": {"type": "BPE", "vocab": {chr(0x100 + n) * (1 + n % 3): n for n in range(VOCAB)}},
    "decoder": {"type": "ByteLevel"},
    "added_tokens": [{"id": 0, "content": "<|endoftext|>", "special": True}],
}
BLOW_UP = [
    {"constant": {"value": 3e-3, "steps": 7}},
    {"constant": {"value": 3.0, "steps": 1}},
    {"constant": {"value": 3e-3}},
]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base model with a byte-level tokenizer, a dataset, and a general set in each layout."""
    folder = tmp_path_factory.mktemp("inputs")
    write_model(folder / "base", NEOX)
    (folder / "base" / "tokenizer.json").write_text(json.dumps(TOKENIZER))
    write_dataset(folder / "dataset")
    write_split(folder / "general", windows(5, seed=3))
    write_split(folder / "prepared" / "eval", windows(5, seed=3))
    return folder


def _evaluation(inputs: Path, **options: Any) -> dict[str, Any]:
    return {"every_steps": 4, "sets": {"general": str(inputs / "general")}, **options}


def test_every_set_is_scored_from_the_base_model_on(inputs: Path, tmp_path: Path) -> None:
    progress = Recorder()
    loop.train(task(inputs, tmp_path, evaluate=_evaluation(inputs)), progress)

    scored = {step: metrics for step, metrics in progress.steps if "general_loss" in metrics}
    assert list(scored) == [0, 4, 8, 12]
    for name in ("val", "general"):
        assert f"{name}_loss_change" not in scored[0]
        change = scored[12][f"{name}_loss"] - scored[0][f"{name}_loss"]
        assert scored[12][f"{name}_loss_change"] == change
        assert {f"{name}_perplexity", f"{name}_accuracy", f"{name}_bits_per_byte"} <= set(scored[4])


def test_scores_of_a_set_are_those_of_the_evaluator_in_either_layout(inputs: Path, tmp_path: Path) -> None:
    progress = Recorder()
    loop.train(task(inputs, tmp_path / "run", evaluate=_evaluation(inputs)), progress)
    result = evaluate(
        EvaluateTask(
            dataset_uri=str(inputs / "dataset"),
            checkpoints={"base": str(inputs / "base"), "trained": str(tmp_path / "run" / "step-00000012")},
            sets={"general": str(inputs / "prepared")},
            batch_size=4,
            target=TargetSpec(kind="cpu"),
            output_uri=str(tmp_path / "out"),
        )
    )
    last = progress.steps[-1][1]

    for name, found in (("val", result.scores), ("general", result.sets["general"])):
        assert last[f"{name}_loss"] == found["trained"].loss
        assert last[f"{name}_bits_per_byte"] == found["trained"].bits_per_byte
        assert result.changes[name].loss == found["trained"].loss - found["base"].loss
    folder = local_path(result.uri)
    assert json.loads((folder / "evaluation.json").read_text())["changes"]["general"]["loss"] > -10
    table = (folder / "evaluation.md").read_text().splitlines()
    assert table[0] == "| set | score | base | trained | change |"
    assert [line.split(" | ")[0] for line in table[2:]] == ["| val"] * 4 + ["| general"] * 4
    assert table[2].split(" | ")[2:4] == [f"{result.scores[who].loss:.4f}" for who in ("base", "trained")]
    assert "%" in table[3].split(" | ")[4]


def test_bits_per_byte_are_those_made_by_hand(inputs: Path, tmp_path: Path) -> None:
    task_ = EvaluateTask(
        dataset_uri=str(inputs / "dataset"),
        checkpoints={"base": str(inputs / "base")},
        max_windows=3,
        batch_size=2,
        target=TargetSpec(kind="cpu"),
        output_uri=str(tmp_path),
    )
    found = evaluate(task_).scores["base"]
    data = windows(7, seed=2)[:3]
    labels = data[:, 2][data[:, 1] == 1]
    text_bytes = sum(0 if label == 0 else 1 + label % 3 for label in labels.tolist())

    assert found.tokens == len(labels)
    assert found.bits_per_byte == pytest.approx(found.loss * len(labels) / math.log(2) / text_bytes, rel=1e-12)


@pytest.mark.parametrize(
    "content", [None, "{", "[]", json.dumps({**TOKENIZER, "decoder": {"type": "Metaspace"}}), '{"model": 1}']
)
def test_of_other_tokenizers_bytes_are_not_known(content: str | None, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "tokenizer.json").write_text(content)

    assert token_bytes(tmp_path, VOCAB) is None


@pytest.mark.parametrize("metric", ["val_loss", "general_loss"])
def test_a_run_ends_early_and_stays_ended(inputs: Path, tmp_path: Path, metric: str) -> None:
    options = {
        "evaluate": _evaluation(inputs, every_steps=1),
        "early_stopping": {"metric": metric, "patience": 2, "min_delta": 10.0},
        "checkpoint": {"every_steps": 5},
    }
    progress = Recorder()
    result = loop.train(task(inputs, tmp_path, **options), progress)

    assert result.step == 3  # the first is the best so far, the two after it are no better by 10
    assert result.stopped_early == read_state(step_folder(tmp_path, 3)).stopped_early
    assert any(f"stopping early at step 3: {metric}" in text for _, text in progress.events)
    again = Recorder()
    assert loop.train(task(inputs, tmp_path, **options), again) == result
    # With more patience it goes on.
    more = {**options, "early_stopping": None, "max_steps": 12}
    assert loop.train(task(inputs, tmp_path, **more)).step == 12


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"checkpoint": {"keep_best": "general_loss"}}, "not among evaluate.sets"),
        ({"early_stopping": {}}, "needs evaluate.every_steps"),
        ({"evaluate": {"sets": {"val": "x"}}}, "is none of"),
        ({"checkpoint": {"keep_best": "loss"}}, "name a set and a score"),
    ],
)
def test_scores_that_nobody_makes_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        TrainingSpec.model_validate(options)


def test_a_set_that_is_not_there_is_refused_by_name(inputs: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidDataError) as caught:
        loop.train(task(inputs, tmp_path, evaluate={"every_steps": 4, "sets": {"general": str(tmp_path / "no")}}))

    assert caught.value.field == "training.evaluate.sets.general"


def test_bits_per_byte_that_are_not_known_cannot_decide(tmp_path: Path) -> None:
    write_model(tmp_path / "base", NEOX)
    write_dataset(tmp_path / "dataset")

    with pytest.raises(InvalidInputError) as caught:
        loop.train(task(tmp_path, tmp_path / "run", checkpoint={"keep_best": "val_bits_per_byte"}))

    assert caught.value.field == "training.checkpoint.keep_best"


def _spike(policy: str) -> dict[str, Any]:
    return {"policy": policy, "threshold": 6.0, "min_steps": 4, "window": 8, "limit": 3}


@pytest.mark.parametrize("policy", ["warn", "skip", "roll_back"])
def test_a_blown_up_step_is_seen_and_dealt_with(policy: str, inputs: Path, tmp_path: Path) -> None:
    progress = Recorder()
    options = {"schedule": BLOW_UP, "evaluate": {}, "checkpoint": {"every_steps": 3, "keep_last": 1}}
    asked = {**options, "loss_spike": _spike(policy)}
    if policy == "skip":  # the weights are spoilt already: skipping does not mend them, and the limit ends it
        with pytest.raises(InvalidDataError) as caught:
            loop.train(task(inputs, tmp_path, **asked), progress)
        assert caught.value.reason == "loss_spike"
        return
    loop.train(task(inputs, tmp_path, **asked), progress)

    spikes = [text for level, text in progress.events if level == "warn"]
    assert "at step 9" in spikes[0]  # the rate of step 8 spoils the weights
    state = read_state(step_folder(tmp_path, 12))
    losses = progress.losses()
    if policy == "roll_back":
        assert state.without_effect == ((7, 9),)
        assert state.updates() == 9
        assert losses[9] < losses[8] / 2
        assert [folder.name for folder in sorted(tmp_path.glob("step-*"))] == ["step-00000012"]
    else:
        assert state.without_effect == ()
        assert losses[9] > losses[6] * 2


def test_a_skipped_spike_leaves_no_trace_in_the_weights(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judge = Run._judge
    leapt = {9: 1e3}  # what is seen of one step; its gradients are those of any other

    def seen(self: Run, step: int, loss: float, norm: float) -> bool:
        return judge(self, step, leapt.get(step, loss), norm)

    monkeypatch.setattr(Run, "_judge", seen)
    options = {"schedule": [{"constant": {"value": 3e-3}}], "evaluate": {}, "loss_spike": _spike("skip")}
    progress = Recorder()
    loop.train(task(inputs, tmp_path / "skipped", **options, max_steps=9), progress)
    monkeypatch.undo()
    loop.train(task(inputs, tmp_path / "before", **options, max_steps=8))

    skipped, before = step_folder(tmp_path / "skipped", 9), step_folder(tmp_path / "before", 8)
    assert [text for level, text in progress.events if level == "warn"] == ["the loss leaps to 1000 at step 9: skip"]
    state = read_state(skipped)
    assert (state.step, state.without_effect, state.updates()) == (9, ((9, 9),), 8)
    assert (skipped / "model.safetensors").read_bytes() == (before / "model.safetensors").read_bytes()
    loop.train(task(inputs, tmp_path / "skipped", **options, max_steps=12))  # and it goes on
    assert read_state(step_folder(tmp_path / "skipped", 12)).updates() == 11


def test_a_rolled_back_run_stopped_anywhere_gives_the_same_bits(inputs: Path, tmp_path: Path) -> None:
    keep = {"every_steps": 3, "keep_last": 1}
    options = {"schedule": BLOW_UP, "evaluate": {}, "checkpoint": keep, "loss_spike": _spike("roll_back")}
    loop.train(task(inputs, tmp_path / "a", **options))
    for after in (7, 8, 9, 10):  # off the schedule: a rollback must not take these
        with pytest.raises(Exception, match="stopped after"):
            loop.train(task(inputs, tmp_path / "b", **options), Recorder(stop_after=after))
    loop.train(task(inputs, tmp_path / "b", **options))

    assert contents(step_folder(tmp_path / "a", 12)) == contents(step_folder(tmp_path / "b", 12))


def test_a_loss_that_is_no_number_is_borne_by_skipping(inputs: Path, tmp_path: Path) -> None:
    # A rate that overflows the weights makes every later loss nan: rolled back to a state that computes.
    schedule = [
        {"constant": {"value": 1e-3, "steps": 7}},
        {"constant": {"value": 1e30, "steps": 1}},
        {"constant": {"value": 1e-3}},
    ]
    progress = Recorder()
    watch = _spike("roll_back")

    loop.train(task(inputs, tmp_path, schedule=schedule, loss_spike=watch, evaluate={}), progress)

    assert [step for step, metrics in progress.steps if "train_loss" not in metrics] == [9]
    assert read_state(step_folder(tmp_path, 12)).without_effect == ((7, 9),)


def test_what_a_spike_is() -> None:
    spec = LossSpikeSpec(threshold=3.0, min_steps=4, window=6, policy="skip")
    past = Spikes(losses=(2.0, 2.1, 1.9, 2.0))
    limit = 2.0 + 3.0 * np.std([2.0, 2.1, 1.9, 2.0])

    assert judged(spec, past, limit - 1e-9, 1.0)[0] == "calm"
    verdict, after = judged(spec, past, limit + 1e-9, 1.0)
    assert (verdict, after.losses, after.in_a_row) == ("spike", past.losses, 1)
    assert judged(spec, Spikes(losses=(2.0, 2.0, 2.0)), 99.0, 1.0)[0] == "calm"  # too few to tell
    assert judged(spec, past, 2.0, math.inf)[0] == "spike"
    assert judged(spec, Spikes(losses=past.losses, in_a_row=10), 99.0, 1.0)[0] == "too_many"


def test_arithmetic_per_token_and_peaks(inputs: Path) -> None:
    architecture = describe(inputs / "base").architecture

    # 2 layers of q, k, v, out (32 x 32) and up, down (32 x 64), and the head; attention over 16 positions.
    assert flops_per_token(architecture, 16) == 6 * (2 * (4 * 32 * 32 + 2 * 32 * 64) + 61 * 32) + 12 * 2 * 32 * 16
    assert peak_flops("NVIDIA H100 80GB HBM3", "bf16") == 9.89e14
    assert peak_flops("NVIDIA H100 PCIe", "bf16") == 7.56e14
    assert peak_flops("NVIDIA A100-SXM4-80GB", "bf16") == 3.12e14
    assert peak_flops("NVIDIA A1000", "bf16") is None
    assert peak_flops("NVIDIA H100 80GB HBM3", "fp32") is None
