"""The supervisor of stages: claims one, runs an attempt of it, and writes how it ended.

It never imports torch: a crash of the core (HDF5 on a full disk dies of SIGSEGV) ends a child, not the worker. It
fences itself: when the database has been out of reach for two thirds of a lease, the child is killed before anybody
else can start another; and when the supervisor itself is stopped, the child ends at the end of the lease (`tether`).
It keeps a note of what it is at, by which its own death is known on this machine (`holdings`, `takeover`).
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field

from regraft.allowed import check_uris
from regraft.attempt import MARK, POLL_SECONDS, Attempt, child_environment
from regraft.child import error_fields
from regraft.errors import FencedError, InvalidInputError
from regraft.holdings import Holding, held
from regraft.jobstore import UNREACHABLE, Claim, Leases, Outcome
from regraft.lines import Invite
from regraft.logs import bound
from regraft.processes import kill_marked
from regraft.settings import Settings
from regraft.verdict import not_started, refused

log = logging.getLogger(__name__)

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
        asked = time.monotonic()
        try:
            claim = self.leases.claim(stage_id, worker=self.worker)
        except UNREACHABLE as error:
            log.warning("the database is unreachable, %s stays where it is: %s", stage_id, error)
            return
        if claim is None:
            log.info("%s is not ready any more, nothing to do", stage_id)
            return
        with bound(job=claim.job_id, stage=claim.stage, attempt=claim.epoch):
            self._run(claim, asked)

    def _run(self, claim: Claim, asked: float) -> None:
        log.info("%s: attempt %d starts", claim.stage_id, claim.epoch)
        try:
            with held(self.settings.home, Holding(claim.stage_id, claim.epoch, claim.worker)) as inherited:
                self._finish(claim, self._attempt(claim, asked, inherited))
        except FencedError as error:
            log.warning("%s: attempt %d is not ours, nothing is written: %s", claim.stage_id, claim.epoch, error)

    def _attempt(self, claim: Claim, claimed_at: float, inherited: tuple[int, ...]) -> Outcome:
        try:
            check_uris(claim.spec, self.settings)  # again: a link may have been put there since the job was posted
            attempt = Attempt(
                claim,
                leases=self.leases,
                settings=self.settings,
                module=self.module,
                invite=self.invite,
                drain=self.drain,
                claimed_at=claimed_at,
                inherited=inherited,
            )
        except InvalidInputError as error:
            return refused(error_fields(error))
        except (OSError, LookupError, ValueError) as error:
            log.exception("%s: attempt %d could not be started", claim.stage_id, claim.epoch)
            return not_started(error)
        return attempt.run()

    def assist(self, where: str) -> None:
        """Help at a work folder until nothing is left to do there; a draining worker just leaves."""
        if self.drain.is_set():
            return
        log.info("helping at %s", where)
        mark = f"{MARK}=assist:{os.getpid()}:{time.monotonic_ns()}"
        child = subprocess.Popen(
            [sys.executable, "-P", "-m", self.module, ASSIST_STAGE],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
            env=child_environment(self.settings, mark),
        )
        try:
            assert child.stdin is not None
            with suppress(BrokenPipeError), child.stdin as stdin:
                stdin.write(where)
            while child.poll() is None and not self.drain.wait(POLL_SECONDS):
                pass
        finally:
            kill_marked(mark)
            child.wait()
        log.info("helped at %s, status %s", where, child.returncode)

    def _finish(self, claim: Claim, outcome: Outcome) -> None:
        deadline = time.monotonic() + self.settings.lease_seconds
        while True:
            try:
                self.leases.finish(claim, outcome)
                log.info("%s: attempt %d %s", claim.stage_id, claim.epoch, outcome.status)
                return
            except UNREACHABLE:
                if time.monotonic() > deadline:
                    raise FencedError("the database is out of reach", value=claim.stage_id) from None
                time.sleep(1.0)
