"""A cluster that falls silent while checkpoints are fetched, a client that hangs, runs that end while nobody looks.

Every client starts Python and torch anew, which is most of the time that these tests take.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import tiny_runs
from cerebras_runs import Cluster, Watched, farthest, soon

from regraft.errors import InterruptedStageError
from regraft.specs import TrainResult
from regraft_worker.trainer import loop
from regraft_worker.trainer.checkpoint import read_state

TOLERANCE = 1e-5
OPTIONS = {"evaluate": {"every_steps": 6, "at_start": False}}
FOREVER = 1e6
SILENT = "csctl did not answer"
SAVED = [f"step-{step:08d}" for step in (3, 6, 9, 12)]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inputs")
    tiny_runs.write_model(folder / "base")
    tiny_runs.write_dataset(folder / "dataset")
    return folder


@pytest.fixture(scope="module")
def expected(inputs: Path) -> TrainResult:
    """The same run on the processor."""
    return loop.train(tiny_runs.task(inputs, inputs / "cpu", **OPTIONS))


def silent_cluster(folder: Path, inputs: Path, *, release: str = "2.10", **asked: object) -> Cluster:
    """One whose client tries forever to reach it, and whose jobs outlive a silent client."""
    cluster = Cluster(folder, inputs, release=release, retry_seconds_real=FOREVER, drop_seconds_real=FOREVER, **asked)
    cluster.appliance.set(lease_seconds_real=300.0)
    cluster.site = cluster.site.model_copy(update={"ask_seconds": 1.0})
    return cluster


def silences(said: Watched) -> int:
    """How often the cluster was found to be silent."""
    return sum(message.startswith(SILENT) for reason, message in said.conditions if reason == "appliance_unreachable")


class Silence:
    """The cluster is silent from when this is made until it was asked twice and `saved` was registered.

    The client gets no further than to the middle of the checkpoint that is held, now and after (`then_hold`).
    """

    def __init__(self, cluster: Cluster, said: Watched, *, saved: list[str], then_hold: int) -> None:
        cluster.appliance.set(reachable=False, csctl="hang")
        self.cluster, self.saved, self.then_hold = cluster, saved, then_hold
        self.until, self.over = silences(said) + 2, False

    def look(self, said: Watched) -> None:
        """Let it end when it is time; the client must have borne it."""
        if self.over or silences(said) < self.until:
            return
        self.over = said.checkpoints == self.saved
        assert self.over or silences(said) < self.until + 20, "nothing is fetched from a cluster that is silent"
        if self.over:
            assert self.cluster.clients()
            self.cluster.appliance.set(reachable=True, csctl="ok", hold_checkpoint=self.then_hold)


class Stopping(Watched):
    """Stops this process once, as a machine that freezes does: when the client is in the middle of checkpoint 6.

    That is where most can be missed: after the client's output was read, and before its files are looked for.
    """

    def __init__(self, cluster: Cluster) -> None:
        super().__init__()
        self.cluster, self.seen = cluster, 0

    def condition(self, reason: str, message: str) -> None:
        super().condition(reason, message)
        held = any(path.stat().st_size for path in self.cluster.output.rglob("checkpoint_6.mdl*"))
        self.seen += held and SAVED[0] in self.checkpoints
        if self.seen == 2:  # all that was said before has been read
            self.seen += 1
            os.kill(os.getpid(), signal.SIGSTOP)


def test_a_cluster_may_fall_silent_while_checkpoints_are_fetched(
    inputs: Path, tmp_path: Path, expected: TrainResult
) -> None:
    """Half a file is not taken for one; a whole one is fetched, for its storage is not the cluster's."""
    cluster = silent_cluster(tmp_path, inputs, release="2.4", hold_checkpoint=3)
    cluster.site = cluster.site.model_copy(update={"settle_seconds": 1.0})
    half: list[Silence] = []
    whole: list[Silence] = []

    def steer(said: Watched) -> bool:
        if not half and any(path.stat().st_size for path in cluster.output.rglob("checkpoint_3.mdl")):
            half.append(Silence(cluster, said, saved=[], then_hold=9))
        if not whole and list(cluster.output.rglob("checkpoint_6.mdl")):
            assert SAVED[1] not in said.checkpoints
            whole.append(Silence(cluster, said, saved=SAVED[:2], then_hold=0))
        for silence in (*half, *whole):
            silence.look(said)
        return False

    said = Watched(steer)
    found = cluster.train(said)
    assert [silence.over for silence in (*half, *whole)] == [True, True]
    assert farthest(expected.uri, found.uri) < TOLERANCE
    assert said.checkpoints == SAVED
    assert cluster.phases() == [("compile", "SUCCEEDED"), ("execute", "SUCCEEDED")]  # nothing was run again
    assert cluster.cancels() == []
    assert len(cluster.appliance.calls()) < 200  # no busy loop


