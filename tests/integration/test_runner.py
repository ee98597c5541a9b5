"""The supervisor with real child processes and a real PostgreSQL: every way a stage can end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine, text

from helpers import eventually, spec
from regraft.jobstore import Jobs, Leases
from regraft.models import Job, Stage
from regraft.runner import Supervisor
from regraft.settings import Settings


@pytest.fixture(autouse=True)
def saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    monkeypatch.setenv("SAVED", str(tmp_path / "saved"))
    return tmp_path / "saved"


@pytest.fixture
def jobs(engine: Engine) -> Jobs:
    return Jobs(engine)


@pytest.fixture
def supervisor(engine: Engine, settings: Settings) -> Supervisor:
    return Supervisor(leases=Leases(engine, settings), settings=settings, worker="w1", module="stage_double")


@pytest.fixture
def running(supervisor: Supervisor) -> Iterator[list[threading.Thread]]:
    threads: list[threading.Thread] = []
    yield threads
    supervisor.drain.set()
    for thread in threads:
        thread.join(30)


def job_that(jobs: Jobs, act: str) -> Job:
    return jobs.create(spec(dataset={"uri": act}))


def prepare_of(jobs: Jobs, job: Job) -> Stage:
    return jobs.get(job.id).stages[0]


def run(supervisor: Supervisor, jobs: Jobs, act: str) -> Stage:
    job = job_that(jobs, act)
    supervisor.run(f"{job.id}.prepare")
    return prepare_of(jobs, job)


def in_background(supervisor: Supervisor, job: Job, running: list[threading.Thread]) -> threading.Thread:
    thread = threading.Thread(target=supervisor.run, args=(f"{job.id}.prepare",))
    running.append(thread)
    thread.start()
    return thread


def test_what_a_stage_says_is_stored(supervisor: Supervisor, jobs: Jobs, settings: Settings) -> None:
    stage = run(supervisor, jobs, "good")
    assert stage.status == "succeeded"
    assert stage.result is not None
    assert stage.result["uri"] == "file:///made"
    assert stage.progress is not None
    assert (stage.progress["step"], stage.progress["percent"]) == (2, 100.0)
    metrics, _ = jobs.metrics(stage.job_id, names=[], after=None, limit=10)
    assert [(row.step, row.value, row.tokens_seen) for row in metrics] == [(1, 5.0, 10), (2, 4.0, 20)]
    assert "halfway" in [event.message for event in jobs.events(stage.job_id, after=0, limit=50)[0]]
    assert jobs.artifacts(stage.job_id, kinds=["dataset"], after=None, limit=5)[0][0].detail == {"documents": 3}
    assert "goes to the log" in (settings.log_folder / stage.job_id / "prepare-1.log").read_text()


def test_a_stage_that_found_its_result_is_cached(supervisor: Supervisor, jobs: Jobs) -> None:
    assert run(supervisor, jobs, "cached").status == "cached"


def test_a_refusal_keeps_field_value_and_remedy(supervisor: Supervisor, jobs: Jobs) -> None:
    stage = run(supervisor, jobs, "refuse")
    assert (stage.status, stage.reason, stage.reason_class) == ("failed", "corpus_empty", "data_error")
    assert stage.attempts[0].detail == {"field": "dataset.uri", "value": "x", "remedy": "Add some."}
    assert stage.attempts[0].exit_status == 1


@pytest.mark.parametrize(
    ("act", "reason"), [("ranks hang", "no_progress"), ("launcher vouches for ranks that hang", None)]
)
def test_a_launcher_whose_processes_hang_is_no_sign_of_life(
    supervisor: Supervisor, jobs: Jobs, act: str, reason: str | None, running: list[threading.Thread]
) -> None:
    job = job_that(jobs, act)
    thread = in_background(supervisor, job, running)
    eventually(lambda: prepare_of(jobs, job).progress, what="the first word")  # before which nothing is asked of it
    supervisor.settings.hang_seconds = 2.0
    thread.join(30)
    assert prepare_of(jobs, job).attempts[0].reason == reason


@pytest.mark.parametrize(
    ("act", "reason", "reason_class"), [("full disk", "disk_full", "capacity"), ("deaf", "cancelled", "user_request")]
)
def test_other_ends_have_their_reason(
    supervisor: Supervisor, jobs: Jobs, act: str, reason: str, reason_class: str, running: list[threading.Thread]
) -> None:
    supervisor.settings = supervisor.settings.model_copy(update={"stop_seconds": 0.5})
    job = job_that(jobs, act)
    thread = in_background(supervisor, job, running)
    if act == "deaf":
        eventually(lambda: prepare_of(jobs, job).progress, what="the first step")
        jobs.cancel(job.id)
    thread.join(30)
    stage = prepare_of(jobs, job)
    assert (stage.reason, stage.reason_class) == (reason, reason_class)


@pytest.mark.parametrize(("act", "reason", "number"), [("killed", "killed", 9), ("crash once", "crashed", 11)])
def test_a_crash_is_tried_again(supervisor: Supervisor, jobs: Jobs, act: str, reason: str, number: int) -> None:
    stage = run(supervisor, jobs, act)
    assert (stage.status, stage.failures) == ("ready", 1)
    assert (stage.attempts[0].reason, stage.attempts[0].signal) == (reason, number)


def test_after_a_crash_the_second_attempt_can_succeed(supervisor: Supervisor, jobs: Jobs) -> None:
    stage = run(supervisor, jobs, "crash once")

    def try_again() -> bool:
        supervisor.run(stage.id)
        return jobs.get(stage.job_id).stages[0].status == "succeeded"

    eventually(try_again, what="the second attempt")
    assert [attempt.status for attempt in jobs.get(stage.job_id).stages[0].attempts] == ["failed", "succeeded"]


def test_a_fault_of_ours_shows_no_traceback_but_logs_it(supervisor: Supervisor, jobs: Jobs, settings: Settings) -> None:
    stage = run(supervisor, jobs, "fault")
    attempt = stage.attempts[0]
    assert attempt.reason == "crashed"
    assert "secret detail" not in str(attempt.message)
    assert "ZeroDivisionError" in (settings.log_folder / stage.job_id / "prepare-1.log").read_text()


def test_cancelling_lets_the_stage_save_first(
    supervisor: Supervisor, jobs: Jobs, saved: Path, running: list[threading.Thread]
) -> None:
    job = job_that(jobs, "endless")
    thread = in_background(supervisor, job, running)
    eventually(lambda: prepare_of(jobs, job).progress, what="the first step")
    jobs.cancel(job.id)
    thread.join(30)
    assert saved.read_text() == "saved"
    assert jobs.get(job.id).status == "cancelled"


def test_a_draining_worker_saves_and_hands_back(
    supervisor: Supervisor, jobs: Jobs, saved: Path, running: list[threading.Thread]
) -> None:
    job = job_that(jobs, "endless")
    thread = in_background(supervisor, job, running)
    eventually(lambda: prepare_of(jobs, job).progress, what="the first step")
    supervisor.drain.set()
    thread.join(30)
    assert saved.read_text() == "saved"
    stage = prepare_of(jobs, job)
    assert (stage.status, stage.failures, stage.attempts[0].status) == ("ready", 0, "released")


def test_a_supervisor_that_lost_its_lease_kills_its_child_and_writes_nothing(
    supervisor: Supervisor, jobs: Jobs, saved: Path, engine: Engine, running: list[threading.Thread]
) -> None:
    job = job_that(jobs, "deaf")
    thread = in_background(supervisor, job, running)
    pid = int(eventually(lambda: saved.exists() and saved.read_text(), what="the child"))
    with engine.begin() as connection:
        connection.execute(text("UPDATE stages SET epoch = epoch + 1 WHERE status = 'running'"))
    thread.join(30)
    assert not thread.is_alive()
    assert not Path(f"/proc/{pid}").exists()
    assert prepare_of(jobs, job).status == "running"


def test_the_child_dies_with_its_supervisor(
    jobs: Jobs, settings: Settings, saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = job_that(jobs, "deaf")
    program = (
        "import sys; from regraft.jobstore import Leases, make_engine; from regraft.runner import Supervisor;"
        "from regraft.settings import Settings; s = Settings();"
        "Supervisor(leases=Leases(make_engine(s), s), settings=s, worker='w', module='stage_double').run(sys.argv[1])"
    )
    for name in ("database_url", "redis_url", "home", "allowed_roots"):
        monkeypatch.setenv(f"REGRAFT_{name.upper()}", str(getattr(settings, name)))
    process = subprocess.Popen([sys.executable, "-c", program, f"{job.id}.prepare"])
    child = int(eventually(lambda: saved.exists() and saved.read_text(), what="the child"))
    process.send_signal(signal.SIGKILL)
    process.wait()
    eventually(lambda: not Path(f"/proc/{child}").exists(), seconds=10, what="the child's death")
    assert child != os.getpid()
