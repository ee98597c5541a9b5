"""The supervisor of one stage: claims it, starts its process, relays what it says, renews the lease, ends it.

It never imports torch: a crash of the core (HDF5 on a full disk dies of SIGSEGV) ends a child, not the worker. It
fences itself: when the database has been out of reach for two thirds of a lease, the child is killed before anybody
else can start another.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from sqlalchemy.exc import OperationalError

from regraft.allowed import check_uris
from regraft.child import SUPERVISOR
from regraft.errors import FencedError, InvalidInputError
from regraft.jobs import ReasonClass
from regraft.jobstore import Claim, Leases, Outcome, Wanted
from regraft.lines import Invite, LineReader, Relay
from regraft.logs import bound
from regraft.plan import task_for
from regraft.settings import Settings

log = logging.getLogger(__name__)

POLL_SECONDS = 0.5
GONE = "the lease was lost"
ASSIST_STAGE = "assist"


@dataclass
class Supervisor:
    """Runs stages one at a time in the calling thread; `drain` may be set from any other."""

    leases: Leases
    settings: Settings
    worker: str
    module: str
    """Module with the stage functions, e.g. `regraft_worker.stage`."""
    invite: Invite = lambda where, workers: None
    """Called when a stage has work for others as well."""
    drain: threading.Event = field(default_factory=threading.Event)

    def run(self, stage_id: str) -> None:
        """Claim and run a stage, if it is still there to be claimed."""
        if self.drain.is_set():
            return
        claim = self.leases.claim(stage_id, worker=self.worker)
        if claim is None:
            log.info("%s is not ready any more, nothing to do", stage_id)
            return
        with bound(job=claim.job_id, stage=claim.stage, attempt=claim.epoch):
            self._run(claim)

    def _run(self, claim: Claim) -> None:
        log.info("%s: attempt %d starts", claim.stage_id, claim.epoch)
        try:
            try:
                check_uris(claim.spec, self.settings)  # again: a link may have been put there since the job was posted
            except InvalidInputError as error:
                outcome = Outcome(
                    status="failed", reason=error.reason, reason_class=error.reason_class, message=str(error)
                )
            else:
                outcome = _Attempt(self, claim).run()
            self._finish(claim, outcome)
        except FencedError:
            log.warning("%s: attempt %d lost its lease; nothing more is written", claim.stage_id, claim.epoch)

    def assist(self, where: str) -> None:
        """Help at a work folder until nothing is left to do there; a draining worker just leaves."""
        if self.drain.is_set():
            return
        log.info("helping at %s", where)
        child = subprocess.Popen(
            [sys.executable, "-m", self.module, ASSIST_STAGE],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
            env={**os.environ, SUPERVISOR: str(os.getpid())},
        )
        try:
            assert child.stdin is not None
            with suppress(BrokenPipeError), child.stdin as stdin:
                stdin.write(where)
            while child.poll() is None and not self.drain.wait(POLL_SECONDS):
                pass
        finally:
            _kill(child)
        log.info("helped at %s, status %s", where, child.returncode)

    def _finish(self, claim: Claim, outcome: Outcome) -> None:
        deadline = time.monotonic() + self.settings.lease_seconds
        while True:
            try:
                self.leases.finish(claim, outcome)
                log.info("%s: attempt %d %s", claim.stage_id, claim.epoch, outcome.status)
                return
            except OperationalError:
                if time.monotonic() > deadline:
                    raise FencedError(GONE, value=claim.stage_id) from None
                time.sleep(1.0)


class _Attempt:
    """One child process and the conversation with it."""

    def __init__(self, supervisor: Supervisor, claim: Claim) -> None:
        self._leases = supervisor.leases
        self._settings = supervisor.settings
        self._drain = supervisor.drain
        self._claim = claim
        self._log = log_path(supervisor.settings, claim)
        self._child = self._start(supervisor.module)
        self._reader = LineReader(self._child)
        self._relay = Relay(supervisor.leases, claim, invite=supervisor.invite)
        self._renewed = self._checked = time.monotonic()
        self._asked: Wanted | None = None
        self._asked_at = 0.0
        self._drained = False

    def run(self) -> Outcome:
        """Until the child has ended and everything it said is written."""
        try:
            while self._child.poll() is None:
                self._reader.wait(POLL_SECONDS)
                self._keep_in_touch()
                self._enforce_stop()
            self._reader.join()
            self._relay.take(self._reader.drain())
            self._flush_to_the_end()
        finally:
            self._kill()
            self._reader.join()
        return self._outcome()

    def _start(self, module: str) -> subprocess.Popen[str]:
        task = task_for(
            self._claim.stage,
            job_id=self._claim.job_id,
            spec=self._claim.spec,
            results=self._claim.results,
            storage=self._settings.storage_root,
        )
        self._log.parent.mkdir(parents=True, exist_ok=True)
        with self._log.open("ab") as log_file:
            child = subprocess.Popen(
                [sys.executable, "-m", module, self._claim.stage],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log_file,
                text=True,
                start_new_session=True,
                env={**os.environ, SUPERVISOR: str(os.getpid())},
            )
        assert child.stdin is not None
        with suppress(BrokenPipeError), child.stdin as stdin:  # broken: it died at once, and its exit status tells
            stdin.write(task.model_dump_json(by_alias=True))
        return child

    def _keep_in_touch(self) -> None:
        """Relay, renew, ask; a database that does not answer is borne for two thirds of a lease."""
        self._relay.take(self._reader.drain())
        try:
            self._relay.flush()
            if time.monotonic() - self._renewed > self._settings.lease_seconds / 3:
                self._leases.renew(self._claim)
                self._renewed = time.monotonic()
            self._ask()
        except OperationalError as error:
            if time.monotonic() - self._renewed > self._settings.lease_seconds * 2 / 3:
                raise FencedError("the database is out of reach", value=self._claim.stage_id) from error

    def _flush_to_the_end(self) -> None:
        while True:
            try:
                self._relay.flush()
                return
            except OperationalError:
                if time.monotonic() - self._renewed > self._settings.lease_seconds:
                    raise FencedError("the database is out of reach", value=self._claim.stage_id) from None
                time.sleep(1.0)

    def _ask(self) -> None:
        if self._asked is not None or time.monotonic() - self._checked < POLL_SECONDS:
            return
        self._checked = time.monotonic()
        wanted = self._leases.wanted(self._claim)
        self._drained = wanted is Wanted.GO_ON and self._drain.is_set()
        if wanted is not Wanted.GO_ON or self._drained:
            self._asked, self._asked_at = wanted, time.monotonic()
            self._child.send_signal(signal.SIGTERM)

    def _enforce_stop(self) -> None:
        if self._asked is not None and time.monotonic() - self._asked_at > self._settings.stop_seconds:
            self._kill()

    def _kill(self) -> None:
        _kill(self._child)

    def _outcome(self) -> Outcome:
        code = self._child.returncode
        ended = (code, None) if code >= 0 else (None, -code)
        return replace(self._verdict(code), exit_status=ended[0], signal=ended[1])

    def _verdict(self, code: int) -> Outcome:
        last = self._relay.last
        if last is not None and last["type"] == "result" and code == 0:
            result = last["result"]
            return Outcome(status="cached" if result.get("cached") else "succeeded", result=result)
        if self._drained:
            return Outcome(status="released", reason="worker_drained", message="the worker is leaving")
        if self._asked is Wanted.PAUSE:
            return Outcome(status="released", reason="paused", message="the job is being paused")
        if self._asked is not None:
            reason = "cancelled" if self._asked is Wanted.CANCEL else "not_needed"
            return Outcome(status="cancelled", reason=reason, reason_class=ReasonClass.USER_REQUEST)
        if last is not None and last["type"] == "error":
            return _refused(last)
        return _crashed(code, self._log)


def _kill(child: subprocess.Popen[str]) -> None:
    """The child and whatever it has started."""
    if child.poll() is None:
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()


def log_path(settings: Settings, claim: Claim) -> Path:
    """Where the output of an attempt goes."""
    return settings.log_folder / claim.job_id / f"{claim.stage}-{claim.epoch}.log"


def _refused(line: Mapping[str, str]) -> Outcome:
    detail = {key: line[key] for key in ("field", "value", "remedy") if line.get(key)}
    return Outcome(
        status="failed",
        reason=line["reason"],
        reason_class=ReasonClass(line["reason_class"]),
        message=line["message"],
        detail=detail or None,
    )


def _crashed(code: int, log_file: Path) -> Outcome:
    """No last word: killed from outside, or a fault of ours whose traceback is in the log."""
    if code == -signal.SIGKILL:
        reason, what = "killed", "was killed"
    elif code < 0:
        reason, what = "crashed", f"died of signal {-code}"
    else:
        reason, what = "crashed", f"ended with status {code} without a word"
    message = f"the stage process {what}; its log is {log_file}"
    return Outcome(status="failed", reason=reason, reason_class=ReasonClass.INFRASTRUCTURE, message=message)
