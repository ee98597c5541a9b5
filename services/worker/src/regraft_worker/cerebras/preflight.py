"""Stage `preflight`: the vendor's client validates or compiles the job's model before anything is spent on the job.

There is no data yet, so it is shown a few windows of random ids, as long and as many as a batch of the job: what is
compiled depends on the shapes only. A compile goes to the compile folder, where the run that follows finds it.

As in training, an attempt begins by ending the jobs of those before it, and a cluster that cannot be reached is waited
for: only what the client says of the job, or dies of, is a failure.
"""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np

from regraft.cerebrassite import CerebrasSite
from regraft.checkpoint_files import locate, read_json
from regraft.errors import InterruptedStageError
from regraft.families import detect
from regraft.hdf5 import ShardWriter
from regraft.jobs import ReasonClass
from regraft.ports import Progress
from regraft.specs import CerebrasTargetSpec, PreflightResult, PreflightTask
from regraft.storage import local_path
from regraft_worker.cerebras.away import Away
from regraft_worker.cerebras.client import Client, killed_by
from regraft_worker.cerebras.csctl import Csctl, UnreachableError
from regraft_worker.cerebras.marks import Ending, by_hand, labels_of, of_stage
from regraft_worker.cerebras.observing import Looking, Told
from regraft_worker.cerebras.quiet import stop_if_asked
from regraft_worker.cerebras.start import Asked, new_folder, write_params
from regraft_worker.cerebras.states import ApplianceError, Failure
from regraft_worker.cerebras.train import check_site
from regraft_worker.conversion.cs_config import hf_config, read_section
from regraft_worker.trainer.weights import Description

_TICK = 0.2
_ANY_STEPS = 1000
"""Where the job leaves the number of steps to the data: it does not change what is compiled."""


def preflight(task: PreflightTask, progress: Progress, *, site: CerebrasSite) -> PreflightResult:
    """Run the stage.

    Raises:
        InvalidInputError: the release cannot be told what the job asks for, or the site lacks something.
        InvalidDataError: the base checkpoint's config is of no supported model.
        ApplianceError: the client refuses the job.
        InterruptedStageError: asked to stop.
    """
    assert isinstance(task.target, CerebrasTargetSpec), "only such jobs have this stage"
    check_site(task.target, site)
    output = local_path(task.output_uri, field="output_uri")
    asked = _asked(task, task.target, site, output)
    _write_windows(asked)
    csctl = Csctl(site)
    away, ending = Away(progress, csctl, site), Ending(csctl, poll_seconds=site.poll_seconds)

    def end_leftovers() -> None:
        ending.end(of_stage(asked.attempt), check=lambda: stop_if_asked(progress))

    away.insist(end_leftovers)
    while failure := _failure_of_client(asked, output, progress):
        if not away.explains(failure):
            raise ApplianceError(failure)
        away.wait(failure.message)
        away.insist(end_leftovers)
    progress.event(f"the client's {task.target.preflight} passed", data={"release": site.release})
    return PreflightResult(checked=task.target.preflight, release=site.release)


def _asked(task: PreflightTask, target: CerebrasTargetSpec, site: CerebrasSite, output: Path) -> Asked:
    attempt = task.attempt or by_hand(str(output), stage="preflight")
    training = task.training
    if training.max_steps is None:
        training = training.model_copy(update={"max_steps": _ANY_STEPS})
    return Asked(
        training=training,
        target=target,
        description=_description(local_path(task.checkpoint_uri, field="base_checkpoint.uri")),
        length=task.max_sequence_length,
        data_dir=output / "windows",
        site=site,
        attempt=attempt,
        labels=labels_of(attempt),
        priority=task.priority,
    )


def _description(path: Path) -> Description:
    place = locate(path, field="base_checkpoint.uri")
    field = "base_checkpoint.uri"
    config = hf_config(read_section(place.config)) if place.is_cs else read_json(place.config, field=field)
    family = detect(config)
    return Description(config=config, family=family, architecture=family.read_config(config))


def _write_windows(asked: Asked) -> None:
    """A batch for each split, shape (B, 3, M): ids, mask, labels."""
    vocabulary, size = asked.description.architecture.vocab_size, asked.training.batch_size
    ids = np.random.default_rng(0).integers(0, vocabulary, (size, asked.length), dtype=np.int32)
    block = np.stack([ids, np.ones_like(ids), np.roll(ids, -1, axis=1)], axis=1)
    for split in ("train", "eval"):
        folder = asked.data_dir / split
        if folder.is_dir():
            continue  # of an attempt before
        part = folder.with_name(f".{split}-{time.time_ns()}")
        part.mkdir(parents=True)
        with ShardWriter(part, max_sequence_length=asked.length) as writer:
            writer.write(block)
        part.rename(folder)


def _failure_of_client(asked: Asked, output: Path, progress: Progress) -> Failure | None:
    """One life of the client; None: it passed the job."""
    folder = new_folder(asked, output)
    only = asked.target.preflight
    words = write_params(asked, folder, checkpoint=None, resume=False, progress=progress, only=only)
    told = Told(progress, asked.training, length=asked.length)
    status = _run(words, asked, folder, told, progress)
    return (told.failure or _unexplained(status, told)) if status else None


def _run(words: list[str], asked: Asked, folder: Path, told: Told, progress: Progress) -> int:
    """Exit status of the client."""
    looking = Looking(progress, Csctl(asked.site), asked.site, labels=asked.labels, folder=folder)
    client = Client(words, folder=folder)
    try:
        while client.status is None:
            told.take(client.output(_TICK))
            looking.look(told)
            stop_if_asked(progress)
    except InterruptedStageError:
        client.interrupt()
        _end_jobs(asked, client, progress)
        raise
    finally:
        told.take(client.close(), ended=True)
    assert client.status is not None, "it has ended"
    return client.status


def _end_jobs(asked: Asked, client: Client, progress: Progress) -> None:
    deadline = time.monotonic() + asked.site.interrupt_seconds
    while client.status is None and time.monotonic() < deadline:
        client.output(_TICK)
    client.kill()
    ending = Ending(Csctl(asked.site), poll_seconds=asked.site.poll_seconds)
    try:
        ending.end(of_stage(asked.attempt), check=lambda: None)
    except UnreachableError as error:
        progress.event(f"jobs of the cluster may be left: {error.message}", level="warn")


def _unexplained(status: int, told: Told) -> Failure:
    """Whoever is killed has refused nothing."""
    last = f"its last line: {told.last_line[:300]}"
    if (number := killed_by(status)) is not None:
        message = f"the client died of signal {number}; {last}"
        return Failure(reason="appliance_client_failed", reason_class=ReasonClass.INFRASTRUCTURE, message=message)
    message = f"the client refused the job with status {status}; {last}"
    return Failure(reason="preflight_failed", reason_class=ReasonClass.USER_ERROR, message=message)
