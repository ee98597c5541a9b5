"""The whole plan of a job, from what is seen of its inputs and what is on offer. Nothing is written or computed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

from regraft.families import Architecture
from regraft.planning.advice import warnings_of
from regraft.planning.answer import DiskPlan, Plan, TargetPlan, WorkPlan
from regraft.planning.cached import Artifact, stages_of
from regraft.planning.fitting import setup_for, target_plan
from regraft.planning.offers import Offer
from regraft.planning.seen import Seen, plan_hash
from regraft.sizing import Finished, counts_of, disk_of, flops_per_token
from regraft.specs import JobSpec, TrainingSpec
from regraft.specs.training import subset_ranges

BYTES_A_TOKEN = 4.0
"""English text through the tokenizer of GPT-2 or GPT-NeoX; other languages take more tokens."""


def make_plan(spec: JobSpec, seen: Seen, *, offers: Sequence[Offer], history: Sequence[Finished], storage: str) -> Plan:
    """Plan `spec` for its own target and the others on offer; `storage`: where artifacts are published."""
    stages, dataset = stages_of(spec, seen, storage=storage)
    work = None if seen.architecture is None else _work(spec, seen.architecture, seen, dataset)
    return Plan(
        plan_hash=plan_hash(spec, seen.identities),
        spec=spec.model_dump(mode="json", by_alias=True),
        stages=stages,
        work=work,
        targets=_targets(spec, seen.architecture, offers, work, history),
        disk=None if seen.architecture is None or work is None else _disk(spec, seen.architecture, work),
        warnings=tuple(warnings_of(spec, seen.architecture, epochs=work.epochs if work else None)),
    )


def epochs_of(spec: JobSpec, seen: Seen) -> float | None:
    """How often the job reads each window, as far as the size of the corpus tells."""
    windows, steps = _windows_estimate(spec, seen), spec.training.max_steps
    if windows is None or steps is None or spec.training.mixture:
        return None
    return steps * spec.training.batch_size / windows


def _targets(
    spec: JobSpec,
    architecture: Architecture | None,
    offers: Sequence[Offer],
    work: WorkPlan | None,
    history: Sequence[Finished],
) -> tuple[TargetPlan, ...]:
    if architecture is None:
        return ()
    steps = work.steps if work else None
    plans = [target_plan(spec, architecture, offer, steps=steps, history=history) for offer in offers]
    return tuple(sorted(plans, key=lambda plan: not plan.asked))


def _work(spec: JobSpec, architecture: Architecture, seen: Seen, dataset: Artifact | None) -> WorkPlan:
    windows, source = _windows(spec, seen, dataset)
    training, setup = spec.training, setup_for(spec, architecture)
    steps = training.max_steps
    if steps is None and windows is not None:
        steps = _one_pass(training, windows)
    read = None if steps is None else steps * training.batch_size
    alone = windows is not None and not training.mixture
    return WorkPlan(
        parameters=counts_of(architecture).total,
        flops_per_token=flops_per_token(architecture, length=setup.length),
        steps=steps,
        tokens=None if read is None else read * setup.length,
        epochs=round(read / windows, 4) if read is not None and windows is not None and alone else None,
        windows=windows,
        windows_from=source,
    )


def _one_pass(training: TrainingSpec, windows: int) -> int:
    """Steps after which every window of the job's own dataset was read, as the trainer counts them."""
    chosen = sum(float(end - start) for start, end in subset_ranges(training.data_subset or "0-1"))
    weights = training.dataset_weight + sum(part.weight for part in training.mixture)
    return max(1, math.ceil(windows * chosen * weights / training.dataset_weight / training.batch_size))


def _windows(
    spec: JobSpec, seen: Seen, dataset: Artifact | None
) -> tuple[int | None, Literal["dataset", "estimate", "unknown"]]:
    """Training windows of the corpus, and where the figure comes from."""
    counted = dataset.manifest.summary.get("train_examples") if dataset else None
    if isinstance(counted, int) and counted > 0:
        return counted, "dataset"
    estimate = _windows_estimate(spec, seen)
    return estimate, "unknown" if estimate is None else "estimate"


def _windows_estimate(spec: JobSpec, seen: Seen) -> int | None:
    tokens = _corpus_tokens(seen)
    if tokens is None:
        return None
    share = 1.0 if spec.dataset.validation.uri is not None else 1.0 - spec.dataset.validation.fraction
    return max(1, math.ceil(tokens * share / spec.dataset.max_sequence_length))


def _corpus_tokens(seen: Seen) -> int | None:
    return int(seen.corpus.bytes / BYTES_A_TOKEN) if seen.corpus is not None and seen.plain_text else None


def _disk(spec: JobSpec, architecture: Architecture, work: WorkPlan) -> DiskPlan:
    tokens = None if work.windows is None else work.windows * spec.dataset.max_sequence_length
    found = disk_of(architecture, spec.training.checkpoint, spec.output, steps=work.steps, tokens=tokens)
    return DiskPlan(**found.__dict__, total=found.total)
