"""How the cluster's jobs are told apart: by labels that carry job, stage, attempt and epoch, not by what we remember.

A supervisor may be killed at any moment, and what it knew with it; the labels stay with the job.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from regraft.specs import AttemptRef
from regraft_worker.cerebras.csctl import Csctl, ListedJob, UnreachableError

JOB, STAGE, ATTEMPT, EPOCH = "regraft-job", "regraft-stage", "regraft-attempt", "regraft-epoch"


def labels_of(attempt: AttemptRef) -> dict[str, str]:
    """For `--job_labels`."""
    return {
        JOB: attempt.job,
        STAGE: attempt.stage,
        ATTEMPT: f"{attempt.stage}-{attempt.epoch}",
        EPOCH: str(attempt.epoch),
    }


def by_hand(where: str, *, stage: str) -> AttemptRef:
    """Of a run that nobody supervises: named by its folder, numbered by the clock."""
    digest = hashlib.sha256(where.encode()).hexdigest()[:16]
    return AttemptRef(job=f"local-{digest}", stage=stage, epoch=int(time.time()))


@dataclass(frozen=True)
class Mark:
    """What a job of the cluster belongs to."""

    job: str
    stage: str
    epoch: int


def mark_of(labels: Mapping[str, str]) -> Mark | None:
    """None: it is none of ours."""
    job, stage, epoch = (labels.get(name, "") for name in (JOB, STAGE, EPOCH))
    return Mark(job, stage, int(epoch)) if job and stage and epoch.isdigit() else None


def of_stage(attempt: AttemptRef) -> Callable[[ListedJob], bool]:
    """Whether a job is of this stage and of no later attempt than this one."""

    def belongs(listed: ListedJob) -> bool:
        mark = mark_of(listed.labels)
        return (
            mark is not None and (mark.job, mark.stage) == (attempt.job, attempt.stage) and mark.epoch <= attempt.epoch
        )

    return belongs


class Ending:
    """Cancels jobs of the cluster, each once, and sees that they end."""

    POLL_SECONDS = 1.0

    def __init__(self, csctl: Csctl, *, poll_seconds: float) -> None:
        self._csctl = csctl
        self._wait = min(poll_seconds, self.POLL_SECONDS)
        self.asked: list[str] = []
        """Jobs that were cancelled."""

    def end(self, belongs: Callable[[ListedJob], bool], *, check: Callable[[], None]) -> None:
        """Until none of them is left; `check` is called while waiting, and may raise.

        Raises:
            UnreachableError: the cluster does not answer; calling again goes on.
        """
        while left := self._left(belongs):
            for job in left:
                self._cancel(job)
            check()
            time.sleep(self._wait)

    def _left(self, belongs: Callable[[ListedJob], bool]) -> Sequence[str]:
        return [listed.id for listed in self._csctl.jobs() if belongs(listed) and not listed.ended]

    def _cancel(self, job: str) -> None:
        if job in self.asked:
            return
        try:
            self._csctl.cancel(job)
        except UnreachableError:
            self._csctl.phase(job)  # it answers: the job may have ended in between, which the next look tells
            return
        self.asked.append(job)
