"""`regraft run CSX`: the vendor's client is started for a params file, watched, and stopped with what it started.

Everything that can be checked from here is checked first. The client's output is passed on as it is. Ctrl-C and SIGTERM
interrupt the client, then cancel what of its jobs the cluster still has, because the client does not know SIGTERM, and
a job outlives a client that is killed for as long as the cluster waits for its heartbeat.
"""

from __future__ import annotations

import re
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from regraft.cerebrassite import CerebrasSite
from regraft.errors import InterruptedStageError, InvalidInputError
from regraft.jobs import ReasonClass
from regraft_worker.cerebras.adapted import flags_for, params_for
from regraft_worker.cerebras.client import Client
from regraft_worker.cerebras.command import Mode, client_words
from regraft_worker.cerebras.csctl import Csctl, UnreachableError
from regraft_worker.cerebras.given import Asked, flags_of_release, read_asked
from regraft_worker.cerebras.log import ApplianceJob, Done, LogReader
from regraft_worker.cerebras.places import check_places
from regraft_worker.cerebras.states import ENDED, ApplianceError, Failure

_TICK = 0.1
_CONFIRM_SECONDS = 30.0


def run_csx(*, mode: Mode, params: Path, model_dir: Path | None, given: Mapping[str, Any]) -> int:
    """Run the client; its exit status, 0 or 2 for a command line that it cannot read.

    Raises:
        InvalidInputError: no client is configured, or the params file, the flags or the places do not go together.
        InterruptedStageError: asked to stop.
        ApplianceError: the client failed, or ended without having done what it should.
    """
    site = _site()
    flags_of_release(given, site.release)
    asked = read_asked(params, given, site=site, mode=mode).with_model_dir(model_dir)
    check_places(asked)
    words = client_words(
        site.client_command,
        release=site.release,
        mode=mode,
        params=str(params_for(asked, given, path=params, mode=mode)),
        model_dir=str(asked.model_dir),
        flags=flags_for(asked, given),
    )
    named = {"mgmt_namespace": asked.cluster["mgmt_namespace"]}
    watched = _Watched(words, site.model_copy(update=named))
    status = watched.watch()
    if status not in (0, 2):
        raise ApplianceError(watched.failure or _unknown(f"the client ended with status {status}"))
    only = given.get("compile_only") or given.get("validate_only")
    if status == 0 and mode.startswith("train") and not only:
        _check_done(asked, done=watched.done)
    return status


def _site() -> CerebrasSite:
    site = CerebrasSite()
    if not site.client:
        raise InvalidInputError(
            "no client of a Cerebras cluster is configured on this machine",
            field="REGRAFT_CEREBRAS_CLIENT",
            value="",
            remedy="Set it and REGRAFT_CEREBRAS_RELEASE as docs/cerebras.md says, or use CPU or GPU.",
        )
    if missing := site.missing():
        raise InvalidInputError(
            "; ".join(missing), field="REGRAFT_CEREBRAS_CLIENT", value=site.client, remedy="See `regraft doctor`."
        )
    return site


class _Watched:
    """A client, and what is known of it from its output."""

    def __init__(self, words: list[str], site: CerebrasSite) -> None:
        self.words, self.site = words, site
        self.jobs: list[str] = []
        self.done = False
        self.failure: Failure | None = None
        self._stop = False
        self._log = LogReader()

    def watch(self) -> int:
        """Start it and wait for its end; its exit status.

        Raises:
            InterruptedStageError: asked to stop, and it is stopped.
        """
        with self._signals():
            client = Client(self.words, folder=Path.cwd())
            try:
                while client.status is None and not self._stop:
                    self._take(client.output(_TICK))
                if self._stop:
                    self._end(client)
                status = client.status
            finally:
                self._take(client.close())
        assert status is not None, "it has ended"
        return status

    def _end(self, client: Client) -> None:
        client.interrupt()
        deadline = time.monotonic() + self.site.interrupt_seconds
        while client.status is None and time.monotonic() < deadline:
            self._take(client.output(_TICK))
        self._take(client.close())
        left = cancel_all(Csctl(self.site), self.jobs)
        jobs = ", ".join(self.jobs) or "none"
        if left:
            raise InterruptedStageError(
                f"stopped, but the cluster did not confirm the end of: {', '.join(left)}",
                remedy="Look with csctl, and cancel them.",
            )
        raise InterruptedStageError(f"stopped; jobs of the cluster that have ended: {jobs}")

    def _take(self, output: bytes) -> None:
        sys.stdout.buffer.write(output)
        sys.stdout.buffer.flush()
        for happened in self._log.feed(output):
            if isinstance(happened, ApplianceJob) and happened.job not in self.jobs:
                self.jobs.append(happened.job)
            elif isinstance(happened, Done):
                self.done = True
            elif isinstance(happened, Failure):
                self.failure = self.failure or happened

    @contextmanager
    def _signals(self) -> Iterator[None]:
        kept = {number: signal.signal(number, self._on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in kept.items():
                signal.signal(number, handler)

    def _on_signal(self, number: int, _frame: object) -> None:
        self._stop = True


def cancel_all(csctl: Csctl, jobs: list[str]) -> list[str]:
    """Cancel those of the jobs that have not ended, each once, and wait for it; those not seen to end."""
    left = list(jobs)
    asked: set[str] = set()
    deadline = time.monotonic() + _CONFIRM_SECONDS
    while left and time.monotonic() < deadline:
        for job in list(left):
            try:
                if csctl.phase(job) in ENDED:
                    left.remove(job)
                elif job not in asked:
                    csctl.cancel(job)
                    asked.add(job)
            except UnreachableError:
                time.sleep(1)
        time.sleep(_TICK if left else 0)
    return left


def _check_done(asked: Asked, *, done: bool) -> None:
    """Exit status 0 alone is not success."""
    if not done:
        raise ApplianceError(_unknown("the client ended without the line that says that training is complete"))
    last, saved = asked.control.get("max_steps"), asked.control.get("checkpoint_steps")
    name = re.compile(rf"checkpoint_{last}(_\d{{8}}_\d{{6}})?\.mdl")
    if last and saved and not any(name.fullmatch(path.name) for path in asked.model_dir.glob("checkpoint_*.mdl")):
        raise ApplianceError(_unknown(f"there is no checkpoint of the last step, {last}, in {asked.model_dir}"))


def _unknown(message: str) -> Failure:
    return Failure(reason="appliance_error", reason_class=ReasonClass.INFRASTRUCTURE, message=message)
