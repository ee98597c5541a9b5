"""A stage whose artifacts are kept in a bucket: its task and its reports pass through here, the core notices nothing.

What a stage reads is brought to this machine before it starts. What it publishes is sent when it says so: a dataset, a
converted model, an evaluation or an export before the report goes on, so that a row never names what is not there; a
training checkpoint while training goes on, its report following once it has arrived. Two checkpoints may wait to be
sent; then training waits as well. What is to be sent is held by links, so that retention may delete the folder.
"""

from __future__ import annotations

import json
import os
import shutil
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from functools import partial
from pathlib import Path

from regraft.errors import InterruptedStageError, InvalidDataError, StorageFailedError
from regraft.ports import Level, Progress
from regraft.specs import Spec
from regraft.storage import Mirror, is_remote, local_path
from regraft.storage.manifest import NAME

StageFunction = Callable[[str, Progress], Spec]
"""Takes the task as JSON and a progress port, returns the result."""

ROOT, FOLDER, LIMIT = "REGRAFT_STORAGE_URI", "REGRAFT_CACHE_FOLDER", "REGRAFT_CACHE_BYTES"
EPOCH = "REGRAFT_EPOCH"
_WAITING = 2
_POLL_SECONDS = 1.0


def mirror_environment(storage: str, folder: Path, *, most_bytes: int, epoch: int) -> dict[str, str]:
    """What a stage process needs to know of where artifacts are kept, and which attempt it is."""
    return {ROOT: storage, FOLDER: str(folder), LIMIT: str(most_bytes), EPOCH: str(epoch)}


def mirror_of(environment: Mapping[str, str]) -> Mirror | None:
    """The bucket and its folder on this machine; None: storage is a folder already."""
    root = environment.get(ROOT, "")
    if not is_remote(root):
        return None
    return Mirror(root, Path(environment[FOLDER]), epoch=int(environment[EPOCH]))


def through(function: StageFunction, environment: Mapping[str, str]) -> StageFunction:
    """The same stage where artifacts are kept in a bucket; the very same where they are not."""
    if not is_remote(environment.get(ROOT, "")):
        return function

    def mirrored(task: str, progress: Progress) -> Spec:
        mirror = mirror_of(environment)
        assert mirror is not None
        return _run(function, mirror, task, progress, limit=int(environment[LIMIT]))

    return mirrored


def _run(function: StageFunction, mirror: Mirror, task: str, progress: Progress, *, limit: int) -> Spec:
    try:
        with MirroredProgress(progress, mirror) as reports:
            given = mirror.localised(json.loads(task), tick=reports.tick)
            if limit:
                mirror.make_room(limit)
            result = function(json.dumps(given), reports)
    finally:
        mirror.release()
    return type(result).model_validate(mirror.abroad(result.model_dump(mode="json")))


