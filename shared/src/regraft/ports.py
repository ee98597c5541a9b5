"""What a computing core may ask of the world around it.

The cores (data preparation, conversion, training, evaluation) know no queue, database or web server. They report
through a `Progress`; `NullProgress` is the default, so that each of them runs from a notebook.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal, Protocol

Level = Literal["info", "warn", "error"]


class Progress(Protocol):
    """Where a running stage reports to."""

    def step(
        self, step: int, metrics: Mapping[str, float], *, total: int | None = None, tokens: int | None = None
    ) -> None:
        """`step` of `total` is done; `metrics` are values at this step; `tokens`: seen so far in this job."""

    def artifact(self, kind: str, uri: str, metadata: Mapping[str, object]) -> None:
        """Something durable was published at `uri`, or (kind `pruned`) what was there has been deleted by retention.

        Kinds: `dataset`, `base_checkpoint`, `checkpoint`, `evaluation`, `export`, `pruned`.
        """

    def event(self, message: str, *, level: Level = "info", data: Mapping[str, object] | None = None) -> None:
        """A line for the job's history."""

    def invite(self, where: str, *, workers: int) -> None:
        """Other workers of this service may help at the work folder `where` (a path); so many would find work there.

        Nothing depends on their coming.
        """

    def condition(self, reason: str, message: str) -> None:
        """What a running stage is at, or waits for, as long as nothing else is said: `waiting_for_appliance`."""

    def is_kept(self, folder: Path) -> bool:
        """Whether the artifact that would be published as `folder` is kept elsewhere, where storage is no folder.

        Then its manifest, and the JSON files beside it, are in `folder` afterwards, and it need not be made.
        """

    def should_stop(self) -> bool:
        """True once the stage shall save and raise `InterruptedStageError`. Asking is a sign of life."""

    def is_asked_to_stop(self) -> bool:
        """The same for one who only waits for others to do the work: asking is no sign of life, for they may hang."""

    def may_leave(self) -> bool:
        """With `should_stop`: another worker will come, and what runs on other machines may go on meanwhile."""

    def postpone_stop(self, seconds: float) -> bool:
        """Asked to stop: may it take so many seconds more, until it has saved? False: the time it has is all there is.

        To be asked again before they are over.
        """


class NullProgress:
    """Reports to nobody and never stops."""

    def step(
        self, step: int, metrics: Mapping[str, float], *, total: int | None = None, tokens: int | None = None
    ) -> None:
        return

    def artifact(self, kind: str, uri: str, metadata: Mapping[str, object]) -> None:
        return

    def event(self, message: str, *, level: Level = "info", data: Mapping[str, object] | None = None) -> None:
        return

    def invite(self, where: str, *, workers: int) -> None:
        return

    def condition(self, reason: str, message: str) -> None:
        return

    def is_kept(self, folder: Path) -> bool:
        return False

    def should_stop(self) -> bool:
        return False

    def is_asked_to_stop(self) -> bool:
        return self.should_stop()

    def may_leave(self) -> bool:
        return False

    def postpone_stop(self, seconds: float) -> bool:
        return False
