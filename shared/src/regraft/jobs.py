"""The states of a job and of its stages: the only table of transitions, and the only functions that apply one.

A status says where a thing is; a `reason` and a `reason_class` beside it say why. Every status is in the enum from
day one, so that a client written today knows them all.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum, StrEnum


class ReasonClass(StrEnum):
    """Who can mend it."""

    USER_ERROR = "user_error"
    DATA_ERROR = "data_error"
    CAPACITY = "capacity"
    INFRASTRUCTURE = "infrastructure"
    CONTROL_PLANE = "control_plane"
    LIMIT = "limit"
    USER_REQUEST = "user_request"


class Priority(IntEnum):
    """Who goes first: in every queue, `p1` before `p2` before `p3`; within one, the older job."""

    P1 = 1
    P2 = 2
    P3 = 3

    @classmethod
    def named(cls, name: str) -> Priority:
        """`p1` is `Priority.P1`."""
        return cls[name.upper()]


class JobStatus(StrEnum):
    QUEUED = "queued"
    RUNNING = "running"
    PAUSING = "pausing"
    PAUSED = "paused"
    CANCELLING = "cancelling"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


class StageStatus(StrEnum):
    PENDING = "pending"
    READY = "ready"
    RUNNING = "running"
    CACHED = "cached"
    SKIPPED = "skipped"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


class StageName(StrEnum):
    PREFLIGHT = "preflight"
    PREPARE = "prepare"
    CONVERT = "convert"
    TRAIN = "train"
    EVALUATE = "evaluate"
    EXPORT = "export"


# `prepare` and `convert` need nothing of each other and run side by side. Only jobs that ask for it have a `preflight`;
# a need that a job does not have counts as met.
NEEDS: Mapping[StageName, tuple[StageName, ...]] = {
    StageName.PREFLIGHT: (),
    StageName.PREPARE: (StageName.PREFLIGHT,),
    StageName.CONVERT: (StageName.PREFLIGHT,),
    StageName.TRAIN: (StageName.PREPARE, StageName.CONVERT),
    StageName.EVALUATE: (StageName.TRAIN,),
    StageName.EXPORT: (StageName.EVALUATE,),
}

_J, _S = JobStatus, StageStatus

JOB_TRANSITIONS: Mapping[JobStatus, frozenset[JobStatus]] = {
    _J.QUEUED: frozenset({_J.RUNNING, _J.PAUSING, _J.PAUSED, _J.CANCELLING, _J.CANCELLED, _J.FAILED}),
    _J.RUNNING: frozenset({_J.PAUSING, _J.PAUSED, _J.CANCELLING, _J.SUCCEEDED, _J.FAILED}),
    _J.PAUSING: frozenset({_J.PAUSED, _J.CANCELLING, _J.SUCCEEDED, _J.FAILED}),
    _J.PAUSED: frozenset({_J.QUEUED, _J.CANCELLING}),
    _J.CANCELLING: frozenset({_J.CANCELLED}),
    _J.SUCCEEDED: frozenset(),
    _J.FAILED: frozenset({_J.QUEUED}),
    _J.CANCELLED: frozenset({_J.QUEUED}),
}

STAGE_TRANSITIONS: Mapping[StageStatus, frozenset[StageStatus]] = {
    _S.PENDING: frozenset({_S.READY, _S.SKIPPED, _S.CANCELLED}),
    _S.READY: frozenset({_S.RUNNING, _S.CANCELLED, _S.PENDING}),
    _S.RUNNING: frozenset({_S.SUCCEEDED, _S.CACHED, _S.FAILED, _S.CANCELLED, _S.READY, _S.PENDING}),
    _S.CACHED: frozenset(),
    _S.SKIPPED: frozenset(),
    _S.SUCCEEDED: frozenset(),
    _S.FAILED: frozenset({_S.PENDING}),
    _S.CANCELLED: frozenset({_S.PENDING}),
}

JOB_HELD = frozenset({_J.PAUSING, _J.PAUSED})
"""No stage of such a job is started; one that runs is asked to save and to stop."""
JOB_ENDED = frozenset({_J.SUCCEEDED, _J.FAILED, _J.CANCELLED})
JOB_STARTS_STAGES = frozenset({_J.QUEUED, _J.RUNNING})
STAGE_DONE = frozenset({_S.SUCCEEDED, _S.CACHED, _S.SKIPPED})
STAGE_ENDED = STAGE_DONE | {_S.FAILED, _S.CANCELLED}


class IllegalTransitionError(Exception):
    """The table has no such arrow; a programming mistake, not a user's."""


def job_transition(current: JobStatus, new: JobStatus) -> JobStatus:
    """Return `new` if the table allows it.

    Raises:
        IllegalTransitionError: it does not.
    """
    if new not in JOB_TRANSITIONS[current]:
        raise IllegalTransitionError(f"a job cannot go from {current} to {new}")
    return new


def stage_transition(current: StageStatus, new: StageStatus) -> StageStatus:
    """Return `new` if the table allows it.

    Raises:
        IllegalTransitionError: it does not.
    """
    if new not in STAGE_TRANSITIONS[current]:
        raise IllegalTransitionError(f"a stage cannot go from {current} to {new}")
    return new


def now_ready(stages: Mapping[StageName, StageStatus]) -> list[StageName]:
    """The pending stages whose needs are all done, in the order of `StageName`."""
    return [
        name
        for name in StageName
        if stages.get(name) is StageStatus.PENDING
        and all(stages[need] in STAGE_DONE for need in NEEDS[name] if need in stages)
    ]


def status_of_job(current: JobStatus, stages: Mapping[StageName, StageStatus]) -> JobStatus:
    """What a job's status follows to be from its stages' statuses."""
    values = set(stages.values())
    if values <= STAGE_DONE:
        return JobStatus.SUCCEEDED
    if StageStatus.RUNNING in values:
        return JobStatus.RUNNING if current is JobStatus.QUEUED else current
    if current is JobStatus.CANCELLING:
        return JobStatus.CANCELLED
    if StageStatus.FAILED in values:
        return JobStatus.FAILED
    return JobStatus.PAUSED if current is JobStatus.PAUSING else current
