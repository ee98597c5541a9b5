"""One attempt of a stage: its process, the conversation with it, and what both sides may rely on.

Written for one thread; the process's output is read by two more, so that it never waits for us. Ends with an `Outcome`,
or with `FencedError`: then somebody else holds the stage, or soon may, and nothing more is written.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from regraft import verdict
from regraft.child import LEAVE, SUPERVISOR
from regraft.environment import SUFFIX
from regraft.errors import FencedError
from regraft.jobs import StageName
from regraft.jobstore import UNREACHABLE, Claim, Leases, Outcome, Wanted
from regraft.lines import Invite, LineReader, Relay
from regraft.memorycontrol import oom_kills
from regraft.mirrored import mirror_environment
from regraft.plan import task_for
from regraft.processes import kill_marked
from regraft.runlog import RunLog, secrets_in
from regraft.settings import Settings
from regraft.specs import CerebrasTargetSpec
from regraft.tether import Tether

POLL_SECONDS = 0.5
MARK = "REGRAFT_ATTEMPT"
"""Environment variable that a stage process and everything it starts carries."""
_SECRETS = ("REGRAFT_DATABASE_URL", "REGRAFT_REDIS_URL", "REGRAFT_API_KEY")
KEPT_FROM_CHILDREN = {*_SECRETS, "PGPASSWORD", "REDIS_PASSWORD", *(name + SUFFIX for name in _SECRETS)}


class Attempt:
    """Started by its constructor, which may raise OSError, LookupError or ValueError; `run` waits for its end."""

    def __init__(
        self,
        claim: Claim,
        *,
        leases: Leases,
        settings: Settings,
        module: str,
        invite: Invite,
        drain: threading.Event,
        claimed_at: float,
        inherited: tuple[int, ...] = (),
    ) -> None:
        self._claim, self._leases, self._settings, self._drain = claim, leases, settings, drain
        self._mark = f"{MARK}={claim.stage_id}:{claim.epoch}:{os.getpid()}:{time.monotonic_ns()}"
        self._renewed = claimed_at
        self._checked = self._heard = time.monotonic()
        self._asked: Wanted | None = None
        self._asked_at = 0.0
        self._drained = self._hung = False
        # One that trains elsewhere cannot save at any moment: a pause waits for its next checkpoint.
        self._saves_at_times = claim.stage is StageName.TRAIN and isinstance(claim.spec.target, CerebrasTargetSpec)
        self._child = self._start(module, inherited)
        self._oom_kills = oom_kills(os.getpid())
        self._tether = Tether(self._child)
        self._allow()
        assert self._child.stderr is not None
        secrets = secrets_in(settings.database_url, settings.redis_url)
        path = log_path(settings, claim)
        self._log = RunLog(self._child.stderr.buffer, path, max_bytes=settings.log_bytes, secrets=secrets)  # type: ignore[attr-defined]
        self._reader = LineReader(self._child)
        self._relay = Relay(leases, claim, invite=invite)

    def run(self) -> Outcome:
        """Until the process has ended and everything it said is written."""
        try:
            while self._child.poll() is None:
                self._wait()
                self._keep_in_touch()
                self._enforce()
            self._clear_away()
            self._relay.take(self._reader.drain())
            self._flush_to_the_end()
        finally:
            self._clear_away()
        return self._outcome()

    def _wait(self) -> None:
        """Until it has said something, or has ended, or it is time to look after it."""
        if self._reader.ended:
            with suppress(subprocess.TimeoutExpired):
                self._child.wait(POLL_SECONDS)
        else:
            self._reader.wait(POLL_SECONDS)

    def _start(self, module: str, inherited: tuple[int, ...]) -> subprocess.Popen[str]:
        claim = self._claim
        task = task_for(
            claim.stage,
            job_id=claim.job_id,
            spec=claim.spec,
            results=claim.results,
            storage=self._settings.storage_root,
            override=claim.override,
            epoch=claim.epoch,
        )
        child = subprocess.Popen(
            [sys.executable, "-P", "-m", module, claim.stage],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            pass_fds=inherited,
            env=child_environment(self._settings, self._mark, epoch=claim.epoch),
        )
        assert child.stdin is not None
        with suppress(BrokenPipeError):  # it died at once, and its exit status tells
            child.stdin.write(task.model_dump_json(by_alias=True) + "\n")
            child.stdin.flush()
        return child

    def _allow(self) -> None:
        self._tether.allow(self._renewed + self._settings.lease_seconds)

    def _keep_in_touch(self) -> None:
        """Relay, renew, ask; a database that does not answer is borne for two thirds of a lease."""
        lines = self._reader.drain()
        if lines:
            self._heard = time.monotonic()
        self._relay.take(lines)
        try:
            if time.monotonic() - self._renewed > self._settings.lease_seconds / 3:
                self._renew()
            self._relay.flush()
            self._ask()
        except UNREACHABLE as error:
            if time.monotonic() - self._renewed > self._settings.lease_seconds * 2 / 3:
                raise FencedError("the database is out of reach", value=self._claim.stage_id) from error

    def _renew(self) -> None:
        asked = time.monotonic()  # the lease counts from some time after this
        self._leases.renew(self._claim)
        self._renewed = asked
        self._allow()

    def _flush_to_the_end(self) -> None:
        while True:
            try:
                self._relay.flush()
                return
            except UNREACHABLE:
                if time.monotonic() - self._renewed > self._settings.lease_seconds:
                    raise FencedError("the database is out of reach", value=self._claim.stage_id) from None
                time.sleep(1.0)

    def _ask(self) -> None:
        patient = self._asked is Wanted.PAUSE and self._saves_at_times
        if (self._asked is not None and not patient) or time.monotonic() - self._checked < POLL_SECONDS:
            return
        self._checked = time.monotonic()
        wanted = self._leases.wanted(self._claim)
        if patient:
            self._hurry(wanted)
            return
        self._drained = wanted is Wanted.GO_ON and self._drain.is_set()
        if wanted is not Wanted.GO_ON or self._drained:
            self._asked, self._asked_at = wanted, time.monotonic()
            waits = wanted is Wanted.PAUSE and self._saves_at_times
            self._child.send_signal(signal.SIGUSR1 if waits else LEAVE if self._drained else signal.SIGTERM)

    def _hurry(self, wanted: Wanted) -> None:
        """A pause that is still waiting for a checkpoint ends at once when more than a pause is wanted."""
        if wanted in (Wanted.CANCEL, Wanted.DROP) or self._drain.is_set():
            self._saves_at_times = False
            self._asked = Wanted.PAUSE if self._drain.is_set() and wanted is Wanted.PAUSE else wanted
            self._asked_at, self._relay.stop_by = time.monotonic(), 0.0
            self._child.send_signal(signal.SIGTERM)

    def _enforce(self) -> None:
        """The deadlines: of a stop, and of silence."""
        now = time.monotonic()
        if self._asked is not None:
            if now > max(self._asked_at + self._settings.stop_seconds, self._relay.stop_by):
                self._kill()
        elif now - self._heard > self._settings.hang_seconds:
            self._hung = True
            self._kill()

    def _kill(self) -> None:
        """The process, its group, and whatever it started outside of it; safe to call again."""
        with suppress(ProcessLookupError):
            os.killpg(self._child.pid, signal.SIGKILL)
        self._child.wait()

    def _clear_away(self) -> None:
        """Nothing of the attempt is left running, and everything that it said is read."""
        if self._reader.closed:
            return
        self._kill()
        kill_marked(self._mark)
        self._reader.join()
        self._log.join()
        assert self._child.stdin is not None
        with suppress(BrokenPipeError):
            self._child.stdin.close()

    def _outcome(self) -> Outcome:
        code = self._child.returncode
        ended = (code, None) if code >= 0 else (None, -code)
        return replace(self._verdict(code), exit_status=ended[0], signal=ended[1])

    def _verdict(self, code: int) -> Outcome:
        last = self._relay.last
        if last is not None and last["type"] == "result" and code == 0:
            return verdict.finished(last["result"])
        if self._asked is not None:
            return verdict.stopped(self._asked, drained=self._drained)
        if self._hung:
            return verdict.hung(self._settings.hang_seconds, self._log.path)
        if last is not None and last["type"] == "error":
            return verdict.refused(last)
        return verdict.crashed(code, self._log.path, tail=self._log.tail(), oom_killed=self._was_oom_killed())

    def _was_oom_killed(self) -> bool:
        before, after = self._oom_kills, oom_kills(os.getpid())
        return before is not None and after is not None and after > before


def child_environment(settings: Settings, mark: str, *, epoch: int = 0) -> dict[str, str]:
    """This process's, without what a core has no business with."""
    name, _, value = mark.partition("=")
    kept = {key: text for key, text in os.environ.items() if key not in KEPT_FROM_CHILDREN}
    storage = mirror_environment(
        settings.storage_root, settings.cache_folder, most_bytes=settings.cache_bytes, epoch=epoch
    )
    return {**kept, **storage, SUPERVISOR: str(os.getpid()), "REGRAFT_HOME": str(settings.home), name: value}


def log_path(settings: Settings, claim: Claim) -> Path:
    """Where the output of an attempt goes; older parts are beside it, see `runlog`."""
    return settings.log_folder / claim.job_id / f"{claim.stage}-{claim.epoch}.log"
