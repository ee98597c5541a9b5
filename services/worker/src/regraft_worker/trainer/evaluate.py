"""The `evaluate` stage: checkpoints side by side on the held-out windows and on further sets, and what changed.

How a score is made: scoring.py. What comes of it: `evaluation.json`, and `evaluation.md` for reading. With `base` and
`trained` among the checkpoints this is the forgetting table: what was gained on the job's own text, and what that cost
on the other sets.
"""

from __future__ import annotations

import json
import shutil
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from regraft.errors import InterruptedStageError
from regraft.ports import NullProgress, Progress
from regraft.specs import EvaluateResult, EvaluateTask, Scores
from regraft.specs.monitoring import OWN_SET
from regraft.storage import local_path, publish, read_manifest, to_uri
from regraft_worker.trainer.fitting import check_fit, checked_manifest
from regraft_worker.trainer.forgetting import Table, changes, markdown
from regraft_worker.trainer.scoring import batches_of, score
from regraft_worker.trainer.sets import ScoredSet, open_sets
from regraft_worker.trainer.targets import Target, target_for
from regraft_worker.trainer.token_bytes import token_bytes
from regraft_worker.trainer.weights import describe, load_model

_REPORTS = 100  # per checkpoint and set, at most


def evaluate(task: EvaluateTask, progress: Progress | None = None) -> EvaluateResult:
    """Score every named checkpoint on every set and publish `<output_uri>/evaluation`.

    Raises:
        InvalidInputError: a checkpoint and a set do not go together.
        InvalidDataError: a checkpoint or a set is not what it should be.
        InterruptedStageError: asked to stop.
    """
    progress = progress or NullProgress()
    target = target_for(task.target)
    target.prepare()
    checkpoints = {name: local_path(uri, field=f"checkpoints.{name}") for name, uri in task.checkpoints.items()}
    with ExitStack() as stack:
        sets = _open(stack, task, checkpoints)
        scoring = _Scoring(task, target, sets, progress)
        table = {name: scoring.all_of(folder) for name, folder in checkpoints.items()}
    parents = {"dataset": sets[OWN_SET].address} | {name: _address(folder) for name, folder in checkpoints.items()}
    parents |= {f"set.{name}": one.address for name, one in sets.items() if name != OWN_SET}
    return _publish(task, table, parents, progress)


class _Scoring:
    """Goes through checkpoints and sets, and says how far it is."""

    def __init__(self, task: EvaluateTask, target: Target, sets: dict[str, ScoredSet], progress: Progress) -> None:
        self._task, self._target, self._sets, self._progress = task, target, sets, progress
        self._total = len(task.checkpoints) * sum(batches_of(one, task.batch_size) for one in sets.values())
        self._before = 0

    def all_of(self, folder: Path) -> dict[str, Scores]:
        """Scores of one checkpoint by set."""
        model = load_model(folder, describe(folder), device=self._target.device)
        self._progress.step(self._before, {}, total=self._total)  # what was loaded until now is no scoring
        found = {}
        for name, one in self._sets.items():
            batches = batches_of(one, self._task.batch_size)
            found[name] = score(
                model,
                one,
                batch_size=self._task.batch_size,
                target=self._target,
                precision=self._task.precision,
                tick=partial(self._tick, batches),
            )
            self._before += batches
        return found

    def _tick(self, batches: int, done: int) -> None:
        if done % max(1, batches // _REPORTS) == 0 or done == batches:
            self._progress.step(self._before + done, {}, total=self._total)
        if self._progress.should_stop() and self._before + done < self._total:
            raise InterruptedStageError("stopped while scoring; scoring starts again from the first checkpoint")


def _open(stack: ExitStack, task: EvaluateTask, checkpoints: dict[str, Path]) -> dict[str, ScoredSet]:
    descriptions = {name: describe(folder) for name, folder in checkpoints.items()}
    known = (
        folder
        for name, folder in checkpoints.items()
        if token_bytes(folder, descriptions[name].architecture.vocab_size) is not None
    )
    sets = open_sets(
        stack,
        local_path(task.dataset_uri, field="dataset_uri"),
        task.sets,
        description=next(iter(descriptions.values())),
        tokenizer=next(known, next(iter(checkpoints.values()))),
        max_sequence_length=None,
        max_windows=task.max_windows,
        field="sets",
    )
    folders = {OWN_SET: task.dataset_uri, **task.sets}
    for description in descriptions.values():
        for name, one in sets.items():
            check_fit(one.dataset, description, checked_manifest(local_path(folders[name])))
    return sets


def _publish(task: EvaluateTask, table: Table, parents: dict[str, str | None], progress: Progress) -> EvaluateResult:
    final = local_path(task.output_uri, field="output_uri") / "evaluation"
    changed = changes(table)
    result = EvaluateResult(
        uri=to_uri(final),
        scores={name: found[OWN_SET] for name, found in table.items()},
        perplexity_change=changed[OWN_SET].perplexity if changed else None,
        sets={name: {who: found[name] for who, found in table.items()} for name in task.sets},
        changes=changed,
    )
    told = result.model_dump(mode="json", exclude={"uri", "perplexity_change"}) | {"change": result.perplexity_change}
    if final.exists():
        shutil.rmtree(final)  # an earlier table, perhaps of other checkpoints
    with publish(final, kind="evaluation") as draft:
        (draft.folder / "evaluation.json").write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")
        (draft.folder / "evaluation.md").write_text(markdown(result), encoding="utf-8")
        draft.parents = {role: address for role, address in parents.items() if address is not None}
        draft.made_by = task.model_dump(mode="json")
        draft.summary = told
    progress.artifact("evaluation", result.uri, told)
    return result


def _address(folder: Path) -> str | None:
    manifest = read_manifest(folder)
    return manifest.address if manifest else None
