"""Scores of checkpoints over the whole held-out split: loss, perplexity, accuracy.

Every counted token weighs the same, whatever batch it is in: sums over the split are divided once, at the end, in
float64. Perplexity is exp(sum of losses / number of tokens), not a mean of batches' perplexities. Results depend on the
batch size in the last bits only. Not for tasks with prompts and answers: there is no generation here.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from regraft.errors import InterruptedStageError, InvalidDataError
from regraft.hdf5 import Dataset
from regraft.ports import NullProgress, Progress
from regraft.specs import EvaluateResult, EvaluateTask, Scores
from regraft.storage import local_path, publish, read_manifest, to_uri
from regraft_worker.model.decoder import Decoder
from regraft_worker.model.loss import count_tokens
from regraft_worker.trainer.data import Indices, read_batch
from regraft_worker.trainer.inputs import check_fit, checked_manifest, open_split
from regraft_worker.trainer.targets import Target, target_for
from regraft_worker.trainer.weights import describe, load_model

_REPORTS = 100  # per checkpoint, at most


def evaluate(task: EvaluateTask, progress: Progress | None = None) -> EvaluateResult:
    """Score every named checkpoint and publish `<output_uri>/evaluation`.

    Raises:
        InvalidInputError: a checkpoint and the dataset do not go together.
        InvalidDataError: a checkpoint or the dataset is not what it should be.
        InterruptedStageError: asked to stop.
    """
    progress = progress or NullProgress()
    target = target_for(task.target)
    target.prepare()
    folder = local_path(task.dataset_uri, field="dataset_uri")
    manifest = checked_manifest(folder)
    with open_split(folder, "eval") as dataset:
        checkpoints = {name: local_path(uri, field=f"checkpoints.{name}") for name, uri in task.checkpoints.items()}
        for checkpoint in checkpoints.values():
            check_fit(dataset, describe(checkpoint), manifest)
        scored = {
            name: _score_checkpoint(checkpoint, dataset, task, target, progress, number=number)
            for number, (name, checkpoint) in enumerate(checkpoints.items())
        }
    parents = {"dataset": manifest.address if manifest else None}
    parents |= {name: _address(checkpoint) for name, checkpoint in checkpoints.items()}
    return _publish(task, scored, parents, progress)


def scores(
    model: Decoder,
    dataset: Dataset,
    *,
    batch_size: int,
    target: Target,
    precision: str,
    progress: Progress | None = None,
    number: int = 0,
    of: int = 1,
) -> Scores:
    """Scores of one model, without dropout. `number` and `of` place it among several in the progress reports.

    Raises:
        InvalidDataError: no token is counted, or the loss is not finite.
        InterruptedStageError: asked to stop.
    """
    progress = progress or NullProgress()
    batches = math.ceil(len(dataset) / batch_size)
    every = max(1, batches // _REPORTS)
    loss_sum, tokens, correct = 0.0, 0, 0
    was_training = model.training
    model.eval()
    try:
        for done, indices in enumerate(_in_order(len(dataset), batch_size), start=1):
            _stop_if_asked(progress)
            features = read_batch(dataset, indices, vocab_size=model.architecture.vocab_size, device=target.device)
            with torch.no_grad(), target.autocast(precision):
                counts = count_tokens(model, features)
            loss_sum += counts.loss_sum.item()
            tokens += int(counts.tokens)
            correct += int(counts.correct)
            if done % every == 0 or done == batches:
                progress.step(number * batches + done, {}, total=of * batches, tokens=tokens)
    finally:
        model.train(was_training)
    return _scores(loss_sum, tokens, correct)


def _scores(loss_sum: float, tokens: int, correct: int) -> Scores:
    if tokens == 0:
        raise InvalidDataError(
            "no token of the held-out windows is counted in the loss", field="dataset", reason="empty_split"
        )
    loss = loss_sum / tokens
    if not loss < math.log(np.finfo(np.float64).max):  # also catches nan
        raise InvalidDataError(
            "the held-out loss is not a usable number",
            value=repr(loss),
            remedy="The checkpoint is broken, or training diverged: lower the learning rate.",
            reason="loss_not_finite",
        )
    return Scores(loss=loss, perplexity=math.exp(loss), accuracy=correct / tokens, tokens=tokens)


def _score_checkpoint(
    folder: Path, dataset: Dataset, task: EvaluateTask, target: Target, progress: Progress, *, number: int
) -> Scores:
    model = load_model(folder, describe(folder), device=target.device)
    return scores(
        model,
        dataset,
        batch_size=task.batch_size,
        target=target,
        precision=task.precision,
        progress=progress,
        number=number,
        of=len(task.checkpoints),
    )


def _publish(
    task: EvaluateTask, scored: dict[str, Scores], parents: dict[str, str | None], progress: Progress
) -> EvaluateResult:
    final = local_path(task.output_uri, field="output_uri") / "evaluation"
    result = EvaluateResult(uri=to_uri(final), scores=scored, perplexity_change=_change(scored))
    table = {"scores": {name: one.model_dump() for name, one in scored.items()}, "change": result.perplexity_change}
    if final.exists():
        shutil.rmtree(final)  # an earlier table, perhaps of other checkpoints
    with publish(final, kind="evaluation") as draft:
        (draft.folder / "evaluation.json").write_text(json.dumps(table, indent=2) + "\n", encoding="utf-8")
        draft.parents = {role: address for role, address in parents.items() if address is not None}
        draft.made_by = task.model_dump(mode="json")
        draft.summary = table
    progress.artifact("evaluation", result.uri, table)
    return result


def _change(scored: dict[str, Scores]) -> float | None:
    if "base" not in scored or "trained" not in scored:
        return None
    return scored["trained"].perplexity / scored["base"].perplexity - 1


def _address(folder: Path) -> str | None:
    manifest = read_manifest(folder)
    return manifest.address if manifest else None


def _in_order(n: int, batch_size: int) -> Iterator[Indices]:
    for start in range(0, n, batch_size):
        yield np.arange(start, min(start + batch_size, n))


def _stop_if_asked(progress: Progress) -> None:
    if progress.should_stop():
        raise InterruptedStageError("stopped while scoring; scoring starts again from the first checkpoint")