class MirroredProgress:
    """A `Progress` that sends what is published before it hands the report on.

    Leaving the `with` block waits for all that is on its way, however it is left.
    """

    def __init__(self, inner: Progress, mirror: Mirror) -> None:
        self._inner, self._mirror = inner, mirror
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="send")
        self._waiting: deque[Future[None]] = deque()
        self._failed: StorageFailedError | None = None
        self._sent: dict[Path, bytes] = {}

    def __enter__(self) -> MirroredProgress:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._wait(most=0)
        self._pool.shutdown()
        if self._failed is not None and kind is None:
            raise self._failed

    def step(
        self, step: int, metrics: Mapping[str, float], *, total: int | None = None, tokens: int | None = None
    ) -> None:
        self._inner.step(step, metrics, total=total, tokens=tokens)

    def artifact(self, kind: str, uri: str, metadata: Mapping[str, object]) -> None:
        folder = local_path(uri)
        if not folder.is_relative_to(self._mirror.folder):
            self._inner.artifact(kind, uri, metadata)
        elif kind == "checkpoint":
            self._later(partial(self._send_checkpoint, folder, _linked(folder), metadata))
        elif kind == "pruned":
            self._later(partial(self._delete, folder))
        else:
            self._mirror.publish(folder, tick=self.tick)
            self._tell(kind, folder, metadata)

    def event(self, message: str, *, level: Level = "info", data: Mapping[str, object] | None = None) -> None:
        self._inner.event(message, level=level, data=data)

    def invite(self, where: str, *, workers: int) -> None:
        """Nobody: the work folder is on this machine's own disk."""

    def is_kept(self, folder: Path) -> bool:
        return self._mirror.fetch_manifest(self._mirror.uri(folder))

    def condition(self, reason: str, message: str) -> None:
        self._inner.condition(reason, message)

    def should_stop(self) -> bool:
        return self._inner.should_stop()

    def is_asked_to_stop(self) -> bool:
        return self._inner.is_asked_to_stop()

    def may_leave(self) -> bool:
        return self._inner.may_leave()

    def postpone_stop(self, seconds: float) -> bool:
        return self._inner.postpone_stop(seconds)

    def _tell(self, kind: str, folder: Path, metadata: Mapping[str, object]) -> None:
        self._inner.artifact(kind, self._mirror.uri(folder), self._mirror.abroad(dict(metadata)))

    def tick(self, count: int) -> None:
        """Bytes have arrived, here or there.

        Raises:
            InterruptedStageError: asked to stop.
        """
        if self._inner.should_stop():  # asking also says that there is life in here
            raise InterruptedStageError("stopped while an artifact is on its way; what has arrived is kept")

    def _later(self, send: Callable[[], None]) -> None:
        self._wait(most=_WAITING)
        self._waiting.append(self._pool.submit(send))

    def _wait(self, *, most: int) -> None:
        """Until no more than so many are under way. Keeps saying that there is life in here."""
        while len(self._waiting) > most:
            if wait([self._waiting[0]], timeout=_POLL_SECONDS).done:
                self._waiting.popleft().result()
            self._inner.should_stop()

    def _send_checkpoint(self, folder: Path, sent: Path, metadata: Mapping[str, object]) -> None:
        """One that cannot be sent is said so, and training goes on; the newest one must arrive in the end."""
        try:
            self._mirror.publish(folder, seen=sent)
            self._sent[folder] = (sent / NAME).read_bytes()
        except (StorageFailedError, InvalidDataError, OSError) as error:
            self._failed = StorageFailedError(
                f"the newest checkpoint could not be sent to the bucket: {error}",
                value=self._mirror.uri(folder),
                remedy="It is on the worker's disk; a further attempt there sends it.",
            )
            self._inner.event(f"checkpoint {folder.name} could not be sent: {error}", level="error")
            return
        finally:
            shutil.rmtree(sent, ignore_errors=True)
        self._failed = None
        self._tell("checkpoint", folder, metadata)
        try:
            self._give_up_parts(folder)
        except StorageFailedError as error:  # tried again after the next one
            self._inner.event(f"older checkpoints stay whole in the bucket: {error}", level="warn")

    def _give_up_parts(self, newest: Path) -> None:
        """Older ones may have lost a part since (`keep_optimizer_last`); so they do in the bucket."""
        for folder in [folder for folder in self._sent if folder != newest]:
            with suppress(FileNotFoundError, InvalidDataError):  # retention has it, or it is damaged here
                raw = (folder / NAME).read_bytes()
                if raw != self._sent[folder]:
                    self._mirror.publish(folder)
                    self._sent[folder] = raw

    def _delete(self, folder: Path) -> None:
        uri = self._mirror.uri(folder)
        self._sent.pop(folder, None)
        try:
            self._mirror.depot.delete(uri)
        except StorageFailedError as error:
            self._inner.event(f"{folder.name} could not be deleted from the bucket: {error}", level="warn")
            return
        self._inner.artifact("pruned", uri, {})


def _linked(folder: Path) -> Path:
    """The files under a second name; they are there once, and stay until that is deleted, too."""
    held = folder.with_name(f".send-{folder.name}")
    shutil.rmtree(held, ignore_errors=True)
    shutil.copytree(folder, held, copy_function=os.link)
    return held