def test_a_stop_of_a_client_that_hangs_leaves_a_job_that_is_cancelled_exactly_once(
    inputs: Path, tmp_path: Path
) -> None:
    """Nothing can be cancelled while the cluster is away; the next attempt does it, before it starts anything."""
    cluster = silent_cluster(tmp_path, inputs, drop_at_step=5, sigint="ignored")
    cluster.site = cluster.site.model_copy(update={"interrupt_seconds": 0.2})

    def hangs(said: Watched) -> bool:
        """Not before the client has started: it would not."""
        stop = "appliance_unreachable" in said.reasons and SAVED[0] in said.checkpoints
        if stop:
            cluster.appliance.set(csctl="hang")
        return stop

    said = Watched(hangs)
    with pytest.raises(InterruptedStageError):
        cluster.train(said)
    assert not cluster.clients()
    assert [data for text, data in said.events if SILENT in text and "will be ended by their label" in text]
    assert cluster.cancels() == []
    assert cluster.phases()[-1] == ("execute", "RUNNING")
    (orphan,) = (job["id"] for job in cluster.appliance.jobs() if job["phase"] == "RUNNING")

    cluster.appliance.set(csctl="unavailable")
    cluster.site = cluster.site.model_copy(update={"ask_seconds": 10.0})

    def back(said: Watched) -> bool:
        if "appliance_unreachable" in said.reasons:
            cluster.appliance.set(reachable=True, csctl="ok")
        started = len(cluster.appliance.jobs()) > 2
        return started or any("was left over" in text for text, _ in said.events)

    again = Watched(back)
    with pytest.raises(InterruptedStageError):
        cluster.train(again, epoch=2)
    assert again.reasons[0] == "appliance_unreachable"
    assert cluster.cancels() == [orphan]
    assert cluster.phases() == [("compile", "SUCCEEDED"), ("execute", "CANCELLED")]
    assert [job.get("cancels", 0) for job in cluster.appliance.jobs()] == [0, 1]


@pytest.mark.parametrize("then", [signal.SIGKILL, signal.SIGCONT])
def test_a_run_that_ends_while_its_stage_is_stopped_is_taken_over(
    then: signal.Signals, inputs: Path, tmp_path: Path, expected: TrainResult
) -> None:
    """The client goes on without us to the end; the stage is then killed, or goes on. Nothing is trained again."""
    cluster = Cluster(tmp_path, inputs, hold_checkpoint=6)
    with stopped_stage(cluster) as pid:
        assert cluster.phases()[-1] == ("execute", "RUNNING")
        cluster.appliance.set(hold_checkpoint=0)
        soon(lambda: cluster.phases()[-1] == ("execute", "SUCCEEDED") and not cluster.clients())
        ran = cluster.appliance.jobs()
        assert saved_by_us(cluster) == SAVED[:1]
        os.kill(pid, then)
        status = os.waitpid(pid, 0)[1]
    goes_on = then == signal.SIGCONT
    assert status == (0 if goes_on else signal.SIGKILL)
    assert saved_by_us(cluster) == (SAVED if goes_on else SAVED[:1])
    assert cluster.appliance.jobs() == ran

    said = Watched()
    found = cluster.train(said, epoch=2)
    assert cluster.appliance.jobs() == ran
    assert cluster.cancels() == []
    assert farthest(expected.uri, found.uri) < TOLERANCE
    assert (found.step, found.train_loss) == (12, pytest.approx(expected.train_loss, abs=1e-5))
    assert sorted(said.metrics["train_loss"]) == list(range(1, 13))
    losses = {step: read_state(cluster.output / f"step-{step:08d}").train_loss for step in (3, 6, 9, 12)}
    assert losses == {step: said.metrics["train_loss"][step] for step in losses}
    assert saved_by_us(cluster) == SAVED


@contextmanager
def stopped_stage(cluster: Cluster) -> Iterator[int]:
    """Process id of a stage that was stopped, see `Stopping`; it does not outlive this."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            cluster.train(Stopping(cluster))
            status = 0
        finally:
            os._exit(status)
    try:
        assert os.WIFSTOPPED(os.waitpid(pid, os.WUNTRACED)[1])
        yield pid
    finally:
        with suppress(ChildProcessError):  # it was waited for
            if os.waitpid(pid, os.WNOHANG) == (0, 0):
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)


def saved_by_us(cluster: Cluster) -> list[str]:
    """Checkpoints of the run, without those of the client."""
    return sorted(path.name for path in cluster.output.glob("step-*"))
