"""The life of jobs as a machine: hypothesis chooses what happens, a real PostgreSQL says what came of it.

After each step the store must keep to the table of states, never let two hold a stage, and never lose a job; at the
end, when nothing disturbs any more, every job must end.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import Engine, text

from helpers import spec
from regraft.errors import ConflictError, FencedError
from regraft.jobs import (
    JOB_ENDED,
    JOB_HELD,
    JOB_TRANSITIONS,
    STAGE_ENDED,
    JobStatus,
    Priority,
    ReasonClass,
    StageStatus,
)
from regraft.jobstore import Announcements, Claim, Control, Jobs, Leases, Operations, Outcome, advance, limits
from regraft.settings import Settings

RESULT = {"uri": "file:///x", "address": "x", "step": 1, "tokens_seen": 1, "scores": {}}
OUTCOMES = [
    Outcome(status="succeeded", result=RESULT),
    Outcome(status="cached", result=RESULT),
    Outcome(status="released"),
    Outcome(status="failed", reason="killed", reason_class=ReasonClass.INFRASTRUCTURE, message="killed"),
    Outcome(status="failed", reason="out_of_memory", reason_class=ReasonClass.CAPACITY, message="memory"),
    Outcome(status="failed", reason="corpus_empty", reason_class=ReasonClass.DATA_ERROR, message="no text"),
]
MOST_RUNNING = 2
QUEUES = ["prepare", "convert", "train.cpu", "evaluate.cpu", "export"]


class Lifecycle(RuleBasedStateMachine):
    engine: Engine
    settings: Settings

    @initialize()
    def begin(self) -> None:
        with self.engine.begin() as connection:
            connection.execute(text("TRUNCATE jobs, maintenance, project_limits CASCADE"))
        self.jobs, self.control = Jobs(self.engine), Control(self.engine)
        self.leases = Leases(self.engine, self.settings)
        self.announcements = Announcements(self.engine, self.settings)
        Operations(self.engine).limit("default", max_unfinished=None, max_running=MOST_RUNNING)
        self.held: list[Claim] = []
        self.fenced: list[Claim] = []
        self.known: dict[str, str] = {}
        self.draining = False

    @rule(priority=st.sampled_from(list(Priority)))
    def create(self, priority: Priority) -> None:
        if len(self.known) < 5:
            job = self.jobs.create(spec(training={"max_steps": 4, "batch_size": 8}), priority=priority)
            self.known[job.id] = job.status

    @rule(pick=st.randoms())
    def claim(self, pick: random.Random) -> None:
        self.let_time_pass()  # what hypothesis chooses from must not depend on how fast this machine is, or on ids
        ready = sorted(self.leases.ready(QUEUES, limit=20), key=self._place)
        if not ready:
            return
        found = self.leases.claim(pick.choice(ready), worker="w")
        assert (found is None) == self.draining
        if found is not None:
            assert found.stage_id not in {one.stage_id for one in self.held}, "two hold one stage"
            self.held.append(found)

    def _place(self, stage_id: str) -> tuple[int, str]:
        job_id, _, name = stage_id.rpartition(".")
        return list(self.known).index(job_id), name

    @precondition(lambda self: self.held)
    @rule(pick=st.randoms(), outcome=st.sampled_from(OUTCOMES))
    def finish(self, pick: random.Random, outcome: Outcome) -> None:
        claim = self.held.pop(pick.randrange(len(self.held)))
        if self.jobs.get(claim.job_id).status == JobStatus.CANCELLING and outcome.status == "released":
            outcome = Outcome(status="cancelled", reason="cancelled", reason_class=ReasonClass.USER_REQUEST)
        self.leases.finish(claim, outcome)
        self.fenced.append(claim)

    @precondition(lambda self: self.held)
    @rule(pick=st.randoms())
    def lose_the_lease(self, pick: random.Random) -> None:
        claim = self.held.pop(pick.randrange(len(self.held)))
        with self.engine.begin() as connection:
            late = text("UPDATE stages SET lease_until = now() - interval '1 s' WHERE id = :id")
            connection.execute(late, {"id": claim.stage_id})
        assert self.announcements.reclaim() == 1
        self.fenced.append(claim)

    @precondition(lambda self: self.fenced)
    @rule(pick=st.randoms())
    def write_though_fenced(self, pick: random.Random) -> None:
        claim = pick.choice(self.fenced)
        with pytest.raises(FencedError):
            self.leases.renew(claim)
        with pytest.raises(FencedError):
            self.leases.finish(claim, OUTCOMES[0])

    @precondition(lambda self: self.known)
    @rule(pick=st.randoms())
    def cancel(self, pick: random.Random) -> None:
        job_id = pick.choice(list(self.known))
        if self.jobs.get(job_id).status in JOB_ENDED:
            with pytest.raises(ConflictError):
                self.jobs.cancel(job_id)
        else:
            self.jobs.cancel(job_id)

    @precondition(lambda self: self.known)
    @rule(pick=st.randoms())
    def pause(self, pick: random.Random) -> None:
        job_id = pick.choice(list(self.known))
        if self._asked(self.control.pause, job_id, allowed={JobStatus.QUEUED, JobStatus.RUNNING, *JOB_HELD}):
            runs = any(claim.job_id == job_id for claim in self.held)
            assert self.jobs.get(job_id).status == (JobStatus.PAUSING if runs else JobStatus.PAUSED)

    @precondition(lambda self: self.known)
    @rule(pick=st.randoms())
    def resume(self, pick: random.Random) -> None:
        job_id = pick.choice(list(self.known))
        if self._asked(self.control.resume, job_id, allowed={JobStatus.PAUSED}):
            assert self.jobs.get(job_id).status in (JobStatus.QUEUED, JobStatus.RUNNING)

    @precondition(lambda self: self.known)
    @rule(pick=st.randoms())
    def retry(self, pick: random.Random) -> None:
        job_id = pick.choice(list(self.known))
        if self._asked(self.control.retry, job_id, allowed={JobStatus.FAILED, JobStatus.CANCELLED}):
            job = self.jobs.get(job_id)
            assert job.status in (JobStatus.QUEUED, JobStatus.RUNNING)
            assert job.finished_at is job.reason is None

    def _asked(self, change: Callable[[str], None], job_id: str, *, allowed: set[JobStatus]) -> bool:
        """Whether the store did what it was asked for, which it does in these states and in no other."""
        if self.jobs.get(job_id).status in allowed:
            change(job_id)
            return True
        with pytest.raises(ConflictError):
            change(job_id)
        return False

    @rule()
    def let_time_pass(self) -> None:
        with self.engine.begin() as connection:
            for table in ("stages", "outbox"):
                connection.execute(text(f"UPDATE {table} SET available_at = now()"))

    @rule()
    def dispatch(self) -> None:
        self.announcements.admit()
        self.announcements.send(lambda queue, stage, priority: None)

    @rule(on=st.booleans())
    def drain(self, on: bool) -> None:
        Operations(self.engine).drain(on)
        self.draining = on

    @invariant()
    def the_table_is_kept(self) -> None:
        for job_id, before in self.known.items():
            job = self.jobs.get(job_id)
            assert job.status == before or self._reachable(before, job.status), f"{before} to {job.status}"
            self.known[job_id] = job.status
            assert (job.status in JOB_ENDED) == (job.finished_at is not None)
            running = {stage.id for stage in job.stages if stage.status == StageStatus.RUNNING}
            assert running == {claim.stage_id for claim in self.held if claim.job_id == job_id}
            if job.status in JOB_HELD:
                assert StageStatus.READY not in {stage.status for stage in job.stages}
            if job.status in JOB_ENDED:
                assert {stage.status for stage in job.stages} <= STAGE_ENDED
                assert job.reason or job.status == JobStatus.SUCCEEDED

    @invariant()
    def limits_are_kept(self) -> None:
        admitted = text("SELECT count(*) FROM jobs WHERE admitted_at IS NOT NULL AND finished_at IS NULL")
        with self.engine.connect() as connection:
            assert (connection.scalar(admitted) or 0) <= MOST_RUNNING

    def _reachable(self, old: str, new: str) -> bool:
        seen, front = set(), {JobStatus(old)}
        while front:
            seen |= front
            front = {after for status in front for after in JOB_TRANSITIONS[status]} - seen
        return JobStatus(new) in seen

    def teardown(self) -> None:
        """Nothing disturbs any more: every job ends."""
        if not hasattr(self, "known"):
            return
        Operations(self.engine).drain(False)
        for claim in self.held:
            self.leases.finish(claim, OUTCOMES[0])
        self.held, self.draining = [], False
        for job_id in self.known:
            if self.jobs.get(job_id).status == JobStatus.PAUSED:
                self.control.resume(job_id)
        for _ in range(40):
            self.let_time_pass()
            self.dispatch()
            for stage_id in self.leases.ready(QUEUES):
                found = self.leases.claim(stage_id, worker="w")
                assert found is not None
                self.leases.finish(found, OUTCOMES[0])
        assert all(self.jobs.get(job_id).status in JOB_ENDED for job_id in self.known)


@pytest.fixture
def machine(engine: Engine, settings: Settings) -> Iterator[type[Lifecycle]]:
    # Leases are lost when a rule says so, and not because the machine is slow.
    patient = settings.model_copy(update={"lease_seconds": 600})
    yield type("Lifecycle", (Lifecycle,), {"engine": engine, "settings": patient, "TestCase": None})


def test_whatever_happens_the_table_is_kept_and_every_job_ends(machine: type[Lifecycle]) -> None:
    options = settings_for(examples=20, steps=30)
    run_state_machine_as_test(machine, settings=options)  # type: ignore[no-untyped-call]


PLANTED: dict[str, tuple[Any, str, Any]] = {
    "admission miscounts what runs": (limits, "_running", lambda session, project_id: 0),
    "a paused job's stages stay ready": (advance, "_hold", lambda session, job, stages: None),
}


@pytest.mark.parametrize("error", PLANTED)
def test_a_planted_error_is_found(machine: type[Lifecycle], monkeypatch: pytest.MonkeyPatch, error: str) -> None:
    monkeypatch.setattr(*PLANTED[error])
    with pytest.raises(AssertionError):
        run_state_machine_as_test(machine, settings=settings_for(examples=25, steps=30))  # type: ignore[no-untyped-call]


def settings_for(*, examples: int, steps: int) -> settings:
    return settings(
        max_examples=examples,
        stateful_step_count=steps,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
