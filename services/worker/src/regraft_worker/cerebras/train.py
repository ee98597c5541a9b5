"""Stage `train` on a Cerebras cluster: the vendor's client is started, watched, and started again where it has to be.

What the stage knows it can find out again: leftovers of earlier attempts by their labels, checkpoints by their files.
So an attempt begins by ending the jobs of those before it and by taking in what they saved, whoever died in between;
when the last step is among that, nothing is run again. A cluster that does not answer is waited for, for days if need
be: that is a condition and no failure. What the client itself dies of is a failure, of the class that says who can
mend it.

When not to use it: for a params file of the user's own; that is `regraft run CSX`.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path

from regraft.cerebrassite import CerebrasSite
from regraft.errors import InterruptedStageError, InvalidInputError
from regraft.jobs import ReasonClass
from regraft.ports import Progress
from regraft.specs import CerebrasTargetSpec, TrainResult, TrainTask
from regraft.storage import local_path, to_uri
from regraft_worker.cerebras.away import Away
from regraft_worker.cerebras.client import Client, killed_by
from regraft_worker.cerebras.csctl import Csctl, UnreachableError
from regraft_worker.cerebras.marks import Ending, by_hand, labels_of, of_stage
from regraft_worker.cerebras.observing import Looking, Told
from regraft_worker.cerebras.pickup import Settled, moved_to, register
from regraft_worker.cerebras.quiet import stop_if_asked
from regraft_worker.cerebras.start import START, Asked, carries_position, lay_out, new_folder, runs_folder
from regraft_worker.cerebras.states import ApplianceError, Failure
from regraft_worker.conversion.work import link
from regraft_worker.trainer import checkpoint
from regraft_worker.trainer.folders import step_folder
from regraft_worker.trainer.handover import announce_handover
from regraft_worker.trainer.identity import continued_state, fresh_state
from regraft_worker.trainer.inputs import Inputs, open_inputs
from regraft_worker.trainer.loop import result_of, say_again
from regraft_worker.trainer.retention import prune, remove_drafts

_TICK = 0.2
_MORE_SECONDS = 60.0
"""Asked for again and again while a pause waits for a checkpoint."""
_END_SECONDS = 30.0
"""How long a stage that stops tries to end its jobs; what is left then is ended by label, by whoever comes next."""


def train(task: TrainTask, progress: Progress, *, site: CerebrasSite) -> TrainResult:
    """Train up to `max_steps`, going on from the newest whole checkpoint, wherever it was made.

    Raises:
        InvalidInputError: the site, the release or the places do not fit the job.
        InvalidDataError: an input, or what the client saved, is not what it should be.
        ApplianceError: the client failed.
        InterruptedStageError: asked to stop; the cluster's jobs are ended.
    """
    assert isinstance(task.target, CerebrasTargetSpec), "it has this stage's kind"
    check_site(task.target, site)
    with open_inputs(task) as inputs:
        return _Run(task, inputs, progress, site).finish()


def check_site(target: CerebrasTargetSpec, site: CerebrasSite) -> None:
    """Refuse what the site does not have.

    Raises:
        InvalidInputError: naming the setting or the field.
    """
    if missing := site.missing():
        raise InvalidInputError(
            "; ".join(missing), field="REGRAFT_CEREBRAS_CLIENT", value=site.client, remedy="See `regraft doctor`."
        )
    if target.release not in (None, site.release):
        raise InvalidInputError(
            f"this site has release {site.release}",
            field="target.release",
            value=target.release,
            remedy="Leave it out.",
            reason="target_not_available",
        )


class _Run:
    """One attempt."""

    def __init__(self, task: TrainTask, inputs: Inputs, progress: Progress, site: CerebrasSite) -> None:
        assert isinstance(task.target, CerebrasTargetSpec), "checked"
        self.task, self.inputs, self.progress, self.site = task, inputs, progress, site
        self.run = local_path(task.output_uri, field="output_uri")
        attempt = task.attempt or by_hand(str(self.run), stage="train")
        self.asked = Asked(
            training=task.training.model_copy(update={"max_steps": inputs.max_steps}),
            target=task.target,
            description=inputs.description,
            length=inputs.train.parts[0].dataset.max_sequence_length,
            data_dir=local_path(task.dataset_uri, field="dataset_uri"),
            site=site,
            attempt=attempt,
            labels=labels_of(attempt),
            priority=task.priority,
        )
        self.csctl = Csctl(site)
        self.away = Away(progress, self.csctl, site)
        self.ending = Ending(self.csctl, poll_seconds=site.poll_seconds)
        self.state = fresh_state(task, inputs)
        self.paused_at: int | None = None

    def finish(self) -> TrainResult:
        """All that is left to do."""
        runs = runs_folder(self.asked, self.run)
        remove_drafts(self.run)
        self.away.insist(self._end_leftovers)
        self._go_on_from_newest(told=False)
        self._take_in(runs)
        while self.state.step < self.inputs.max_steps:
            stop_if_asked(self.progress)
            self._session()
        _tidy(runs)
        return result_of(self.run, self.state)

    def _go_on_from_newest(self, *, told: bool) -> None:
        newest = checkpoint.latest(self.run, progress=self.progress)
        if newest is None:
            return
        self.state = continued_state(self.task, self.inputs, newest)
        if not told:
            say_again(self.run, newest, self.progress, total=self.inputs.max_steps)

    def _take_in(self, runs: Path) -> None:
        """What earlier attempts saved and did not live to tell of; not what another target has gone past since."""
        newest = checkpoint.latest(self.run) if self.state.step else None
        elsewhere = newest is not None and checkpoint.read_state(newest).target.kind != self.task.target.kind
        since = newest.stat().st_mtime if newest is not None and elsewhere else 0.0
        for folder in sorted(runs.glob("????????-*")) if runs.is_dir() else []:
            if folder.stat().st_mtime < since:
                continue
            told = self._told()
            for log in sorted({path.resolve() for path in folder.rglob("run*.log")}):
                told.take(log.read_bytes(), ended=True)
            self._pick_up_rest(folder, told, Settled(settle_seconds=0))
        _tidy(runs)

    def _told(self) -> Told:
        newest = step_folder(self.run, self.state.step)
        reports = checkpoint.read_reports(newest) if self.state.step else ()
        return Told(
            self.progress, self.asked.training, length=self.asked.length, reports=reports, start=self.state.step
        )

    def _session(self) -> None:
        """One life of the client."""
        start = checkpoint.latest(self.run, progress=self.progress)
        folder = new_folder(self.asked, self.run)
        if start is not None:
            position = carries_position(self.site.release, self.asked.training)
            announce_handover(checkpoint.read_state(start), self.task.target, self.progress, position=position)
            self.progress.event(f"going on from step {self.state.step}", data={"step": self.state.step})
        words = lay_out(self.asked, folder, base=self.inputs.base, start=start, progress=self.progress)
        told, settled = self._told(), Settled(settle_seconds=self.site.settle_seconds)
        client = Client(words, folder=folder)
        try:
            self._watch(client, told, settled, folder)
        except InterruptedStageError:
            self._stop(client, told)
            raise
        finally:
            told.take(client.close(), ended=True)
        self._pick_up_rest(folder, told, settled)
        status = client.status
        assert status is not None, "it has ended"
        self._judge(status, told, folder)

    def _watch(self, client: Client, told: Told, settled: Settled, folder: Path) -> None:
        looking = Looking(self.progress, self.csctl, self.site, labels=self.asked.labels, folder=folder)
        next_pick = 0.0
        while client.status is None:
            told.take(client.output(_TICK))
            looking.look(told)
            if told.saved or time.monotonic() >= next_pick:
                told.saved, next_pick = False, time.monotonic() + self.site.poll_seconds
                if whole := settled.whole(folder, after=self.state.step):
                    told.take(client.output(_TICK))  # losses and scores that go with them, said since we read last
                    self._pick_up(whole, folder, told)
            self._check_stop(waits=told.begun)

    def _check_stop(self, *, waits: bool) -> None:
        """Raise when it is time to stop: at once, or for a pause once there is a checkpoint that is newer than it."""
        if not self.progress.should_stop():
            return
        self.paused_at = self.state.step if self.paused_at is None else self.paused_at
        if waits and self.state.step == self.paused_at and self.progress.postpone_stop(_MORE_SECONDS):
            return
        raise InterruptedStageError("stopped; calling again goes on from the newest checkpoint")

    def _stop(self, client: Client, told: Told) -> None:
        """SIGINT, then an end to every job that still has our label; the client may have ended some."""
        client.interrupt()
        deadline = time.monotonic() + self.site.interrupt_seconds
        while client.status is None and time.monotonic() < deadline:
            told.take(client.output(_TICK))
        client.kill()
        deadline = time.monotonic() + _END_SECONDS

        def check() -> None:
            self.progress.should_stop()  # says that we live
            if time.monotonic() > deadline:
                raise UnreachableError("the cluster does not confirm the end of its jobs")

        try:
            self.ending.end(of_stage(self.asked.attempt), check=check)
        except UnreachableError as error:
            text = f"jobs of the cluster may be left, and will be ended by their label: {error.message}"
            self.progress.event(text, level="warn", data={"labels": dict(self.asked.labels)})

    def _pick_up_rest(self, folder: Path, told: Told, settled: Settled) -> None:
        """Register what a client that has ended left whole."""
        self._pick_up(settled.whole(folder, after=self.state.step, written=True), folder, told)

    def _pick_up(self, whole: Iterable[tuple[int, Path]], folder: Path, told: Told) -> None:
        """Register whole checkpoints. Links to all of them keep what the client deletes meanwhile; what it deleted
        before was too old for its own retention."""
        held = [(step, kept) for step, path in whole if (kept := _held(path, folder / START))]
        for step, kept in held:
            state = moved_to(self.state, step, loss=told.loss_at(step), tokens=told.tokens(step))
            state = state.model_copy(update={"scores": told.scores_at(step)})
            registered, self.state = register(
                kept, self.run, state, self.inputs, reports=told.up_to(step), check=lambda: self._check_stop(waits=True)
            )
            kept.unlink()
            self.progress.artifact("checkpoint", to_uri(registered), self.state.summary())
            for deleted in prune(self.run, self.state):
                self.progress.artifact("pruned", to_uri(deleted), {})

    def _judge(self, status: int, told: Told, folder: Path) -> None:
        """Success is exit status 0, the client's word, and a checkpoint of the last step."""
        if told.begun:
            self.away.over()
        if status == 0 and told.done and self.state.step == self.inputs.max_steps:
            return
        failure = told.failure or _unexplained(status, told, newest=self.state.step)
        if not self.away.explains(failure):
            raise ApplianceError(failure)
        _tidy(folder)  # the next client gets a start of its own: a long absence must not fill the disk
        self.away.wait(failure.message)
        self.away.insist(self._end_leftovers)

    def _end_leftovers(self) -> None:
        before = len(self.ending.asked)
        self.ending.end(of_stage(self.asked.attempt), check=lambda: stop_if_asked(self.progress))
        for job in self.ending.asked[before:]:
            self.progress.event(f"{job} was left over by an earlier client and was cancelled", data={"wsjob": job})


def _unexplained(status: int, told: Told, *, newest: int) -> Failure:
    if status == 0:
        what = "a checkpoint of the last step" if told.done else "saying that training was complete"
        message = f"the client ended well, but without {what}; the newest checkpoint is of step {newest}"
        return Failure(reason="appliance_incomplete", reason_class=ReasonClass.INFRASTRUCTURE, message=message)
    number = killed_by(status)
    how = f"ended with status {status}" if number is None else f"died of signal {number}"
    message = f"the client {how}; its last line: {told.last_line[:300]}"
    return Failure(reason="appliance_client_failed", reason_class=ReasonClass.INFRASTRUCTURE, message=message)


def _held(path: Path, folder: Path) -> Path | None:
    """The file under a second name in `folder`; None when it is gone."""
    folder.mkdir(exist_ok=True)
    try:
        link(path, folder / path.name)
    except FileNotFoundError:
        return None
    return folder / path.name


def _tidy(runs: Path) -> None:
    """Checkpoints in the client's folders are registered, or were no use; its logs stay."""
    for path in runs.rglob("*.mdl") if runs.is_dir() else ():
        path.unlink()
