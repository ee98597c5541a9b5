"""Every error Regraft raises on purpose, under one root.

An error carries what a person needs to act: the field, the value that was refused, the remedy; and what the job
record needs: a snake_case `reason` and a `reason_class` that says who can mend it and whether a retry can help.
Programming mistakes are asserts or built-in exceptions, never these.
"""

from __future__ import annotations

from typing import ClassVar

from regraft.jobs import ReasonClass


class RegraftError(Exception):
    """Root of the tree. Caught at the edges (API, CLI, stage child), nowhere else."""

    reason: ClassVar[str] = "internal_error"
    reason_class: ClassVar[ReasonClass] = ReasonClass.CONTROL_PLANE

    def __init__(
        self, message: str, *, field: str = "", value: object = None, remedy: str = "", reason: str = ""
    ) -> None:
        super().__init__(message)
        self.message = message
        self.field = field
        self.value = value
        self.remedy = remedy
        if reason:
            self.reason = reason  # type: ignore[misc]  # one instance may name its cause more closely than its class

    def __str__(self) -> str:
        where = f"{self.field}: " if self.field else ""
        shown = "" if self.value is None else f" (got {self.value!r})"
        return f"{where}{self.message}{shown}{'. ' + self.remedy if self.remedy else ''}"


class InvalidInputError(RegraftError, ValueError):
    """What the user asked for cannot be done as asked."""

    reason = "invalid_input"
    reason_class = ReasonClass.USER_ERROR


class InvalidDataError(RegraftError, ValueError):
    """A corpus, dataset or checkpoint is not what it should be."""

    reason = "invalid_data"
    reason_class = ReasonClass.DATA_ERROR


class NotFoundError(RegraftError, LookupError):
    """The named thing does not exist."""

    reason = "not_found"
    reason_class = ReasonClass.USER_ERROR


class ConflictError(RegraftError):
    """The thing exists but is in a state that forbids the request."""

    reason = "conflict"
    reason_class = ReasonClass.USER_ERROR


class LimitError(RegraftError):
    """A limit of the deployment or of a project is reached; later it may be possible."""

    reason = "limit_reached"
    reason_class = ReasonClass.LIMIT


class FencedError(RegraftError):
    """Somebody else holds the stage by now: stop, write nothing."""

    reason = "lease_lost"
    reason_class = ReasonClass.CONTROL_PLANE


class InterruptedStageError(RegraftError):
    """The stage was asked to stop and has saved what it had."""

    reason = "stopped"
    reason_class = ReasonClass.USER_REQUEST
