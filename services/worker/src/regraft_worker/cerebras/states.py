"""The cluster's words for how a job stands and why it failed, as this project's reasons."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from regraft.errors import RegraftError
from regraft.jobs import ReasonClass

WAITING, COMPILING, RUNNING, FAILING = "waiting_for_appliance", "compiling", "running", "failing"
UNREACHABLE = "appliance_unreachable"
ENDED = frozenset(("SUCCEEDED", "FAILED", "CANCELLED", "DELETED"))
"""Phases after which a job holds nothing any more."""

# csctl's phases, and the states of the cluster's own interface.
_REASONS: Mapping[str, str] = {
    **dict.fromkeys(("CREATED", "QUEUED", "IN_QUEUE", "SCHEDULED", "INITIALIZING", "INIT"), WAITING),
    **dict.fromkeys(("RUNNING", "IN_PROGRESS"), RUNNING),
    "FAILING": FAILING,
}

_C = ReasonClass
# Classes of the client's errors: transient ones are tried again, the others are for whoever wrote the job, or stopped
# it, to mend.
_FAILURES: Mapping[str, tuple[str, ReasonClass]] = {
    "ApplianceServiceInterrupted": ("appliance_interrupted", _C.INFRASTRUCTURE),
    "ApplianceUnknownError": ("appliance_error", _C.INFRASTRUCTURE),
    "ApplianceCorruptionError": ("appliance_error", _C.INFRASTRUCTURE),
    "ApplianceDeadlockError": ("appliance_stalled", _C.INFRASTRUCTURE),
    "ApplianceHealthPollException": ("appliance_unhealthy", _C.INFRASTRUCTURE),
    "ApplianceTensorDropped": ("appliance_error", _C.INFRASTRUCTURE),
    "ApplianceRuntimeServerError": ("appliance_error", _C.INFRASTRUCTURE),
    "ApplianceResourceExhausted": ("appliance_full", _C.CAPACITY),
    "ApplianceNanError": ("loss_not_finite", _C.DATA_ERROR),
    "ApplianceCompilationError": ("compilation_failed", _C.USER_ERROR),
    "ApplianceVersionError": ("appliance_version_mismatch", _C.USER_ERROR),
    "ApplianceRequestCancelled": ("appliance_job_cancelled", _C.USER_REQUEST),
    "ApplianceRuntimeJobTimeoutError": ("appliance_time_limit", _C.LIMIT),
    "ClusterConfigError": ("appliance_config", _C.USER_ERROR),
    "ClusterJobCancelledByCsctl": ("appliance_job_cancelled", _C.USER_REQUEST),
    "ClusterJobScheduleError": ("appliance_cannot_schedule", _C.CAPACITY),
    "ClusterJobInitError": ("appliance_error", _C.INFRASTRUCTURE),
    "CsctlError": ("appliance_error", _C.INFRASTRUCTURE),
    "PicklableRpcError": ("appliance_interrupted", _C.INFRASTRUCTURE),
    "UserVenvClusterVolumeError": ("appliance_volume_missing", _C.USER_ERROR),
    "MissingVolumeError": ("appliance_volume_missing", _C.USER_ERROR),
}
_RAISED = re.compile(
    rf"(?:^|[\s.])(?P<name>{'|'.join(_FAILURES)}|Appliance\w+Error|Cluster\w+Error)\b:?\s*(?P<said>.*)"
)
_REFUSED = re.compile(r"\bUNAVAILABLE\b|failed to connect to all addresses|Connection refused|No route to host")

_REMEDIES: Mapping[str, str] = {
    "appliance_version_mismatch": "Set REGRAFT_CEREBRAS_CLIENT to a client of the cluster's release.",
    "appliance_volume_missing": "Put data, environment and model folder on a volume that the cluster mounts.",
    "appliance_config": "Check the REGRAFT_CEREBRAS_ settings.",
    "appliance_time_limit": "Raise target.time_limit_seconds, and retry the job: it goes on from its last checkpoint.",
    "appliance_job_cancelled": "Somebody cancelled it on the cluster; retry the job to go on.",
    "compilation_failed": "See the log; another batch size or shape may compile.",
    "loss_not_finite": "Lower the learning rate, or warm up longer.",
}


@dataclass(frozen=True, kw_only=True)
class Failure:
    """What the client died of, in its own words and ours."""

    reason: str
    reason_class: ReasonClass
    message: str


class ApplianceError(RegraftError):
    """A run on the cluster failed; the instance says why and who can mend it."""

    reason = "appliance_error"
    reason_class = ReasonClass.INFRASTRUCTURE

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message, remedy=_REMEDIES.get(failure.reason, ""), reason=failure.reason)
        self.reason_class = failure.reason_class  # type: ignore[misc]  # as the reason, one instance's own


def reason_of(phase: str, *, compiles: bool) -> str | None:
    """Why a stage whose job is in this phase is where it is; None: the job has ended, or the phase is unknown."""
    reason = _REASONS.get(phase.upper())
    return COMPILING if compiles and reason == RUNNING else reason


def failure_in(line: str) -> Failure | None:
    """The failure that a line of the client's log speaks of."""
    if found := _RAISED.search(line):
        reason, class_ = _FAILURES.get(found["name"], ("appliance_error", ReasonClass.INFRASTRUCTURE))
        if _REFUSED.search(found["said"]):
            reason = UNREACHABLE
        return Failure(reason=reason, reason_class=class_, message=f"{found['name']}: {found['said']}".rstrip(": "))
    if _REFUSED.search(line):
        return Failure(reason=UNREACHABLE, reason_class=ReasonClass.INFRASTRUCTURE, message=line.strip())
    return None
